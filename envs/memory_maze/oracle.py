"""The shortest way to the object asked for, from what `info` says and nothing else.

So the same policy plays in our mazes and in the MuJoCo original. Units are cells: `layout[y, x]` is
1 where one can walk, and positions count from the lower left corner of cell (0, 0). Compiled
functions call only those of their own file: Numba's cache notices changes of that file alone.
"""

import math

import numpy as np
from numba import njit

NOOP, FORWARD, LEFT, RIGHT, FORWARD_LEFT, FORWARD_RIGHT = range(6)
CLEARANCE = 0.15  # body radius and a little, in cells
STRAIGHT = math.radians(9.0)  # half of what one turning step turns
ON_THE_MOVE = math.radians(70.0)  # turn in place beyond this
FAR = 1e9
CLOSE = 0.55  # an explorer turns where a wall is nearer than this
FEELERS = math.radians(35.0)  # to either side
WHIM = 0.15  # how often it does something else

_njit = njit(cache=True, error_model="numpy")


@_njit
def distances(layout: np.ndarray, x: int, y: int) -> np.ndarray:
    """How far each cell is from cell (x, y) in steps to 8 neighbours, past corners and not through.

    A cell that cannot be reached has `FAR`.
    """
    height, width = layout.shape
    far = np.full((height, width), FAR)
    far[y, x] = 0.0
    changed = True
    while changed:
        changed = False
        for j in range(height):
            for i in range(width):
                if layout[j, i]:
                    best = _through_neighbours(layout, far, i, j)
                    if best < far[j, i] - 1e-9:
                        far[j, i] = best
                        changed = True
    return far


@_njit
def _through_neighbours(layout: np.ndarray, far: np.ndarray, x: int, y: int) -> float:
    height, width = layout.shape
    best = far[y, x]
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            i, j = x + dx, y + dy
            if 0 <= i < width and 0 <= j < height and layout[j, x] and layout[y, i]:
                best = min(best, far[j, i] + math.hypot(dx, dy))
    return best


@_njit
def is_free(layout: np.ndarray, x: float, y: float) -> bool:
    """Whether a body as wide as `CLEARANCE` fits here."""
    height, width = layout.shape
    for sx in (-CLEARANCE, CLEARANCE):
        for sy in (-CLEARANCE, CLEARANCE):
            i, j = math.floor(x + sx), math.floor(y + sy)
            if i < 0 or j < 0 or i >= width or j >= height or not layout[j, i]:
                return False
    return True


@_njit
def is_clear(layout: np.ndarray, x: float, y: float, to_x: float, to_y: float) -> bool:
    """Whether such a body can walk straight from one point to the other."""
    steps = int(math.hypot(to_x - x, to_y - y) / 0.1) + 1
    for k in range(steps + 1):
        part = k / steps
        if not is_free(layout, x + part * (to_x - x), y + part * (to_y - y)):
            return False
    return True


@_njit
def waypoint(layout: np.ndarray, far: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """The centre of the cell to head for: in plain reach, and on the shortest way through it.

    Whoever is squeezed against a wall goes to the middle of its own cell first.
    """
    _, best_x, best_y = _shortest(layout, far, x, y)
    return best_x, best_y


@_njit
def way_length(layout: np.ndarray, far: np.ndarray, x: float, y: float) -> float:
    """How long the shortest way from a point is; `far` as `distances` has it."""
    return _shortest(layout, far, x, y)[0]


@_njit
def _shortest(
    layout: np.ndarray, far: np.ndarray, x: float, y: float
) -> tuple[float, float, float]:
    height, width = layout.shape
    best_x, best_y = math.floor(x) + 0.5, math.floor(y) + 0.5
    best, found = math.hypot(best_x - x, best_y - y) + far[math.floor(y), math.floor(x)], FAR
    for j in range(height):
        for i in range(width):
            length = math.hypot(i + 0.5 - x, j + 0.5 - y) + far[j, i]
            if length < found - 1e-6 and is_clear(layout, x, y, i + 0.5, j + 0.5):
                best, found, best_x, best_y = length, length, i + 0.5, j + 0.5
    return best, best_x, best_y


def steer(position: np.ndarray, direction: np.ndarray, goal: tuple[float, float]) -> int:
    """The action that turns towards a point, and walks when it is about ahead."""
    dx, dy = goal[0] - position[0], goal[1] - position[1]
    ahead = direction[0] * dx + direction[1] * dy
    aside = direction[0] * dy - direction[1] * dx
    error = math.atan2(aside, ahead)  # positive: it lies to the left
    if abs(error) < STRAIGHT:
        return FORWARD
    if abs(error) < ON_THE_MOVE:
        return FORWARD_LEFT if error > 0 else FORWARD_RIGHT
    return LEFT if error > 0 else RIGHT


class Oracle:
    """Knows the maze and where everything is: walks to the object asked for the shortest way."""

    def __init__(self) -> None:
        self._key: tuple[bytes, int, int] | None = None
        self._far = np.zeros((0, 0))

    def act(
        self,
        layout: np.ndarray,
        position: np.ndarray,
        direction: np.ndarray,
        target: np.ndarray,
    ) -> int:
        """The next action on the shortest way from a pose to a target."""
        x, y = int(target[0]), int(target[1])
        key = (layout.tobytes(), x, y)
        if key != self._key:
            self._key, self._far = key, distances(layout, x, y)
        goal = waypoint(layout, self._far, float(position[0]), float(position[1]))
        return steer(position, direction, goal)


def wander(
    layout: np.ndarray,
    position: np.ndarray,
    heading: float,
    turning: float,
    rng: np.random.Generator,
) -> int:
    """An explorer's action: straight on; before a wall to the freer side; at times anything."""
    if rng.random() < WHIM:
        return int(rng.integers(6))
    x, y = float(position[0]), float(position[1])
    left, ahead, right = (
        free_way(layout, x, y, heading + aside) for aside in (FEELERS, 0.0, -FEELERS)
    )
    if min(left, ahead, right) > CLOSE:
        return FORWARD
    if abs(turning) > 0.3:  # go on turning, or it may stay in a corner
        to_left = turning > 0
    else:
        to_left = left > right or (left == right and bool(rng.integers(2)))
    if ahead > CLOSE:
        return FORWARD_LEFT if to_left else FORWARD_RIGHT
    return LEFT if to_left else RIGHT


@_njit
def free_way(layout: np.ndarray, x: float, y: float, heading: float) -> float:
    """How far it is to a wall, in tenths of a cell, up to 2 cells."""
    height, width = layout.shape
    for k in range(1, 20):
        i = math.floor(x + 0.1 * k * math.cos(heading))
        j = math.floor(y + 0.1 * k * math.sin(heading))
        if i < 0 or j < 0 or i >= width or j >= height or not layout[j, i]:
            return 0.1 * k
    return 2.0
