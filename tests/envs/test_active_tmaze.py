"""The active T-Maze: its rewards by hand, and that its cue has to be fetched and remembered."""

import numpy as np
import pytest

from envs.active_tmaze import ActiveTMaze
from envs.tmaze import BACK, CORRIDOR, DOWN, FORWARD, JUNCTION, UP

SLIP = -1 / 3
CUE, CORRIDOR_SEEN, JUNCTION_SEEN = (list(np.eye(4)[k]) for k in (0, CORRIDOR, JUNCTION))
WALK = [
    # action, its reward, what is seen then
    (UP, SLIP, CORRIDOR_SEEN),
    (FORWARD, 0, CORRIDOR_SEEN),
    (BACK, 0, CORRIDOR_SEEN),
    (BACK, 0, CORRIDOR_SEEN),
    (BACK, 0, CUE),
    (BACK, SLIP, CUE),
    (FORWARD, 0, CORRIDOR_SEEN),
    (BACK, SLIP, CUE),
    *[(FORWARD, 0, CORRIDOR_SEEN)] * 4,
    (FORWARD, 0, JUNCTION_SEEN),
    (FORWARD, SLIP, JUNCTION_SEEN),
    (BACK, SLIP, JUNCTION_SEEN),
]


def seed_with_cue(env, cue):
    """A seed of an episode with this cue."""
    return next(seed for seed in range(100) if look_back(env, seed) == cue)


def look_back(env, seed):
    """The cue of an episode."""
    env.reset(seed=seed)
    for _ in range(env.before):
        seen = env.step(BACK)[0]
    return int(seen[:CORRIDOR].argmax())


@pytest.mark.parametrize(("turn", "success"), [(UP, True), (DOWN, False)])
def test_rewards_by_hand(play, turn, success):
    """Fails where a step costs, moves or shows something else than the card says."""
    env = ActiveTMaze(length=3, fetch=2)
    seed = seed_with_cue(env, 0)
    actions = [action for action, *_ in WALK] + [turn]
    observations, rewards, terminated, truncated, info = play(env, iter(actions), seed)
    assert rewards == [paid for _, paid, _ in WALK] + [float(success)]
    assert [list(o) for o in observations[1:-1]] == [seen for *_, seen in WALK]
    assert list(observations[0]) == CORRIDOR_SEEN
    assert (terminated, truncated, info) == (True, False, {"is_success": success})


def test_truncates_after_the_spare_steps(play):
    """Fails where an episode is longer or shorter than fetching, walking, turning and wasting."""
    env = ActiveTMaze(length=4, spare=2, fetch=3)
    _, rewards, terminated, truncated, info = play(env, lambda _: UP, seed=0)
    assert len(rewards) == 2 * 3 + 4 + 1 + 2
    assert (terminated, truncated, info) == (False, True, {"is_success": False})


@pytest.mark.parametrize("fetch", [1, 4])
def test_there_is_just_time_for_all_that_is_needed(play, fetch):
    """Fails where the oracle takes a detour, pays for one, or has too little time."""
    env = ActiveTMaze(length=2, spare=0, fetch=fetch)
    _, rewards, terminated, truncated, _ = play(env, lambda _: env.oracle(), seed=0)
    assert (rewards, terminated, truncated) == ([0] * (2 * fetch + 2) + [1], True, False)


def test_the_cue_is_seen_in_its_cell_only(play):
    """Fails where a cue is seen at the start, ahead of it, or not in its cell."""
    env = ActiveTMaze(length=6, spare=40, fetch=2)
    wander, seen = np.random.default_rng(0), 0
    for seed in range(20):
        env.reset(seed=seed)
        position = 0
        for action in wander.integers(2, size=30):  # forward and back
            observation, *_ = env.step(action)
            position = max(position - 1, -2) if action == BACK and position < 6 else position
            position = min(position + 1, 6) if action == FORWARD else position
            assert observation[:CORRIDOR].any() == (position == -2)
            seen += position == -2
    assert seen > 20


def test_who_never_fetches_the_cue_sees_the_same_whatever_it_is(play):
    """Fails where the right turn can be known without going back: then nothing is active here."""
    env, way = ActiveTMaze(length=10), [FORWARD] * 10 + [UP]
    episodes = [play(env, iter(way), seed) for seed in range(300)]
    seen = np.array([np.stack(observations) for observations, *_ in episodes])
    assert (seen == seen[0]).all()
    assert 0.4 <= np.mean([info["is_success"] for *_, info in episodes]) <= 0.6


def test_explorers_fetch_the_cue_in_half_of_their_episodes(play):
    """Fails where data of an explorer does not show what fetching is good for, or only that."""
    env, rng = ActiveTMaze(length=50, fetch=3), np.random.default_rng(0)
    episodes = [play(env, lambda _: env.explore(rng), seed) for seed in range(200)]
    fetched = [np.stack(seen)[:, :CORRIDOR].any() for seen, *_ in episodes]
    assert 0.4 <= np.mean(fetched) <= 0.65
    assert np.mean([terminated for _, _, terminated, *_ in episodes]) > 0.9


@pytest.mark.parametrize(
    "setting", [{"length": 0}, {"spare": -1}, {"fetch": 0}, {"render_mode": "human"}], ids=str
)
def test_impossible_settings_are_named(setting):
    """Fails where a setting is accepted that makes no maze, or the message names another."""
    with pytest.raises(ValueError, match=f"ActiveTMaze {next(iter(setting))}"):
        ActiveTMaze(**setting)


def test_renders():
    """Fails where the cells before the start are not drawn, or the agent is drawn elsewhere."""
    env = ActiveTMaze(length=3, fetch=2, render_mode="ansi")
    env.reset(seed=0)
    assert str(env.render()).startswith("..@..T ")
    env.step(BACK)
    assert str(env.render()).startswith(".@...T ")
    picture = ActiveTMaze(length=3, fetch=2, render_mode="rgb_array").render()
    assert picture.shape == (24, 48, 3)
    assert (picture[12, 20] == (220, 40, 40)).all()
