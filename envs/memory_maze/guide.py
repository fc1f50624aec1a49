"""Walks from cell to cell: to places drawn at random, and at times back the way one came.

A place is (x, y, heading): a cell, and 0 to 3 for the directions +x, +y, -x and -y. One step goes a
cell ahead or makes a quarter turn. Going back, one walks backwards: every place comes again as it
was seen.
"""

from collections import deque

import numpy as np

Cell = tuple[int, int]
Place = tuple[int, int, int]

AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))
CODE = 48  # numbers that say where a place is
REACH, TURNED = 0.8, 1.5  # cells: how far a code is like its neighbours', and what a heading counts
CODE_SEED = 5

BACK = 0.5  # how often the next walk goes back where one came from
SHORTEST = 8  # steps of such a way back


def walk(layout: np.ndarray, start: Place, steps: int, rng: np.random.Generator) -> list[Place]:
    """The start and so many places after it; `layout[y, x]` is 1 where one can walk."""
    places = [start]
    while len(places) <= steps:
        if len(places) > SHORTEST and rng.random() < BACK:
            log_length = rng.uniform(np.log(SHORTEST), np.log(len(places)))
            places += there_and_back(places)[: int(np.exp(log_length))]
        else:
            places += _to_anywhere(layout, places[-1], rng)
    return places[: steps + 1]


def there_and_back(places: list[Place]) -> list[Place]:
    """What comes after these places when one goes back to the first of them."""
    return places[-2::-1]


def _to_anywhere(layout: np.ndarray, start: Place, rng: np.random.Generator) -> list[Place]:
    """To a cell drawn from all that can be reached, or a turn where there is none."""
    x, y, heading = start
    came_from = _explored(layout, (x, y))
    others = sorted(cell for cell in came_from if cell != (x, y))
    if not others:
        return [(x, y, (heading + 1) % 4)]
    cell, way = others[rng.integers(len(others))], list[Cell]()
    while cell != (x, y):
        way.append(cell)
        cell = came_from[cell]
    return _stroll(start, way[::-1])


def _explored(layout: np.ndarray, start: Cell) -> dict[Cell, Cell]:
    """Every cell that can be reached, and from where on the shortest way."""
    came_from, waiting = {start: start}, deque([start])
    while waiting:
        x, y = waiting.popleft()
        for dx, dy in AHEAD:
            cell = (x + dx, y + dy)
            if cell not in came_from and is_open(layout, cell):
                came_from[cell] = (x, y)
                waiting.append(cell)
    return came_from


def _stroll(start: Place, way: list[Cell]) -> list[Place]:
    """Along neighbouring cells, turned to face each before going there."""
    (x, y, heading), places = start, list[Place]()
    for cell in way:
        wanted = AHEAD.index((cell[0] - x, cell[1] - y))
        while heading != wanted:
            heading = (heading + (3 if (wanted - heading) % 4 == 3 else 1)) % 4
            places.append((x, y, heading))
        x, y = cell
        places.append((x, y, heading))
    return places


def place_codes(cells: int) -> np.ndarray:
    """Codes of all places, (x, y, heading, CODE), in [-1, 1].

    Waves of random length and direction, as of grid cells: the product of two codes falls off with
    the distance of their places like a bell curve (Rahimi and Recht 2007), so that near places are
    alike and all others are not, without having to be learned.
    """
    rng = np.random.default_rng(CODE_SEED)
    waves, phases = rng.normal(size=(4, CODE)) / REACH, rng.uniform(0, 2 * np.pi, CODE)
    x, y, heading = np.indices((cells, cells, 4))
    angle = heading * np.pi / 2
    place = np.stack((x, y, TURNED * np.cos(angle), TURNED * np.sin(angle)), -1)
    return np.cos(place @ waves + phases).astype(np.float32)


def is_open(layout: np.ndarray, cell: Cell) -> bool:
    """Whether one can stand in a cell."""
    x, y = cell
    height, width = layout.shape
    return 0 <= x < width and 0 <= y < height and bool(layout[y, x])
