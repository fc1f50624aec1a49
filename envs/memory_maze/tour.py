"""A round through a maze, walked again and again: what was seen comes back, lap after lap.

Longer rounds bring it back later. The length of a lap is drawn between `SHORTEST` and what was
asked for, each octave alike.
"""

import numpy as np

from envs.memory_maze.oracle import FAR, distances, steer, waypoint

SHORTEST = 40  # steps of a lap
PACE = 5.5  # steps a cell takes, turns included
ARRIVED = 0.5  # cells


class Tour:
    """A closed way through cells drawn at random; `layout[y, x]` is 1 where one can walk."""

    def __init__(
        self, layout: np.ndarray, position: np.ndarray, longest: int, rng: np.random.Generator
    ) -> None:
        self._layout = layout
        start = (int(position[0]), int(position[1]))
        steps = np.exp(rng.uniform(np.log(SHORTEST), np.log(max(SHORTEST, longest))))
        self._goals = _round(layout, start, steps / PACE, rng)
        self._far = [distances(layout, *goal) for goal in self._goals]
        self._next = 0

    def act(self, position: np.ndarray, direction: np.ndarray) -> int:
        """The next action on the way."""
        x, y = float(position[0]), float(position[1])
        goal = self._goals[self._next]
        if np.hypot(goal[0] + 0.5 - x, goal[1] + 0.5 - y) < ARRIVED:
            self._next = (self._next + 1) % len(self._goals)
        return steer(position, direction, waypoint(self._layout, self._far[self._next], x, y))


def _round(
    layout: np.ndarray, start: tuple[int, int], cells: float, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Cells to pass, the last of them the start, so that the way takes about so many cells."""
    home = distances(layout, *start)
    goals, walked = [start], 0.0
    while True:
        far = distances(layout, *goals[-1])
        after = walked + far + home
        near = (home < FAR) & (far > 0) & (after <= max(cells, (far + home)[far > 0].min()))
        if not near.any() or len(goals) > cells:
            break
        ys, xs = np.nonzero(near)
        pick = rng.integers(len(xs))
        walked += far[ys[pick], xs[pick]]
        goals.append((int(xs[pick]), int(ys[pick])))
    return [*goals[1:], start]
