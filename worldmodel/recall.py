"""Which past frames to recall, and when: the recall objective (ours; docs/how-it-works.md).

Past frames are picked with probability proportional to their surprise (the KL between posterior
and prior), the first frame of an episode as often as all others together, and for each a later
time of the same episode at a log-uniform gap. Predicting the past frame's latents from the later
features turns one distant reward into memory gradients at every time scale.

Unusual: frames are also recalled from beyond the window that gradients flow in. A few frames of
the running episode are kept (`Past`), drawn by surprise as well; half of the picks go to them.
They teach the state to keep what it brought along, for as long as a stream goes on.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

RAREST = 1e-4  # nats; a frame that was foreseen exactly is still recalled now and then


class Past(NamedTuple):
    """M frames of the running episode that lie before a window.

    `age` counts the frames from there to the window's first one. The M highest keys are kept: of a
    first frame it is infinite, of an empty place minus infinity.
    """

    latents: Float[Tensor, "B M S K C"]
    age: Int[Tensor, "B M"]
    key: Float[Tensor, "B M"]


class Recalls(NamedTuple):
    """Pairs of frames; `exists` is False where an episode holds no later frame.

    `past` indexes the kept frames and those of the window, in this order.
    """

    past: Int[Tensor, "B R"]
    later: Int[Tensor, "B R"]
    gap: Int[Tensor, "B R"]
    exists: Bool[Tensor, "B R"]


def empty_past(latents: Float[Tensor, "B M S K C"]) -> Past:
    """Nothing kept yet, in places for latents such as these."""
    age = torch.ones(latents.shape[:2], dtype=torch.long, device=latents.device)
    return Past(latents, age, torch.full_like(age, -torch.inf, dtype=torch.float))


def pick_recalls(
    surprise: Float[Tensor, "B T"], is_first: Bool[Tensor, "B T"], past: Past, number: int
) -> Recalls:
    """`number` pairs in each row, the later frame inside the window and in the same episode."""
    frames = is_first.shape[1]
    time = torch.arange(frames, device=is_first.device).expand_as(is_first)
    last = _last_of_episode(is_first)
    running = torch.where(is_first[:, :1], -1, last[:, :1])  # last frame of what came before
    time = torch.cat([-past.age, time], 1)
    last = torch.cat([running.expand_as(past.age), last], 1)
    of_past = _past_weight(past) * ~is_first[:, :1]  # of an episode that goes on
    weight = torch.cat([of_past, frame_share(surprise, is_first)], 1)
    index = torch.multinomial(weight, number, replacement=True)
    began, last = time.gather(1, index), last.gather(1, index)
    shortest, longest = (-began).clamp(min=1), last - began
    exists = longest >= shortest
    gap = _log_uniform(shortest, longest.maximum(shortest))
    return Recalls(index, (began + gap).clamp(max=frames - 1), gap, exists)


def keep(
    past: Past,
    latents: Float[Tensor, "B T S K C"],
    surprise: Float[Tensor, "B T"],
    is_first: Bool[Tensor, "B T"],
) -> Past:
    """What is kept after a window: a sample of the running episode by surprise, its start included.

    Weighted reservoir sampling: the highest u^(1/weight) stay (Efraimidis and Spirakis 2006).
    """
    frames = is_first.shape[1]
    time = torch.arange(frames, device=is_first.device).expand_as(is_first)
    began = torch.where(is_first, time, 0).amax(1, keepdim=True)
    weight = surprise.nan_to_num(0.0, 0.0).clamp(min=RAREST)
    key = torch.rand_like(weight).log() / weight
    key = key.masked_fill(is_first, torch.inf).masked_fill(time < began, -torch.inf)
    kept = past.key.masked_fill(is_first.any(1, keepdim=True), -torch.inf)
    ages = torch.cat([past.age + frames, frames - time], 1)
    keys, index = torch.cat([kept, key], 1).topk(past.key.shape[1], 1)
    row = torch.arange(len(index), device=index.device)[:, None]
    everything = torch.cat([past.latents, latents], 1)
    return Past(everything[row, index], ages.gather(1, index), keys)


def frame_share(
    surprise: Float[Tensor, "B T"], is_first: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Share of each frame of a window in what is recalled: by surprise, half to first frames."""
    # A loss that is not finite is the learner's to report: picking must survive it.
    weight = surprise.nan_to_num(0.0, 0.0).clamp(min=RAREST).masked_fill(is_first, 0.0)
    weight = torch.where(is_first, weight.sum(1, keepdim=True).clamp(min=1.0), weight)
    return weight / weight.sum(1, keepdim=True)


def _past_weight(past: Past) -> Float[Tensor, "B M"]:
    """Share of each kept frame: as much together as the window's frames, where there are any."""
    first = past.key == torch.inf
    weight = ((past.key > -torch.inf) & ~first).float()
    weight = torch.where(first, weight.sum(1, keepdim=True).clamp(min=1.0), weight)
    return weight / weight.sum(1, keepdim=True).clamp(min=1.0)


def _log_uniform(low: Int[Tensor, "B R"], high: Int[Tensor, "B R"]) -> Int[Tensor, "B R"]:
    """Whole numbers from `low` to `high`, each octave as likely."""
    start, end = low.float().log(), (high + 1.0).log()
    drawn = torch.exp(start + torch.rand_like(start) * (end - start)).long()
    return drawn.maximum(low).minimum(high)


def _last_of_episode(is_first: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The index of the last frame, inside the row, of each frame's episode."""
    frames = is_first.shape[1]
    time = torch.arange(frames, device=is_first.device)
    starts = torch.where(is_first, time, frames)
    next_start = starts.flip(1).cummin(1).values.flip(1)[:, 1:]
    return torch.cat([next_start, torch.full_like(starts[:, :1], frames)], 1) - 1
