"""Exploration while acting: now and then a random action, held for a while.

Unusual: only what is acted is random, so that replay shows states a policy would not go to; what
the policy learns, in dreams that start there, it learns without. One random action alone rarely
leads anywhere: to look back, one has to turn twice.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from worldmodel.actions import ActionCodec

LONGEST = 100  # steps; the tail of the distribution has no mean
EXPONENT = 2.0


class Exploration(NamedTuple):
    """What each of B streams is doing: a random (raw) action, and for how many steps more."""

    action: Tensor
    left: Int[Tensor, " B"]


def idle(action: Tensor) -> Exploration:
    """Nothing random under way, in as many streams as there are actions."""
    return Exploration(action, torch.zeros(len(action), dtype=torch.long, device=action.device))


def explore(
    action: Tensor,
    doing: Exploration,
    is_first: Bool[Tensor, " B"],
    rate: float,
    codec: ActionCodec,
) -> tuple[Tensor, Exploration]:
    """Actions (B, ...), some replaced by a random one; where none is held, one begins at `rate`.

    It is held for n steps with a probability in proportion to n^-2, and no longer than its episode
    (εz-greedy; Dabney et al. 2021, arXiv 2006.01782).
    """
    left = torch.where(is_first, 0, doing.left)
    begins = (left == 0) & (torch.rand(len(left), device=left.device) < rate)
    left = torch.where(begins, _durations(len(left)).to(left.device), left)
    shape = (-1, *[1] * (action.dim() - 1))
    drawn = codec.random(len(left))
    held = torch.where(begins.view(shape), drawn, doing.action)
    acted = torch.where((left > 0).view(shape), held, action)
    return acted, Exploration(held, (left - 1).clamp(min=0))


def _durations(number: int) -> Int[Tensor, " n"]:
    weight = torch.arange(1, LONGEST + 1).double() ** -EXPONENT
    return 1 + torch.multinomial(weight, number, replacement=True)
