"""Rollouts inside the world model, from the carries that a scan of replay leaves behind.

Nothing is computed again to start: each start is a carry, its features, and whether the episode
went on there. Rollouts are made without gradients; actor and critic are run again on their
features, so memory grows by one frame of features a step, whatever the length of the past.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.model import WorldModel
from worldmodel.types import Carry

Policy = Callable[[Tensor], Tensor]


class Imagination(NamedTuple):
    """N rollouts of horizon + 1 records; the first record is the real one that they start from."""

    features: Float[Tensor, "N h1 S D"]
    action: Float[Tensor, "N h A"]
    reward: Float[Tensor, "N h1"]
    continuation: Float[Tensor, "N h1"]


@torch.no_grad()
def imagine(
    model: WorldModel,
    policy: Policy,
    start: Carry,
    goes_on: Float[Tensor, " N"],
    horizon: int,
) -> Imagination:
    """Imagine `horizon` steps from N carries; `goes_on` is 0 where the start was terminal.

    `policy` takes features (N, S, D) and gives encoded actions (N, A).
    """
    carry, zero = start, torch.zeros_like(goes_on)
    features, actions, rewards, continuations = [start.features], [], [zero], [goes_on]
    for _ in range(horizon):
        actions.append(policy(carry.features))
        # Boxes end at ±1 in reality, so they do in the dream; the policy's own sample is kept.
        imagined, carry = model.imagine_step(carry, actions[-1].clamp(-1, 1))
        features.append(imagined.features)
        rewards.append(imagined.reward)
        continuations.append(imagined.continuation)
    parts = (features, actions, rewards, continuations)
    return Imagination(*(torch.stack(part, 1) for part in parts))
