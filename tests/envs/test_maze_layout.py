"""Layouts: connected, repeatable, and with labmaze's statistics."""

import numpy as np
import pytest

from envs.memory_maze.layout import below, blocks, generate
from envs.memory_maze.world import SIZES

# Means of 500 mazes of labmaze's RandomMaze, with the rules of each size: rooms, open cells,
# corridor cells (two open neighbours), junctions (three).
LABMAZE = {
    "7x7": (2.32, 32.8, 11.8, 15.9),
    "9x9": (3.71, 59.3, 23.1, 27.2),
    "11x11": (5.21, 86.7, 33.4, 39.5),
    "13x13": (5.94, 110.9, 47.5, 47.0),
    "15x15": (9.00, 145.5, 68.9, 60.2),
}


def draw(size, seed):
    """One layout by the rules of a size."""
    rules = SIZES[size]
    state = np.array([seed], np.uint64)
    return generate(state, rules.cells, rules.max_rooms, room_max=rules.room_max)


def neighbours(walls):
    """How many open neighbours each open cell has; 0 for walls."""
    free = 1 - walls.astype(int)
    around = np.zeros_like(free)
    around[1:-1, 1:-1] = free[:-2, 1:-1] + free[2:, 1:-1] + free[1:-1, :-2] + free[1:-1, 2:]
    return free * around


def reached(walls):
    """How many cells can be reached from the first open one."""
    todo = [tuple(np.argwhere(walls == 0)[0])]
    seen = set(todo)
    while todo:
        y, x = todo.pop()
        for cell in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if not walls[cell] and cell not in seen:
                seen.add(cell)
                todo.append(cell)
    return len(seen)


@pytest.mark.parametrize("size", SIZES)
def test_every_maze_is_closed_and_connected(size):
    """Fails where a door is forgotten, or a corridor is cut when detours are pulled straight."""
    for seed in range(50):
        walls = draw(size, seed).walls
        assert walls[[0, -1]].all()
        assert walls[:, [0, -1]].all()
        assert reached(walls) == (walls == 0).sum()


@pytest.mark.parametrize("size", SIZES)
def test_statistics_are_those_of_labmaze(size):
    """Fails where rooms are placed, doors drawn or mazes simplified in another way."""
    found = []
    for seed in range(300):
        layout = draw(size, seed)
        around = neighbours(layout.walls)
        counts = [len(layout.spawns), (layout.walls == 0).sum()]
        found.append([*counts, (around == 2).sum(), (around == 3).sum()])
        assert not (around == 1).any(), "dead ends are filled"
    means, errors = np.mean(found, 0), np.std(found, 0) / np.sqrt(300)
    assert (np.abs(means - LABMAZE[size]) < 5 * errors + 0.02).all(), means


def test_starts_and_objects_lie_in_their_rooms():
    """Fails where an object is put outside its room, or onto the place to start."""
    for seed in range(100):
        layout = draw("11x11", seed)
        rooms = np.arange(1, len(layout.spawns) + 1)
        for places in (layout.spawns, layout.objects):
            assert (layout.rooms[places[:, 1], places[:, 0]] == rooms).all()
        assert (layout.spawns != layout.objects).any(axis=1).all()


def test_the_state_decides_the_maze():
    """Fails where anything but the state is drawn from."""
    assert all((a == b).all() for a, b in zip(draw("9x9", 4), draw("9x9", 4), strict=True))
    assert (draw("9x9", 4).walls != draw("9x9", 5).walls).any()


def test_numbers_are_drawn_evenly():
    """Fails where the upper numbers are never drawn, or some more often than others."""
    state = np.array([7], np.uint64)
    counts = np.bincount([below(state, 6) for _ in range(6000)], minlength=6)
    assert len(counts) == 6
    assert (np.abs(counts - 1000) < 150).all()  # five standard deviations


def test_walls_change_on_a_raster_of_three_by_three():
    """Fails where blocks are counted from the wrong side: of 11 rows the upper 3 are the fewest."""
    assert [(blocks(11)[:, 0] == b).sum() for b in (6, 3, 0)] == [4, 4, 3]
    assert [(blocks(11)[0] == 6 + b).sum() for b in range(3)] == [3, 4, 4]


@pytest.mark.parametrize("size", [3, 8])
def test_a_size_without_a_raster_of_rooms_is_refused(size):
    """Fails where an even size is taken: the outer wall would have a hole."""
    with pytest.raises(ValueError, match="odd number of cells"):
        generate(np.array([0], np.uint64), size)
