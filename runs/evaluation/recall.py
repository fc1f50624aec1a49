"""The suites `recall` and `dream`: what a world model draws by itself of what it has watched.

The two tasks of Po et al. 2025 (arXiv 2505.20171): the model watches a film and goes on by itself,
told the actions, while the way leads back to what was watched (retrieval) or simply on (reasoning).
`recall` measures both, `dream` the second alone, which any environment with pictures can be asked.

Beside the dream stand what it must be better than: the last watched frame kept standing, the mean
of the watched frames, and the same dreamer with its memory off, told shuffled actions, and shown
nothing but the first frame: who is no better than with that alone only adds up actions, and has
remembered nothing of what was watched. Dreams are the likeliest ones, not sampled ones.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from agent.agent import Agent
from runs.evaluation import perceptual
from runs.evaluation.play import drawing, new_streams
from runs.evaluation.recall_view import WAYS, figures, headline, sheets
from runs.evaluation.statistics import mean_ci
from runs.evaluation.suite import Budget, Report, Subject, Suite, Tell, needs_model
from runs.evaluation.walks import POSE, Walks, ages, walk
from worldmodel.codec import ImageCodec
from worldmodel.dream import dream, frame_quality

BEST = 99.0  # dB; a perfect frame has infinitely many, which no mean and no JSON can take
WATCHED, DREAMED = 200, 200  # frames
MOST_ROWS, AT_ONCE = 32, 16
SIDE = 11  # pixels of SSIM's window
AGES = (1, 25, 50, 100, 200, 300, 400, 800)  # frames; between two of them ages are put together
TASKS = ("retrieval", "reasoning")


class Dreamer(Protocol):
    """Whoever watches and then goes on alone; all tensors are (rows, frames, ...)."""

    def dream(self, frames: Tensor, led: Tensor, actions: Tensor, forget: bool) -> Tensor:
        """The pictures after `frames`, to which the actions `led`, and on from which `actions` do.

        With `forget`, each picture is all that is known after it.
        """
        ...

    def draw(self, frames: Tensor) -> Tensor:
        """Pictures as well as it can draw them, while it sees them."""
        ...


class ModelDreamer:
    """An agent's world model."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self.model = agent, agent.model
        self.name = self.model.codec.names[0]

    @torch.no_grad()
    def dream(self, frames: Tensor, led: Tensor, actions: Tensor, forget: bool) -> Tensor:
        """Watch, and dream on."""
        parts = zip(*(a.split(AT_ONCE) for a in (frames, led, actions)), strict=True)
        return torch.cat([self._dream(a, b, c, forget) for a, b, c in parts])

    def _dream(self, frames: Tensor, led: Tensor, actions: Tensor, forget: bool) -> Tensor:
        if forget:
            frames, led = frames[:, -1:], led[:, -1:]
        frames, led, actions = (a.to(self.agent.device) for a in (frames, led, actions))
        first = torch.zeros(frames.shape[:2], dtype=torch.bool, device=frames.device)
        first[:, 0] = True
        before = self.model.initial(len(frames))
        watch = self.model.observe({self.name: frames}, led, first, before, None, True)
        steps = dream(self.model, watch[1], actions.unbind(1), True, forget)
        return torch.stack([self._picture(step.latents) for step in steps], 1)

    def _picture(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents)[self.name].cpu()

    @torch.no_grad()
    def draw(self, frames: Tensor) -> Tensor:
        """Encode each by itself, and decode it."""
        flat = frames.flatten(0, 1).split(256)
        drawn = [self._picture(self.model.encode({self.name: part})) for part in flat]
        return torch.cat(drawn).view(frames.shape)


def missing(subject: Subject) -> str:
    """What `recall` lacks."""
    if lacks := missing_pictures(subject):
        return lacks
    with new_streams(subject.config, 1, seed=0, infos=POSE) as streams:
        if not (streams.reset().infos[0].keys() >= set(POSE) and streams.has_retrace()):
            return (
                f"{subject.config.env} cannot lead back to what was watched, or does not say where "
                "it was: it needs `retrace(watched, rng)`, and agent_pos and agent_dir in its info "
                "(clew/MemoryMaze and clew/LedMaze have them); the suite `dream` does without"
            )
    return ""


def missing_pictures(subject: Subject) -> str:
    """What both suites lack where observations are not pictures."""
    if lacks := needs_model(subject):
        return lacks
    codec = subject.agent.model.codec
    if codec.names != codec.images:
        return (
            f"{subject.config.env} is not observed by one picture alone (but by {codec.shapes}), "
            "so there are no pictures to compare"
        )
    if min(codec.shapes[codec.names[0]][:2]) < SIDE:
        return f"its pictures are smaller than the {SIDE} x {SIDE} pixels that SSIM compares"
    return ""


def measure_recall(subject: Subject, budget: Budget, tell: Tell) -> Report:
    """Both tasks."""
    return _measure(subject, budget, tell, TASKS)


def measure_dream(subject: Subject, budget: Budget, tell: Tell) -> Report:
    """Reasoning alone."""
    return _measure(subject, budget, tell, ("reasoning",))


