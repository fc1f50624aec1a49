"""What can be seen from where one stands, from what `info` says and nothing else.

Geometry, not pixels: a cell is seen where a ray of the field of view enters it, an object where its
middle two thirds are in the open. So the same holds in our mazes and in the MuJoCo original. Units
are cells, as in `info`. Compiled functions call only those of their own file and use only its
constants: Numba's cache notices changes of that file alone.
"""

import math

import numpy as np
from numba import njit

FIELD_OF_VIEW = math.radians(76.0)  # 80° without the border
EYE_AHEAD = 0.075  # of the body's centre
RAYS = 96
WIDE = 0.2  # half of how much of an object is looked for
STEP = 0.02

_njit = njit(cache=True, error_model="numpy")


@_njit
def cells_in_sight(layout: np.ndarray, positions: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Which cells are seen from each of T poses, (T, rows, columns); walls by their faces."""
    seen = np.zeros((len(positions), *layout.shape), np.bool_)
    for t in range(len(positions)):
        heading = math.atan2(directions[t, 1], directions[t, 0])
        x = positions[t, 0] + EYE_AHEAD * math.cos(heading)
        y = positions[t, 1] + EYE_AHEAD * math.sin(heading)
        for k in range(RAYS):
            angle = heading + ((k + 0.5) / RAYS - 0.5) * FIELD_OF_VIEW
            _follow(layout, x, y, math.cos(angle), math.sin(angle), seen[t])
    return seen


@_njit
def _follow(layout: np.ndarray, x: float, y: float, dx: float, dy: float, seen: np.ndarray) -> None:
    """Note the cells along a ray up to the first wall, the wall included."""
    i, j = math.floor(x), math.floor(y)
    step_i, step_j = (1 if dx > 0 else -1), (1 if dy > 0 else -1)
    per_i, per_j = 1 / max(abs(dx), 1e-12), 1 / max(abs(dy), 1e-12)
    next_i = (i + (dx > 0) - x) * step_i * per_i
    next_j = (j + (dy > 0) - y) * step_j * per_j
    height, width = layout.shape
    while 0 <= i < width and 0 <= j < height:
        seen[j, i] = True
        if not layout[j, i]:
            return
        if next_i < next_j:
            next_i += per_i
            i += step_i
        else:
            next_j += per_j
            j += step_j


@_njit
def objects_in_sight(
    layout: np.ndarray, positions: np.ndarray, directions: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """Which objects are seen from each of T poses, (T, objects)."""
    seen = np.zeros((len(positions), len(objects)), np.bool_)
    for t in range(len(positions)):
        fx, fy = directions[t, 0], directions[t, 1]
        x, y = positions[t, 0] + EYE_AHEAD * fx, positions[t, 1] + EYE_AHEAD * fy
        for k in range(len(objects)):
            seen[t, k] = _is_seen(layout, x, y, fx, fy, objects[k, 0], objects[k, 1])
    return seen


@_njit
def _is_seen(
    layout: np.ndarray, x: float, y: float, fx: float, fy: float, to_x: float, to_y: float
) -> bool:
    """Whether the middle of an object or either side of it is in view and before all walls."""
    far = max(math.hypot(to_x - x, to_y - y), 1e-6)
    aside_x, aside_y = -(to_y - y) / far, (to_x - x) / far
    for side in range(-1, 2):
        dx, dy = to_x - x + side * WIDE * aside_x, to_y - y + side * WIDE * aside_y
        angle = math.atan2(fx * dy - fy * dx, fx * dx + fy * dy)
        if abs(angle) <= FIELD_OF_VIEW / 2 and _is_clear(layout, x, y, dx, dy):
            return True
    return False


@_njit
def _is_clear(layout: np.ndarray, x: float, y: float, dx: float, dy: float) -> bool:
    """Whether there is no wall on the straight way to a point."""
    steps = int(math.hypot(dx, dy) / STEP) + 1
    height, width = layout.shape
    for k in range(steps + 1):
        i, j = math.floor(x + dx * k / steps), math.floor(y + dy * k / steps)
        if i < 0 or j < 0 or i >= width or j >= height or not layout[j, i]:
            return False
    return True
