"""What walls, floor and sky look like: drawn by rule, in the colours of the original.

Walls are panels with seams and traces, each colour the same pattern; floors are hexagons.
"""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

WALL_COLOURS = np.array(
    [
        (35, 128, 196),  # blue
        (184, 71, 112),  # cerise
        (173, 206, 163),  # bright green
        (90, 127, 79),  # green
        (74, 87, 192),  # purple
        (224, 128, 108),  # bright red
        (156, 34, 28),  # red
        (214, 184, 41),  # yellow
    ],
    np.float64,
)
# How dark the dark parts of the pattern are, colour by colour.
WALL_CONTRAST = np.array([1.0, 0.9, 0.45, 0.8, 1.0, 0.5, 0.9, 0.9])
FLOOR_COLOURS = np.array([(55.5, 91.5, 112), (115, 153, 176)], np.float64)  # corridors, rooms

# Panels (left, bottom, width, height in parts of 1000, brightness), later ones on top.
_PANELS = (
    (0, 0, 1000, 1000, 1.0),
    (40, 60, 300, 250, 0.97),
    (310, 20, 210, 180, 0.9),
    (560, 90, 340, 260, 1.05),
    (860, 300, 230, 210, 0.92),
    (120, 400, 330, 300, 1.07),
    (430, 470, 180, 160, 0.9),
    (620, 500, 300, 290, 0.98),
    (20, 740, 260, 200, 0.91),
    (330, 770, 280, 190, 1.02),
    (780, 820, 260, 150, 0.95),
)
# Traces as corners (x, y); each ends in a dot.
_TRACES = (
    ((80, 330), (80, 200), (260, 200)),
    ((200, 620), (480, 620)),
    ((520, 120), (520, 420), (700, 420)),
    ((660, 200), (900, 200)),
    ((300, 880), (300, 560)),
    ((700, 700), (700, 900), (560, 900)),
    ((860, 380), (1040, 380), (1040, 560)),
    ((900, 640), (900, 800), (1080, 800)),
    ((420, 300), (240, 300)),
)
# Tiles of the floor that are darker than the others, by number.
_DARK_TILES = {7: 0.84, 14: 0.8, 15: 0.86, 21: 0.8, 22: 0.82, 28: 0.88, 38: 0.84}


class Textures(NamedTuple):
    """Colours [texture, row from below, column, RGB] in [0, 255], at several sizes."""

    walls: list[np.ndarray]
    floors: list[np.ndarray]


@cache
def textures(texels: int, levels: int) -> Textures:
    """All textures, first with so many texels along one cell, then with half as many, and so on."""
    wall, floor = _wall_pattern(texels), _floor_pattern(texels)
    walls, floors = [], []
    for _ in range(levels):
        walls.append(_colour(wall, WALL_COLOURS, WALL_CONTRAST))
        floors.append(_colour(floor, FLOOR_COLOURS, np.ones(2)))
        wall, floor = _shrink(wall, 2), _shrink(floor, 2)
    return Textures(walls, floors)


def _colour(pattern: np.ndarray, colours: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """Brightness 1 is the colour itself."""
    strength = 1 + contrast[:, None, None] * (pattern - 1)
    return np.clip(colours[:, None, None] * strength[..., None], 0, 255)


def _shrink(picture: np.ndarray, times: int) -> np.ndarray:
    size = len(picture) // times
    return picture.reshape(size, times, size, times).mean((1, 3))


def _wall_pattern(texels: int) -> np.ndarray:
    """Twice the same in each direction; drawn four times as large, then averaged."""
    size = 2 * texels
    y, x = np.mgrid[:size, :size] * (1000 / size)
    picture = np.ones((size, size))
    for left, bottom, width, height, brightness in _PANELS:
        u, v = (x - left) % 1000, (y - bottom) % 1000
        inside = (u < width) & (v < height)
        edge = np.minimum(np.minimum(u, width - u), np.minimum(v, height - v))
        picture = np.where(inside, brightness * np.where(edge < 9, 0.68, 1.0), picture)
    picture *= 1 + 0.03 * (((x // 12) + (y // 12)) % 2 - 0.5)
    for corners in _TRACES:
        _draw_trace(picture, x, y, corners)
    return np.tile(_shrink(picture, 4), (2, 2))


def _draw_trace(
    picture: np.ndarray, x: np.ndarray, y: np.ndarray, corners: tuple[tuple[int, int], ...]
) -> None:
    for (x0, y0), (x1, y1) in pairwise(corners):
        u, v = (x - min(x0, x1) + 8) % 1000, (y - min(y0, y1) + 8) % 1000
        picture[(u < abs(x1 - x0) + 16) & (v < abs(y1 - y0) + 16)] = 0.38
    end_x, end_y = corners[-1]
    away = np.hypot((x - end_x + 500) % 1000 - 500, (y - end_y + 500) % 1000 - 500)
    picture[away < 20] = 0.38
    picture[away < 8] = 0.8


def _floor_pattern(texels: int) -> np.ndarray:
    """Hexagons with thin joints; a few of them are darker."""
    size, columns, rows = 2 * texels, 6, 8
    y, x = np.mgrid[:size, :size] / size
    first, second = np.full((2, size, size), 9.0)
    picture = np.ones((size, size))
    for k in range(columns * rows):
        i, j = k % columns, k // columns
        dx = (x - (i + 0.5 * (j % 2)) / columns + 0.5) % 1 - 0.5
        dy = (y - j / rows + 0.5) % 1 - 0.5
        away = np.hypot(dx, dy)
        picture[away < first] = _DARK_TILES.get(k, 1.0)
        second = np.minimum(second, np.maximum(first, away))
        first = np.minimum(first, away)
    return _shrink(picture * np.where(second - first < 0.012, 0.92, 1.0), 2)