def _measure(subject: Subject, budget: Budget, tell: Tell, tasks: tuple[str, ...]) -> Report:
    rows = min(budget.episodes, MOST_ROWS)
    watched, dreamed = _lengths(subject, rows, budget)
    about = {"rows": rows, "watched": watched, "dreamed": dreamed, "lpips": perceptual.about()}
    (part,) = subject.agent.model.codec.parts
    assert isinstance(part, ImageCodec)
    found = {}
    for task in tasks:
        back = watched if task == "retrieval" else None
        length = watched + dreamed
        walks = walk(subject.agent, subject.config, rows, length, budget.seed, back, tell)
        dreamer = ModelDreamer(subject.agent)
        found[task] = compare(dreamer, walks, watched, budget.seed, part.range, tell)
    return about | {"tasks": found}


def _lengths(subject: Subject, rows: int, budget: Budget) -> tuple[int, int]:
    """How much is watched and dreamed: half and half of what most episodes have, at most."""
    most = min(WATCHED + DREAMED, budget.max_steps)
    lasts = walk(subject.agent, subject.config, rows, most, budget.seed).counts.sum(1)
    watched = max(1, min(WATCHED, int(lasts.median()) // 2))
    return watched, min(DREAMED, max(1, int(lasts.max()) - watched))


def compare(
    dreamer: Dreamer,
    walks: Walks,
    watched: int,
    seed: int,
    scale: float,
    tell: Tell | None = None,
) -> Report:
    """The quality of every way to go on, by frame, and by how long ago its view was watched."""
    truth, counts = walks.frames[:, watched:], walks.counts[:, watched:]
    age = None if walks.places is None else ages(walks.places, watched)
    found = {}
    for done, (way, pictures) in enumerate(_ways(dreamer, walks, watched, seed).items()):
        with drawing(seed):
            found[way] = quality(truth, pictures(), counts, age, scale)
        if tell:
            tell("dreaming", done + 1, len(WAYS))
    return {"frames": int(counts.sum()), "ways": found}


def _ways(
    dreamer: Dreamer, walks: Walks, watched: int, seed: int
) -> dict[str, Callable[[], Tensor]]:
    """How the pictures after the watched ones come about, by the names in the report."""
    frames, actions = walks.frames, walks.prev_action
    seen, led, truth = frames[:, :watched], actions[:, :watched], frames[:, watched:]
    later = actions[:, watched:]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(later.shape[1], generator=generator)
    return {
        "dream": lambda: dreamer.dream(seen, led, later, False),
        "memory_off": lambda: dreamer.dream(seen, led, later, True),
        "first_frame": lambda: dreamer.dream(seen[:, :1], led[:, :1], actions[:, 1:], False)[
            :, watched - 1 :
        ],
        "shuffled": lambda: dreamer.dream(seen, led, later[:, order], False),
        "still": lambda: seen[:, -1:].expand_as(truth),
        "mean": lambda: seen.float().mean(1, keepdim=True).expand(truth.shape),
        "drawn": lambda: dreamer.draw(truth),
    }


def quality(
    truth: Tensor, pictures: Tensor, counts: Tensor, age: Tensor | None, scale: float
) -> dict[str, Any]:
    """PSNR (dB) and SSIM over all frames that count, by frame, and by age."""
    flat = truth.flatten(0, 1), pictures.flatten(0, 1)
    values = frame_quality(flat[0].float(), flat[1].float(), scale)
    if perceptual.present():
        values["lpips"] = perceptual.distance(*flat, scale)
    report: dict[str, Any] = {"rows_by_frame": counts.sum(0).tolist()}
    for name, each in values.items():
        each = each.view(counts.shape).clamp(max=BEST)
        rows = [mean_of(row, keep) for row, keep in zip(each, counts, strict=True)]
        report[name] = mean_ci([row for row in rows if row is not None] or [float("nan")])
        columns = zip(each.unbind(1), counts.unbind(1), strict=True)
        report[f"{name}_by_frame"] = [mean_of(column, keep) for column, keep in columns]
        if age is not None:
            report[f"{name}_by_age"] = _by_age(each, counts, age)
    return report


def _by_age(values: Tensor, counts: Tensor, age: Tensor) -> list[dict[str, Any]]:
    """Means between two of AGES, and of what was never watched, which has no age."""
    bounds = [*pairwise(AGES), (0, 1)]
    found = []
    for low, high in bounds:
        chosen = counts & (age >= low) & (age < high)
        ends = {"from": low, "to": high} if low else {"from": None, "to": None}
        found.append(ends | {"frames": int(chosen.sum()), "mean": mean_of(values, chosen)})
    return found


def mean_of(values: Tensor, chosen: Tensor) -> float | None:
    """The mean of the chosen values; None where there are none."""
    return float(values[chosen].double().mean()) if chosen.any() else None


RECALL = Suite(
    name="recall",
    about="What the world model draws of what it watched, on the way back and on the way on.",
    missing=missing,
    measure=measure_recall,
    sheets=sheets,
    headline=headline,
    figures=figures,
)
DREAM = Suite(
    name="dream",
    about="What the world model draws of what comes after what it watched.",
    missing=missing_pictures,
    measure=measure_dream,
    sheets=sheets,
    headline=headline,
    figures=figures,
)
