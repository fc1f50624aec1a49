"""What could be known in a maze at some time: the truth, and the bounds of what remembers.

Three frames are used: the maze's own; the start's, whose origin is where the episode began and
whose first axis is where the agent looked then; and the agent's own of the moment. No agent has a
compass, so of the maze's frame it can know nothing; what it keeps is in one of the other two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runs.evaluation.mazes import Walk

ROUND = 17  # rows and columns of a map around a place; cells beyond it are counted to its rim

POSE = 4  # the first features of an odometer: the place and the direction


@dataclass(frozen=True)
class Moments:
    """Moments of episodes, M of them: what is to be told, and in which frames it lies where."""

    episode: np.ndarray  # (M)
    walls: np.ndarray  # (M, cells)
    objects: np.ndarray  # (M, objects): the cell that each is in
    centres: np.ndarray  # (cells, 2), in the maze's frame
    around: np.ndarray  # (M, cells, 2): centres in the agent's frame
    from_start: np.ndarray  # (M, cells, 2): and in the start's
    moved: np.ndarray  # (M, 2): where the agent is in the start's frame
    cells_known: np.ndarray  # (M, cells): seen before, and not in sight
    objects_known: np.ndarray  # (M, objects): likewise

    def __len__(self) -> int:
        """M."""
        return len(self.episode)

    def at(self, chosen: np.ndarray) -> "Moments":
        """Some of the moments."""
        parts = {name: part[chosen] for name, part in vars(self).items() if name != "centres"}
        return Moments(centres=self.centres, **parts)


def moments_of(walks: Sequence[Walk], times: Sequence[np.ndarray]) -> Moments:
    """The moments of several episodes, all in mazes of one size."""
    parts = [_moments(k, one, at) for k, (one, at) in enumerate(zip(walks, times, strict=True))]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Moments(centres=centres(walks[0].layout), **joined)


def centres(layout: np.ndarray) -> np.ndarray:
    """The centres of all cells, row by row."""
    rows, columns = np.indices(layout.shape).reshape(2, -1)
    return np.stack([columns, rows], -1) + 0.5


def _moments(index: int, one: Walk, times: np.ndarray) -> dict[str, np.ndarray]:
    cells, shape = centres(one.layout), one.layout.shape
    column, row = one.targets.astype(np.int64).T
    place, start = one.positions[0], one.directions[0]
    before = one.cells_seen.reshape(one.steps + 1, -1)
    seen = np.logical_or.accumulate(before)[times], np.logical_or.accumulate(one.objects_seen)
    count = len(times)
    return {
        "episode": np.full(count, index),
        "walls": np.tile(1 - one.layout.ravel(), (count, 1)),
        "objects": np.tile(row * shape[1] + column, (count, 1)),
        "around": np.stack(
            [turned(cells - one.positions[t], one.directions[t]) for t in times.tolist()]
        ),
        "from_start": np.tile(turned(cells - place, start), (count, 1, 1)),
        "moved": turned(one.positions[times] - place, start),
        "cells_known": seen[0] & ~before[times],
        "objects_known": seen[1][times] & ~one.objects_seen[times],
    }


def turned(vectors: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Vectors of the maze's frame as (along, to the left of) a direction."""
    (x, y), (fx, fy) = vectors.T, direction
    return np.stack([x * fx + y * fy, y * fx - x * fy], -1)


class Guess(NamedTuple):
    """What is said of M moments."""

    walls: np.ndarray  # (M, cells): log odds, were there as many walls as free cells
    usual: float  # log odds of a wall, as many as there are
    objects: np.ndarray  # (M, objects, 2): where each is, on average, in the maze's frame
    moved: np.ndarray | None = None  # (M, 2): where the agent is, in the start's frame


def prior(train: Moments) -> tuple[np.ndarray, float]:
    """Log odds of walls and of objects in each cell, whatever is seen, (1 + objects, cells).

    Those of walls are as they would be were there as many walls as free cells; beside them how far
    these are from the usual ones. All objects are alike. A maze more of either kind is thought of,
    for a cell is not sure to be free because it was in so many mazes.
    """
    kinds, cells = train.objects.shape[1], train.walls.shape[1]
    one = len(train) / len(np.unique(train.episode))  # moments of a maze
    share = (train.walls.sum(0) + one) / (len(train) + 2 * one)
    usual = np.log(share.mean() / (1 - share.mean()))
    found = np.bincount(train.objects.ravel(), minlength=cells) + one
    objects = np.tile(np.log(found / found.sum()), (kinds, 1))
    return np.concatenate([[np.log(share / (1 - share)) - usual], objects]), float(usual)


