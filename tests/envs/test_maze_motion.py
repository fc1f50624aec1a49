"""The mover against steps measured in the MuJoCo original (dm_control 1.0.50, mujoco 3.17.0)."""

import math

import numpy as np
import pytest

from envs.memory_maze import motion
from envs.memory_maze.motion import HEADING, X, Y

NOOP, FORWARD, LEFT, RIGHT, FORWARD_LEFT = range(5)
HALL = np.zeros((40, 40), np.uint8)  # nothing to bump into
ROOM = np.ones((7, 7), np.uint8)  # free from 0 to 10 metres, both ways
ROOM[1:-1, 1:-1] = 0


def drive(actions, walls=HALL, x=30.0, y=30.0, heading=0.0):
    """States before the first and after each action, from rest."""
    bodies, forces = np.zeros((1, motion.STATE)), np.zeros((1, 3, 6))
    bodies[0, [X, Y, HEADING]] = x, y, heading
    states = [bodies[0].copy()]
    for action in actions:
        motion.move(
            bodies,
            walls[None],
            np.zeros((1, 0, 2)),
            np.array([action]),
            np.array([True]),
            forces,
            np.zeros((1, 0), np.bool_),
        )
        states.append(bodies[0].copy())
    return np.array(states)


def lengths(states):
    """Metres moved in each action."""
    return np.hypot(*np.diff(states[:, [X, Y]], axis=0).T)


def turns(states):
    """Degrees turned to the left in each action."""
    return np.degrees(np.diff(states[:, HEADING]))


# Actions, metres in each, degrees in each.
MEASURED = {
    "forward": ([1] * 6, (0.2215, 0.4376, 0.4859, 0.4966, 0.4989, 0.4994), (0,) * 6),
    "run-out": ([1] * 6 + [0] * 4, (0.2752, 0.0624, 0.0137, 0.0030), (0,) * 4),
    "left": ([2] * 4 + [0], (0,) * 5, (14.107, 18.325, 18.388, 18.399, 2.891)),
    "right": ([3] * 2, (0,) * 2, (-14.107, -18.325)),
    "curve": ([4] * 5, (0.1865, 0.3847, 0.4573, 0.4829, 0.4917), (14.6, 18.3, 18.3, 18.2, 18.2)),
    "turn after run": (
        [1] * 4 + [3] * 4,
        (0.3005, 0.1070, 0.0374, 0.0133),
        (-14.6,) + (-18.4,) * 3,
    ),
}


@pytest.mark.parametrize("name", MEASURED)
def test_steps_are_as_measured(name):
    """Fails where speed, turning, run-up or run-out differ by more than 5 mm or 0.4 degrees."""
    actions, metres, degrees = MEASURED[name]
    states = drive(actions)
    np.testing.assert_allclose(lengths(states)[-len(metres) :], metres, atol=0.005)
    np.testing.assert_allclose(turns(states)[-len(degrees) :], degrees, atol=0.4)


# Degrees towards the wall, metres moved along it in 12 actions forward, degrees turned to face it.
WALL = {10: (0.86, 48.4), 30: (0.46, 33.6), 60: (0.17, 13.2), 90: (0.0, 0.0)}


@pytest.mark.parametrize("angle", WALL)
def test_a_wall_holds_and_turns_whom_it_stops(angle):
    """Fails where a ball slides along walls, or is pushed into them."""
    states = drive([FORWARD] * 12, ROOM, 1.0, 0.25, -math.radians(angle))
    along, turned = WALL[angle]
    assert states[-1, X] - states[0, X] == pytest.approx(along, abs=0.04)
    assert -turns(states).sum() == pytest.approx(turned, abs=2.0)
    assert states[:, Y].min() > motion.RADIUS - 0.02


def test_nothing_leaves_a_room():
    """Fails where a face or a corner lets a ball through at full speed."""
    rng, pillar = np.random.default_rng(0), ROOM.copy()
    pillar[3, 3] = 1
    for _ in range(20):
        states = drive(rng.choice([1, 1, 1, 4, 5, 2], 60), pillar, 1.0, 1.0, rng.uniform(0, 6))
        at = states[:, [X, Y]]
        assert (at > 0.17).all()
        assert (at < 9.83).all()
        assert not ((at > 4) & (at < 6)).all(axis=1).any()


def test_rolling_past_a_corner_needs_no_more_room_than_the_ball():
    """Fails where corners count as squares: this one is passed a hand's breadth away."""
    pillar = ROOM.copy()
    pillar[3, 3] = 1  # from 4 to 6 metres
    states = drive([FORWARD] * 12, pillar, 3.0, 3.78, 0.0)
    assert states[-1, X] > 7


def test_touching_is_between_balls():
    """Fails where touch is not at 0.775 m: 0.8 between the centres, one of them 0.2 higher."""
    for distance, touches in ((0.76, True), (0.79, False)):
        touched = np.zeros((1, 1), np.bool_)
        bodies = np.zeros((1, motion.STATE))
        bodies[0, [X, Y]] = 30.0, 30.0
        arguments = np.array([[[30.0 + distance, 30.0]]]), np.array([NOOP]), np.array([True])
        motion.move(bodies, HALL[None], *arguments, np.zeros((1, 3, 6)), touched)
        assert touched[0, 0] == touches
