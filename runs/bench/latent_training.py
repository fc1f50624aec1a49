"""A codec learned once, films encoded with it, and transitions that are learned from those.

Pictures are most of what a world model's training costs. Where only backbones are compared, one
codec serves them all: every one then foretells the same tokens, and none of them can be better for
having a better picture. Everything that is drawn depends on the seed and the number of the update,
not on the model.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from envs import EnvStreams, Record
from runs import checkpoint
from worldmodel.model import WorldModel
from worldmodel.spaces import flatten_observation

BETAS = (0.9, 0.95)
WARMUP, COOLDOWN = 50, 0.3  # updates; share of all updates
AT_ONCE = 256  # frames
NOISY, DROWNED = 0.75, 0.4  # shares of the rows that are noisy, and whose frames are all noise
MOST_CLASSES = 256  # that a byte can tell apart
SPREAD = 4  # steps between two batches of frames for the codec
CHUNK = 64  # batches that are mixed
KEEP_EVERY = 250  # updates; a multiple of the 50 of the curve
TURNS = 1 / 8, 5 / 8  # shares of a film, between which it turns back where it is to

Say = Callable[[str], None]
Curve = list[dict[str, float]]


@dataclass(frozen=True)
class Stage:
    """So many updates on so many rows of so many frames."""

    updates: int
    rows: int
    frames: int


@dataclass(frozen=True)
class Films:
    """Encoded episodes, from their first records on."""

    latents: Int[Tensor, "N T S K"]
    prev_action: Tensor


def learn_codec(
    model: WorldModel, streams: EnvStreams, updates: int, passes: int, say: Say
) -> None:
    """Learn to encode and decode what an explorer sees; every frame counts in `passes` updates."""
    parameters = model.codec_parameters()
    optimiser = torch.optim.Adam(parameters, betas=BETAS)
    batches = rehearsed(scattered(model, streams), passes)
    for update, frames in zip(range(updates), batches, strict=False):
        loss = model.codec_loss(frames).mean()
        _step(optimiser, parameters, loss, 2e-3 * schedule(update, updates), clip=300.0)
        if (update + 1) % 250 == 0:
            say(f"codec, update {update + 1}: squared error of a frame {loss.item():.1f}")


def scattered(model: WorldModel, streams: EnvStreams) -> Iterator[dict[str, Tensor]]:
    """Frames from all over, endlessly: two of each stream, some steps apart."""
    record = streams.reset()
    while True:
        seen = []
        for _ in range(2):
            seen.append(flatten_observation(model.codec.names, record.observation))
            for _ in range(SPREAD):
                record = streams.step(streams.explore())
        yield {name: torch.as_tensor(np.concatenate([s[name] for s in seen])) for name in seen[0]}


def rehearsed(batches: Iterator[dict[str, Tensor]], passes: int) -> Iterator[dict[str, Tensor]]:
    """Every frame in `passes` batches, mixed anew each time within so many as are at hand."""
    if passes == 1:
        yield from batches
        return
    while chunk := list(islice(batches, CHUNK)):
        frames = {name: torch.cat([batch[name] for batch in chunk]) for name in chunk[0]}
        count, size = (len(next(iter(part.values()))) for part in (frames, chunk[0]))
        for _ in range(passes):
            for rows in torch.randperm(count).split(size):
                yield {name: part[rows] for name, part in frames.items()}


def film(
    model: WorldModel,
    streams: EnvStreams,
    episodes: int,
    frames: int,
    say: Say,
    turns: np.random.Generator | None = None,
) -> Films:
    """The first `frames` records of so many episodes, encoded.

    With `turns`, every one turns back at some time that is drawn from there, and leads back.
    """
    latents, actions = [], []
    while len(latents) * streams.num_envs < episodes:
        record = streams.reset()
        if turns:
            first, last = (max(2, int(share * frames)) for share in TURNS)
            streams.retrace(turns.integers(first, last, streams.num_envs, endpoint=True))
        seen, taken = _episode(model, streams, record, frames)
        latents.append(seen)
        actions.append(taken)
        say(f"filmed {len(latents) * streams.num_envs} of {episodes} episodes")
    return Films(torch.cat(latents)[:episodes], torch.cat(actions)[:episodes])


def _episode(
    model: WorldModel, streams: EnvStreams, record: Record, frames: int
) -> tuple[Tensor, Tensor]:
    space = streams.action_space
    action = np.zeros((streams.num_envs, *(space.shape or ())), space.dtype)
    seen, taken = [], []
    for step in range(frames):
        if step:
            check_goes_on(record, frames)
        observation = flatten_observation(model.codec.names, record.observation)
        tensors = {name: torch.as_tensor(value) for name, value in observation.items()}
        with torch.no_grad():
            seen.append(model.encode(tensors).argmax(-1).to(torch.uint8))
        taken.append(torch.as_tensor(action))
        action = streams.explore()
        record = streams.step(action)
    return torch.stack(seen, 1), torch.stack(taken, 1)


def check_goes_on(record: Record, frames: int) -> None:
    """See that no episode begins in the middle of a film, which no model would be told of.

    Raises:
        ValueError: where one does.
    """
    if record.is_first.any():
        raise ValueError(
            f"An episode ended before frames = {frames}, the length of a film: ask for fewer."
        )


def learn_transition(
    model: WorldModel,
    films: Films,
    stages: tuple[Stage, ...],
    lr: float,
    seed: int,
    say: Say,
    unfinished: Path,
) -> Curve:
    """Learn everything but the codec; nats of a frame and core seconds, every 50 updates.

    The file `unfinished` is written now and then; where it is there, learning goes on from it, to
    the same end.
    """
    known = {id(p) for p in model.codec_parameters()}
    parameters = [p for p in model.parameters() if id(p) not in known]
    optimiser = torch.optim.Adam(parameters, betas=BETAS)
    plan = [stage for stage in stages for _ in range(stage.updates)]
    curve = _go_on(unfinished, model, optimiser) if unfinished.exists() else []
    recent = []
    began = time.process_time() - (curve[-1]["seconds"] if curve else 0.0)
    for update, stage in list(enumerate(plan))[int(curve[-1]["updates"]) if curve else 0 :]:
        latents, actions, noisy = batch(films, stage, seed, update, model.config.classes)
        first = torch.zeros(latents.shape[:2], dtype=torch.bool)
        first[:, 0] = True
        carry = model.initial(len(latents))
        nats, _ = model.transition_loss(noisy, latents, actions, first, carry)
        _step(optimiser, parameters, nats.mean(), lr * schedule(update, len(plan)), clip=10.0)
        recent.append(float(nats.detach().mean()))
        if len(recent) == 50 or update + 1 == len(plan):
            point = {"updates": update + 1, "nats": sum(recent) / len(recent)}
            curve.append(point | {"seconds": time.process_time() - began})
            say(f"update {update + 1} of {len(plan)}: {curve[-1]['nats']:.1f} nats a frame")
            recent = []
            if (update + 1) % KEEP_EVERY == 0:
                _keep(unfinished, model, optimiser, curve)
    return curve


def _keep(path: Path, model: WorldModel, optimiser: torch.optim.Optimizer, curve: Curve) -> None:
    """Write all that learning has changed, whole or not at all."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= checkpoint.optimiser_tensors(optimiser, "optimiser/")
    partial_file = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial_file, {"curve": json.dumps(curve)})
    partial_file.replace(path)


