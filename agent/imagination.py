"""Rollouts inside the world model, from the carries that a scan of replay leaves behind.

Nothing is computed again to start: each start is a carry, its features, and whether the episode
went on there. Rollouts are made without gradients; actor and critic are run again on their
features, so memory grows by one frame of features a step, whatever the length of the past.
"""

from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.dream import Policy, dream
from worldmodel.model import WorldModel
from worldmodel.types import Carry


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
    features, rewards, continuations = [start.features], [torch.zeros_like(goes_on)], [goes_on]
    actions = []
    for dreamed in islice(dream(model, start, policy), horizon):
        actions.append(dreamed.action)
        features.append(dreamed.carry.features)
        rewards.append(dreamed.reward)
        continuations.append(dreamed.continuation)
    parts = (features, actions, rewards, continuations)
    return Imagination(*(torch.stack(part, 1) for part in parts))
