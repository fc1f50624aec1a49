"""Mazes of rooms and corridors, with the statistics of labmaze's `RandomMaze`.

Rooms are put down at random without touching, what is left is filled with corridors, neighbouring
regions get one door each, and then dead ends are filled and detours pulled straight. Unusual:
everything is drawn from one 64-bit state (`below`), so a maze is its seed, whoever compiles it.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

OPEN, WALL, DOOR = 0, 1, 2
TRIES = 1000  # how often to try for one more room
BLOCKS = 3  # wall textures change on a raster of 3 × 3 blocks

_njit = njit(cache=True, error_model="numpy")
_STEPS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])


class Layout(NamedTuple):
    """A maze with its outer walls, in rows and columns from its lower left corner.

    `walls` is 1 where there is a wall; `rooms` numbers the rooms from 1, and is 0 elsewhere; each
    room has one row (x, y) of `spawns` and of `objects`.
    """

    walls: np.ndarray
    rooms: np.ndarray
    spawns: np.ndarray
    objects: np.ndarray


@_njit
def below(state: np.ndarray, limit: Any) -> Any:
    """A whole number in [0, limit) from a state of one uint64, which moves on (SplitMix64)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.int64((z >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32))


def generate(
    state: np.ndarray, size: int, max_rooms: int = 6, room_min: int = 3, room_max: int = 5
) -> Layout:
    """A maze of `size` × `size` cells inside its outer walls; `state` is one uint64."""
    if size < 5 or size % 2 == 0:
        raise ValueError(f"maze size is {size}: give an odd number of cells, at least 5")
    grid = np.full((size + 2, size + 2), WALL, np.uint8)
    ids = np.zeros(grid.shape, np.int64)
    rooms = _place_rooms(state, len(grid), max_rooms, room_min, room_max)
    for number, (y, x, height, width) in enumerate(rooms.tolist(), start=1):
        grid[y : y + height, x : x + width] = OPEN
        ids[y : y + height, x : x + width] = number
    _fill_with_corridors(state, grid, ids, len(rooms) + 1)
    doors = _open_doors(state, grid, ids, int(ids.max()) + 1)
    _fill_dead_ends(grid)
    _pull_detours_straight(grid)
    for y, x, dy, dx in doors.tolist():
        grid[y, x] = WALL if grid[y + dy, x + dx] == WALL else OPEN
    return Layout(grid, np.where(ids <= len(rooms), ids, 0), *_place_in_rooms(state, rooms))


@_njit
def _place_rooms(
    state: np.ndarray, size: int, max_rooms: int, room_min: int, room_max: int
) -> np.ndarray:
    """Rows of (y, x, height, width), on odd coordinates, one wall or more apart; shuffled."""
    rooms = np.zeros((max_rooms, 4), np.int64)
    count = failures = 0
    while count < max_rooms and failures < TRIES:
        _random_room(state, size, room_min, room_max, rooms[count])
        if _is_apart(rooms, count):
            count += 1
        else:
            failures += 1
    for k in range(count - 1, 0, -1):
        other = below(state, k + 1)
        for part in range(4):
            rooms[k, part], rooms[other, part] = rooms[other, part], rooms[k, part]
    return rooms[:count]


@_njit
def _random_room(
    state: np.ndarray, size: int, room_min: int, room_max: int, room: np.ndarray
) -> None:
    """Small, or longer in one direction: sides are odd, counted here in halves."""
    low, high, whole = (room_min - 1) // 2, (room_max - 1) // 2, (size - 1) // 2
    middle = (low + high) // 2
    height = low + below(state, middle - low + 1)
    width = low + below(state, middle - low + 1)
    longer = below(state, high - middle + 1)
    if below(state, 2) == 0:
        width += longer
    else:
        height += longer
    y, x = below(state, whole - height), below(state, whole - width)
    room[0], room[1], room[2], room[3] = 2 * y + 1, 2 * x + 1, 2 * height + 1, 2 * width + 1


@_njit
def _is_apart(rooms: np.ndarray, last: int) -> bool:
    """Whether the last of the rooms overlaps none before it."""
    y, x, height, width = rooms[last]
    for k in range(last):
        oy, ox, oh, ow = rooms[k]
        if y < oy + oh and oy < y + height and x < ox + ow and ox < x + width:
            return False
    return True


@_njit
def _fill_with_corridors(state: np.ndarray, grid: np.ndarray, ids: np.ndarray, first: int) -> None:
    size = len(grid)
    for y in range(1, size, 2):
        for x in range(1, size, 2):
            if ids[y, x] == 0:
                _dig(state, grid, ids, y, x, first)
                first += 1


@_njit
def _dig(state: np.ndarray, grid: np.ndarray, ids: np.ndarray, y: int, x: int, number: int) -> None:
    """A random tree of corridors over all free odd cells that can be reached from here."""
    size = len(grid)
    stack = [(y, x)]
    grid[y, x], ids[y, x] = OPEN, number
    ways = np.zeros(4, np.int64)
    while len(stack) > 0:
        y, x = stack[-1]
        count = 0
        for k in range(4):
            ny, nx = y + 2 * _STEPS[k, 0], x + 2 * _STEPS[k, 1]
            if 0 < ny < size and 0 < nx < size and ids[ny, nx] == 0:
                ways[count] = k
                count += 1
        if count == 0:
            stack.pop()
            continue
        dy, dx = _STEPS[ways[below(state, count)]]
        for _ in range(2):
            y, x = y + dy, x + dx
            grid[y, x], ids[y, x] = OPEN, number
        stack.append((y, x))


