"""Rollouts inside the world model, from the carries that a scan of replay leaves behind.

Nothing is computed again to start: each start is a carry, its features, and whether the episode
went on there. Rollouts are made without gradients; actor and critic are run again on their
features, so memory grows by one frame of features a step, whatever the length of the past.
"""

from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from worldmodel.dream import Policy, dream
from worldmodel.model import WorldModel
from worldmodel.types import Carry, tree_map


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
    steps = [(d.action, d.carry.features) for d in islice(dream(model, start, policy), horizon)]
    action, dreamed = (torch.stack(part, 1) for part in zip(*steps, strict=True))
    reward, continuation = model.outcome(dreamed)
    return Imagination(
        torch.cat([start.features[:, None], dreamed], 1),
        action,
        torch.cat([torch.zeros_like(goes_on)[:, None], reward], 1),
        torch.cat([goes_on[:, None], continuation], 1),
    )


@torch.no_grad()
def curious(
    model: WorldModel, imagined: Imagination, branches: Imagination | None, weight: float
) -> tuple[Imagination, Imagination | None]:
    """The same with so much reward for each nat by which a record was to surprise unusually."""
    usual = _suspense(model, imagined)

    def paid(one: Imagination) -> Imagination:
        found = F.pad(unusual(_suspense(model, one), usual), (1, 0))
        return one._replace(reward=one.reward + weight * found)

    return paid(imagined), branches and paid(branches)


def _suspense(model: WorldModel, imagined: Imagination) -> Float[Tensor, "N h"]:
    return model.suspense(imagined.features[:, :-1], imagined.action.clamp(-1, 1))


def unusual(surprise: Float[Tensor, "*n"], usual: Float[Tensor, "*m"]) -> Float[Tensor, "*n"]:
    """Nats beyond the mean of the usual ones.

    A model that knows little yet is surprised everywhere, which leads nowhere, and would leave
    values behind that take long to be forgotten.
    """
    return (surprise - usual.mean().nan_to_num()).clamp(min=0)


@torch.no_grad()
def branch(model: WorldModel, start: Carry, actions: Float[Tensor, "a A"]) -> Imagination:
    """One step by each of `actions` from each of N carries, as N * a rollouts, starts first."""
    rows = tree_map(lambda leaf: leaf.repeat_interleave(len(actions), 0), start)
    each = actions.repeat(len(start.features), 1)
    goes_on = rows.features.new_ones(len(each))
    return imagine(model, lambda features: each, rows, goes_on, 1)
