"""A small network that reads a maze off what is known of each of its places.

Unusual: it is the same whichever way one looks. Each view is turned so that one looks along the
rows, a few convolutions say what it tells of the cells around it, and what all views tell is turned
back and added up. So a maze teaches as much as four, and some hundred are enough to learn from.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from runs.evaluation.mazes import Walk
from runs.evaluation.probing import Batch, Choice, Reader

HEADINGS = 4
COMPONENTS = 64  # principal ones of what is known of a place
AROUND = 5  # cells; side of what a view tells of
ENOUGH = 100_000  # places that principal components are found by


class Views(nn.Module):
    """What views (M, headings, features, rows, columns) tell of the cells, added up."""

    def __init__(self, inputs: int, kinds: int, choice: Choice) -> None:
        super().__init__()
        hidden, drop = choice.hidden, nn.Dropout(choice.dropout)
        last = nn.Conv2d(hidden, kinds, 3, padding="same", bias=False)
        nn.init.zeros_(last.weight)
        around = nn.Conv2d(hidden, hidden, AROUND, padding="same")
        here = nn.Conv2d(inputs, hidden, 1)
        self.body = nn.Sequential(drop, here, nn.SiLU(), drop, around, nn.SiLU(), drop, last)

    def forward(self, batch: Batch) -> Tensor:
        """What is added to the logits (M, kinds, cells)."""
        told = [
            torch.rot90(self.body(torch.rot90(view, turns, (-2, -1))), -turns, (-2, -1))
            for turns, view in enumerate(batch.features.unbind(1))
        ]
        return torch.stack(told).sum(0).flatten(-2)


class GridReader(Reader):
    """A probe of what is known of places, (M, rows, columns, headings, features).

    What has no heading, such as a map, is what every heading shows.
    """

    tasks = ("walls", "objects")
    choices = (Choice(32, 0.3), Choice(64, 0.3))
    components = COMPONENTS

    def _learn_scale(self, features: np.ndarray) -> None:
        places = features.reshape(-1, features.shape[-1])
        places = places[:: 1 + len(places) // ENOUGH]
        super()._learn_scale(places)

    def _prepared(self, features: np.ndarray) -> Tensor:
        read = self._standard(features)
        read = read.expand(*read.shape[:3], HEADINGS, -1)
        return read.permute(0, 3, 4, 1, 2)

    def _network(self, task: str, choice: Choice) -> nn.Module:
        return Views(self.train.features.shape[2], self._kinds(task), choice)


def bounds(walks: Sequence[Walk], times: Sequence[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Maps (moments, rows, columns, 1, features) of what the bounds know of each episode."""
    found: dict[str, list[np.ndarray]] = {"integrator": [], "poses": [], "seen": []}
    for one, at in zip(walks, times, strict=True):
        here = _cells(one.positions, one.layout.shape)
        been = np.logical_or.accumulate(here)
        found["poses"].append(_maps(here[at]))
        found["integrator"].append(_maps(here[at], been[at]))
        found["seen"].append(_maps(here[at], *_in_sight(one, at)))
    return found


def _in_sight(one: Walk, times: np.ndarray) -> list[np.ndarray]:
    """Free cells, walls and cells of each object that were in sight until then."""
    seen = np.logical_or.accumulate(one.cells_seen)[times]
    known = np.logical_or.accumulate(one.objects_seen)[times]
    objects = _cells(one.targets, one.layout.shape)
    free = one.layout > 0
    return [seen & free, seen & ~free, *(known.T[:, :, None, None] & objects[:, None])]


def _cells(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Maps (n, rows, columns) of the cells that positions (n, 2) are in."""
    column, row = positions.astype(np.int64).T
    maps = np.zeros((len(positions), *shape), np.bool_)
    maps[np.arange(len(positions)), row, column] = True
    return maps


def _maps(*layers: np.ndarray) -> np.ndarray:
    return np.stack(layers, -1)[..., None, :].astype(np.float32)
