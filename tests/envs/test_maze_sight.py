"""What is in sight by geometry is what is in the picture."""

import numpy as np
import pytest

from envs.memory_maze import sight
from envs.memory_maze.motion import CELL, HEADING, X, Y
from envs.memory_maze.oracle import distances, wander, way_length
from envs.memory_maze.world import World

ROOM = np.ones((3, 5), np.uint8)
DIVIDED = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1]], np.uint8)
EAST, WEST = np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]])


def seen_from(layout, direction, target, at=(0.5, 0.5)):
    """Whether a target is in sight from a place."""
    place, targets = np.array([at]), np.array([target])
    return bool(sight.objects_in_sight(layout, place, direction, targets)[0, 0])


def test_objects_by_hand():
    """Fails where something behind the back, behind a wall or beside the picture is seen."""
    assert seen_from(ROOM, EAST, (4.5, 0.5))
    assert not seen_from(ROOM, WEST, (4.5, 0.5))
    assert not seen_from(DIVIDED, EAST, (4.5, 0.5))
    assert seen_from(ROOM, EAST, (2.5, 1.5))  # 28° aside
    assert not seen_from(ROOM, EAST, (1.5, 2.5))  # 65° aside


def test_cells_by_hand():
    """Fails where rays pass walls, or do not show the walls that they end at."""
    seen = sight.cells_in_sight(DIVIDED, np.array([[0.5, 0.5]]), EAST)[0]
    assert seen[0].tolist() == [True, True, True, False, False]
    assert not seen[:2, 3:].any()
    assert seen[1, 2]
    assert not sight.cells_in_sight(ROOM, np.array([[2.5, 1.5]]), EAST)[0][:, :2].any()


@pytest.fixture(scope="module")
def world():
    """Mazes whose bodies have walked for a while."""
    world, rng = World("9x9", 60), np.random.default_rng(0)
    for index in range(world.count):
        world.reset(index, index)
    layouts = 1 - world.walls[:, 1:-1, 1:-1]
    for _ in range(60):
        places, headings = world.bodies[:, [X, Y]] / CELL, world.bodies[:, HEADING]
        views = zip(layouts, places, headings, strict=True)
        actions = [wander(*view, 0.0, rng) for view in views]
        world.step(np.array(actions), np.ones(world.count, np.bool_))
    return world


def in_picture(world, rng):
    """For random poses of the bodies, which objects change the picture, and which are in sight."""
    world.bodies[:, HEADING] = rng.uniform(0, 2 * np.pi, world.count)
    info, pictures = world.info(), world.frames()
    changes, expected = [], []
    for k in range(world.targets.shape[1]):
        kept = world.targets.copy()
        world.targets[:, k] = -500
        differs = (world.frames() != pictures).any(-1)
        world.targets[:] = kept
        changes.append(differs.reshape(world.count, -1).sum(-1) > 2)
    for i in range(world.count):
        one = [info[name][i] for name in ("maze_layout", "agent_pos", "agent_dir", "targets_pos")]
        expected.append(sight.objects_in_sight(one[0], one[1][None], one[2][None], one[3])[0])
    return np.array(changes).T, np.array(expected)


def test_objects_in_sight_are_those_in_the_picture(world):
    """Fails where the field of view, the eye or the walls are not those of the pictures."""
    rng = np.random.default_rng(1)
    pairs = [in_picture(world, rng) for _ in range(20)]
    drawn, seen = (np.concatenate(part) for part in zip(*pairs, strict=True))
    assert 0.03 < drawn.mean() < 0.5
    assert (drawn == seen).mean() > 0.985
    assert (drawn & seen).sum() > 0.85 * drawn.sum()


def test_lengths_of_ways_by_hand():
    """Fails where a way cuts a corner, or is measured between centres of cells only."""
    far = distances(DIVIDED, 4, 0)
    assert way_length(DIVIDED, far, 4.5, 1.25) == pytest.approx(0.75)
    assert way_length(DIVIDED, far, 0.5, 2.5) == pytest.approx(3 + np.sqrt(2) + 1)
    assert way_length(DIVIDED, distances(DIVIDED, 3, 1), 1.5, 1.5) == pytest.approx(1 + 2 + 1)