def _go_on(path: Path, model: WorldModel, optimiser: torch.optim.Optimizer) -> Curve:
    """Put back what `_keep` wrote; the curve so far."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        curve = json.loads(file.metadata()["curve"])
    model.load_state_dict({name: tensors[f"model/{name}"] for name in model.state_dict()})
    checkpoint.load_optimiser(optimiser, "optimiser/", tensors)
    return curve


def batch(
    films: Films, stage: Stage, seed: int, update: int, classes: int
) -> tuple[Float[Tensor, "B T S K C"], Tensor, Float[Tensor, "B T S K C"]]:
    """Crops of films: latents, the actions that led there, and the latents to be looked at."""
    rng = np.random.default_rng([seed, update])
    rows = rng.integers(len(films.latents), size=stage.rows)[:, None]
    start = rng.integers(films.latents.shape[1] - stage.frames + 1, size=stage.rows)[:, None]
    columns = start + np.arange(stage.frames)
    index = films.latents[rows, columns]
    noisy = with_noise(index, classes, rng)
    one_hots = (F.one_hot(a.long(), classes).float() for a in (index, noisy))
    latents, seen = one_hots
    return latents, films.prev_action[rows, columns], seen


def with_noise(
    index: Int[Tensor, "B T S K"], classes: int, rng: np.random.Generator
) -> Int[Tensor, "B T S K"]:
    """Most rows, after a clean beginning: frames lost in noise, wholly or to a random degree.

    Who is told so little of the last frames has to remember older ones. After the clean prefixes
    and noise levels of Po et al. 2025 (arXiv 2505.20171, section 4.3).
    """
    rows, frames = index.shape[:2]
    begins = rng.uniform(0.25, 0.75, (rows, 1)) * frames
    kind = rng.random((rows, 1))
    level = np.where(kind < DROWNED, 1.0, rng.random((rows, frames))) * (kind < NOISY)
    level *= np.arange(frames) >= begins
    lost = torch.as_tensor(rng.random(index.shape) < level[..., None, None])
    noise = torch.as_tensor(rng.integers(classes, size=index.shape), dtype=index.dtype)
    return torch.where(lost, noise, index)


def schedule(update: int, updates: int) -> float:
    """Up in `WARMUP` updates, and down to nothing at the end."""
    return min(1.0, (update + 1) / WARMUP, (updates - update) / (COOLDOWN * updates))


def _step(
    optimiser: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    loss: Tensor,
    lr: float,
    clip: float,
) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()
