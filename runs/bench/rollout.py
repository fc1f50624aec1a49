"""How long a frame takes to imagine, after a few and after many of them.

One rollout runs from the first frame to the last. Its frames around 100 and around 10,000 are then
imagined once more from the carries it had there, in turns: minutes lie between them in the rollout,
and machines drift.
"""

from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from runs.bench.figures import Found, Say, Scale
from runs.bench.subject import ACTIONS, SUBJECT, build, random_records
from runs.bench.timing import ratio, seconds
from worldmodel.model import WorldModel
from worldmodel.types import Carry, tree_leaves

SEEN = 16  # real frames that a rollout starts from
POINTS = 50  # of a line in the picture


class Rollout:
    """An open loop: random actions, no frame decoded, no real one seen."""

    def __init__(self, model: WorldModel, carry: Carry) -> None:
        self.model, self.carry = model, carry

    def step(self) -> Tensor:
        """Imagine one frame; its latents."""
        index = torch.randint(0, int(ACTIONS.n), (1,))
        action = F.one_hot(index, int(ACTIONS.n)).float()
        latents, self.carry = self.model.imagine_step(self.carry, action)
        return latents


def generation(scale: Scale, say: Say) -> Found:
    """Time and bytes of a late frame over an early one."""
    full = f"full:{scale.full}"
    patterns = {SUBJECT: SUBJECT, "window": "window", "full": full, "gru": "gru"}
    values: dict[str, float | str] = {}
    series: dict[str, Any] = {}
    with torch.no_grad():
        for pattern, name in patterns.items():
            if pattern not in scale.patterns:
                continue
            last = scale.late + scale.around
            last = min(last, scale.full * 3 // 2) if pattern == "full" else last
            say(f"generation: {last:,} frames by {name}")
            rollout = begin(build(name))
            carries, taken = _roll(rollout, last, scale)
            series[name] = _line(taken)
            if pattern == SUBJECT:
                values, more = _compare(rollout.model, carries, taken, scale)
                series[SUBJECT] |= more
    return Found(values, {"generation": series})


def begin(model: WorldModel) -> Rollout:
    """A rollout of one stream, after a few real frames."""
    records = random_records(1, SEEN, 0.0)
    seen = records.observation, records.prev_action, records.is_first
    _, carry, _ = model.observe(*seen, model.initial(1))
    return Rollout(model, carry)


def _roll(rollout: Rollout, last: int, scale: Scale) -> tuple[dict[int, Carry], list[float]]:
    """Carries before and at the frames that are compared, and the seconds of every frame."""
    half = scale.around // 2
    wanted = {frame - before for frame in (scale.early, scale.late) for before in (0, half)}
    carries, taken = {}, []
    for frame in range(last):
        if frame in wanted:
            carries[frame] = rollout.carry
        taken.append(seconds(rollout.step))
    return carries, taken


def _compare(model: WorldModel, carries: dict[int, Carry], taken: list[float], scale: Scale):
    """The figures, and how the rollout itself saw them."""
    half = scale.around // 2
    early, late = (Rollout(model, carries[n - half]) for n in (scale.early, scale.late))
    times = [(seconds(early.step), seconds(late.step)) for _ in range(scale.around)]
    before, after = zip(*times, strict=True)
    bytes_before, bytes_after = (carry_bytes(carries[n]) for n in (scale.early, scale.late))
    values: dict[str, float | str] = {
        "generate_10000_over_100": ratio(after, before),
        "carry_bytes_10000_over_100": bytes_after / bytes_before,
    }
    passing = [median(taken[n - half : n + half]) for n in (scale.early, scale.late)]
    more = {
        "ms_in_turns": [1e3 * median(before), 1e3 * median(after)],
        "ms_in_passing": [1e3 * part for part in passing],
        "carry_bytes": [bytes_before, bytes_after],
    }
    return values, more


def carry_bytes(carry: Carry) -> int:
    """Memory that a carry holds on to: whole storages, not only the parts it looks at."""
    storages = [leaf.untyped_storage() for leaf in tree_leaves(carry)]
    return sum({part.data_ptr(): part.nbytes() for part in storages}.values())


def _line(taken: list[float]) -> dict[str, list[float]]:
    """Milliseconds a frame by its index, as medians of neighbouring frames."""
    size = max(1, len(taken) // POINTS)
    parts = [taken[i : i + size] for i in range(0, len(taken) - size + 1, size)]
    frames = [i * size + size / 2 for i in range(len(parts))]
    return {"frame": frames, "ms": [1e3 * median(part) for part in parts]}


def streaming(scale: Scale, say: Say) -> Found:
    """Frames as a person would see them, one stream."""
    say(f"streaming: {scale.streamed} frames, imagined and decoded")
    with torch.no_grad():
        rollout = begin(build())
        show = partial(_show, rollout)
        for _ in range(max(1, scale.streamed // 10)):
            show()
        taken = [seconds(show) for _ in range(scale.streamed)]
    slowest = sorted(taken)[int(0.95 * (len(taken) - 1))]
    series = {"ms_median": 1e3 * median(taken), "ms_95_percent": 1e3 * slowest}
    return Found({"interactive_fps": 1 / median(taken)}, {"streaming": series})


def _show(rollout: Rollout) -> Tensor:
    """The next frame as bytes."""
    (frame,) = rollout.model.decode(rollout.step()).values()
    return frame.round().to(torch.uint8)