@_njit
def _open_doors(state: np.ndarray, grid: np.ndarray, ids: np.ndarray, regions: int) -> np.ndarray:
    """One door between any two regions that share a wall: rows (y, x, dy, dx), into the later."""
    size = len(grid)
    seen = np.zeros((regions, regions), np.int64)
    chosen = np.zeros((regions, regions, 4), np.int64)
    for y in range(1, size, 2):
        for x in range(1, size, 2):
            for k in range(4):
                dy, dx = _STEPS[k]
                ny, nx = y + 2 * dy, x + 2 * dx
                if 0 < ny < size and 0 < nx < size and ids[ny, nx] > ids[y, x]:
                    one, two = ids[y, x], ids[ny, nx]
                    seen[one, two] += 1
                    # Each of them is kept with equal chance.
                    if below(state, seen[one, two]) == 0:
                        chosen[one, two, 0], chosen[one, two, 1] = y + dy, x + dx
                        chosen[one, two, 2], chosen[one, two, 3] = dy, dx
    doors = np.zeros((grid.size, 4), np.int64)
    count = 0
    for one in range(regions):
        for two in range(regions):
            if seen[one, two] > 0:
                for part in range(4):
                    doors[count, part] = chosen[one, two, part]
                grid[doors[count, 0], doors[count, 1]] = DOOR
                count += 1
    return doors[:count]


@_njit
def _fill_dead_ends(grid: np.ndarray) -> None:
    size = len(grid)
    for row in range(1, size - 1):
        for column in range(1, size - 1):
            y, x = row, column
            while grid[y, x] == OPEN:
                walls, ahead = 0, -1
                for k in range(4):
                    cell = grid[y + _STEPS[k, 0], x + _STEPS[k, 1]]
                    walls += cell == WALL
                    ahead = k if cell == OPEN else ahead
                if walls < 3:
                    break
                grid[y, x] = WALL
                if ahead < 0:
                    break
                y, x = y + _STEPS[ahead, 0], x + _STEPS[ahead, 1]


@_njit
def _pull_detours_straight(grid: np.ndarray) -> None:
    """Remove U-shaped bends, narrow ones first; a wider one may make new narrow ones."""
    size = len(grid)
    width = 1
    while width + 3 < size:
        removed = _remove_a_bend(grid, width)
        width = 1 if removed and width > 1 else width + 1


@_njit
def _remove_a_bend(grid: np.ndarray, width: int) -> bool:
    size = len(grid)
    for y in range(size):
        for x in range(size):
            if grid[y, x] == WALL and _straighten(grid, y, x, width):
                return True
    return False


@_njit
def _straighten(grid: np.ndarray, y: int, x: int, width: int) -> bool:
    """Pull the corridor that bends around the wall starting here; go on as far as it goes."""
    removed = found = True
    removed = False
    while found:
        found = False
        for k in range(4):
            vy, vx = _STEPS[k]
            uy, ux = -vx, vy
            if _is_bend(grid, y, x, vy, vx, uy, ux, width):
                for u in range(-1, width + 1):
                    ny, nx = y + u * uy + vy, x + u * ux + vx
                    if 0 <= u < width:
                        grid[y + u * uy, x + u * ux] = grid[ny, nx]
                    grid[ny, nx] = WALL
                y, x = y - vy, x - vx
                removed = found = True
                break
    return removed


@_njit
def _is_bend(
    grid: np.ndarray, y: int, x: int, vy: int, vx: int, uy: int, ux: int, width: int
) -> bool:
    """Whether a corridor runs around `width` cells of wall: up on one side, across, and down."""
    for u in range(-2, width + 2):
        inside = 0 <= u < width
        beside = u in (-1, width)
        for v in range(-1, 3):
            if v == -1 and not inside:
                continue
            if v in (0, 2) and not (inside or beside):
                continue
            corridor = (v == 1 and (inside or beside)) or (v == 0 and beside)
            if _at(grid, y + u * uy + v * vy, x + u * ux + v * vx) != (OPEN if corridor else WALL):
                return False
    return True


@_njit
def _at(grid: np.ndarray, y: int, x: int) -> int:
    size = len(grid)
    return grid[y, x] if 0 <= y < size and 0 <= x < size else DOOR


def _place_in_rooms(state: np.ndarray, rooms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One place to start and one for an object in each room, never the same cell: rows (x, y)."""
    spawns, objects = [], []
    for y, x, height, width in rooms.tolist():
        one, two = below(state, height * width), below(state, height * width - 1)
        two += two >= one
        spawns.append((x + one % width, y + one // width))
        objects.append((x + two % width, y + two // width))
    return np.array(spawns), np.array(objects)


def blocks(size: int) -> np.ndarray:
    """Which of the 3 × 3 blocks of wall texture each cell of a maze with outer walls is in."""
    part = np.searchsorted([size // BLOCKS, 2 * size // BLOCKS], np.arange(size), side="right")
    # Rows are counted from the top there, so the lower blocks are the larger ones.
    return part[::-1, None] * BLOCKS + part[None, :]