def constant(train: Moments, moments: Moments) -> Guess:
    """The floor that looks at nothing: in each cell what is there mostly, and means."""
    logits, usual = prior(train)
    means = logits[0], np.exp(logits[1:]) @ train.centres, train.moved.mean(0)
    walls, objects, moved = (np.tile(one, (len(moments), *[1] * one.ndim)) for one in means)
    return Guess(walls, usual, objects, moved)


def all_seen(one: Walk, times: np.ndarray) -> np.ndarray:
    """The ceiling: walls, free cells and objects, if ever in sight, on a map around the agent.

    What perfect eyes and a perfect memory know; (times, features). The last `vectors_in` of them
    are vectors to the objects, which of these are known, and the way from the start.
    """
    here = moments_of([one], [times])
    seen = np.logical_or.accumulate(one.cells_seen.reshape(one.steps + 1, -1))[times]
    known = np.logical_or.accumulate(one.objects_seen)[times]
    walls, rows = here.walls > 0, np.arange(len(times))[:, None]
    maps = [_drawn(layer, here.around) for layer in (seen & ~walls, seen & walls)]
    to_objects = here.around[rows, here.objects] * known[..., None]
    parts = [*maps, to_objects, known, here.moved]
    return np.concatenate([part.reshape(len(times), -1) for part in parts], -1).astype(np.float32)


def vectors_in(one: Walk) -> int:
    """How many of the features of `all_seen` are no map."""
    return 3 * len(one.targets) + 2


def _drawn(cells: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Cells (M, cells) as maps (M, ROUND²) around the agent."""
    half = ROUND // 2
    i, j = np.moveaxis(np.clip(np.rint(around), -half, half).astype(np.int64) + half, -1, 0)
    maps = np.zeros((len(cells), ROUND, ROUND), np.bool_)
    np.logical_or.at(maps, (np.arange(len(cells))[:, None], j, i), cells)
    return maps


class Odometer:
    """The floor of integrated actions: how each action moves a body on average, added up.

    Learned from episodes: the mean motion of each of `count` actions after each other one; one that
    is not in them stands still. It never sees anything, so what it knows, such as that where it has
    been there is no wall, needs no memory of anything seen.
    """

    def __init__(self, walks: Sequence[Walk], count: int) -> None:
        sums, times = np.zeros((count + 1, count, 3)), np.zeros((count + 1, count, 1))
        for one in walks:
            before = np.concatenate([[count], one.actions[:-1]])
            np.add.at(sums, (before, one.actions), _motions(one))
            np.add.at(times, (before, one.actions), 1)
        self.mean = sums / np.maximum(times, 1)

    def path(self, actions: np.ndarray) -> np.ndarray:
        """Rows of (x, y, heading) in the start's frame, one more than actions."""
        count = self.mean.shape[1]
        motion = self.mean[np.concatenate([[count], actions[:-1]]), actions]
        heading = np.concatenate([[0.0], np.cumsum(motion[:, 2])])
        cos, sin = np.cos(heading[:-1]), np.sin(heading[:-1])
        x = np.cumsum(cos * motion[:, 0] - sin * motion[:, 1])
        y = np.cumsum(sin * motion[:, 0] + cos * motion[:, 1])
        return np.stack([np.append(0.0, x), np.append(0.0, y), heading], -1)

    def features(self, one: Walk, times: np.ndarray) -> np.ndarray:
        """Where it thinks it is, and where it has been, around itself and around the start."""
        path = self.path(one.actions)
        return np.stack([self._known(path[: t + 1]) for t in times.tolist()]).astype(np.float32)

    def _known(self, path: np.ndarray) -> np.ndarray:
        *place, heading = path[-1]
        direction = np.array([np.cos(heading), np.sin(heading)])
        been = trace(path[:, :2]), trace(turned(path[:, :2] - place, direction))
        return np.concatenate([[*place], direction, *been])


def _motions(one: Walk) -> np.ndarray:
    """How each action moved the body: ahead, to the left, and turned."""
    x, y = np.diff(one.positions, axis=0).T
    fx, fy = one.directions[:-1].T
    heading = np.arctan2(one.directions[:, 1], one.directions[:, 0])
    return np.stack([x * fx + y * fy, y * fx - x * fy, np.angle(np.exp(1j * np.diff(heading)))], -1)


def trace(points: np.ndarray) -> np.ndarray:
    """Which cells of a map around the origin hold any of the points, flat."""
    half = ROUND // 2
    i, j = np.clip(np.rint(points), -half, half).astype(np.int64).T + half
    found = np.zeros((ROUND, ROUND), np.float32)
    found[j, i] = 1
    return found.ravel()
