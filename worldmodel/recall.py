"""Which past frames to recall, and when: the recall objective (ours; docs/how-it-works.md).

A few past frames of each row are picked with probability proportional to their surprise (the KL
between posterior and prior; the first frame of an episode counts as fully surprising), and for
each a later time of the same episode at a log-uniform gap. Predicting the past frame's latents
from the later features turns one distant reward into memory gradients at every time scale.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Recalls(NamedTuple):
    """Pairs of times; `exists` is False where an episode holds no later frame."""

    past: Int[Tensor, "B M"]
    later: Int[Tensor, "B M"]
    exists: Bool[Tensor, "B M"]


def pick_recalls(
    surprise: Float[Tensor, "B T"], is_first: Bool[Tensor, "B T"], number: int
) -> Recalls:
    """`number` pairs (past, later) in each row, later > past inside one episode."""
    # A loss that is not finite is the learner's to report: picking must survive it.
    surprise = surprise.nan_to_num(0.0, 0.0)
    full = surprise.max().clamp(min=1.0)
    weight = torch.where(is_first, full, surprise.clamp(min=1e-4))
    past = torch.multinomial(weight, number, replacement=True)
    longest = _last_of_episode(is_first).gather(1, past) - past
    gap = torch.exp(torch.rand_like(past, dtype=torch.float) * (longest + 1.0).log()).long()
    return Recalls(past, past + gap.minimum(longest), longest > 0)


def _last_of_episode(is_first: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The index of the last frame, inside the row, of each frame's episode."""
    frames = is_first.shape[1]
    time = torch.arange(frames, device=is_first.device)
    starts = torch.where(is_first, time, frames)
    next_start = starts.flip(1).cummin(1).values.flip(1)[:, 1:]
    return torch.cat([next_start, torch.full_like(starts[:, :1], frames)], 1) - 1
