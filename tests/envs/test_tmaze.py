"""The T-Maze: its rewards by hand, and that memory is what it asks for."""

import numpy as np
import pytest

from envs.tmaze import BACK, DOWN, FORWARD, UP, TMaze, TMazeOracle

IN_CORRIDOR, AT_JUNCTION = [0, 0, 1, 0], [0, 0, 0, 1]


def seed_with_cue(env, cue):
    return next(seed for seed in range(100) if env.reset(seed=seed)[0][cue])


@pytest.mark.parametrize(("turn", "success"), [(UP, True), (DOWN, False)])
def test_rewards_by_hand(play, turn, success):
    env = TMaze(length=3)
    actions = [FORWARD, BACK, BACK, UP, FORWARD, FORWARD, FORWARD, FORWARD, BACK, turn]
    seed = seed_with_cue(env, 0)
    observations, rewards, terminated, truncated, info = play(env, iter(actions), seed)
    slip = -1 / 3
    assert rewards == [0, slip, slip, slip, 0, 0, 0, slip, slip, float(success)]
    assert (terminated, truncated, info) == (True, False, {"is_success": success})
    expected = [[1, 0, 0, 0], *[IN_CORRIDOR] * 6, *[AT_JUNCTION] * 4]
    assert [list(o) for o in observations] == expected


def test_truncates_after_the_spare_steps(play):
    _, rewards, terminated, truncated, info = play(TMaze(length=4, spare=2), lambda _: BACK, seed=0)
    assert len(rewards) == 4 + 1 + 2
    assert (terminated, truncated, info) == (False, True, {"is_success": False})


@pytest.mark.parametrize(("length", "spare"), [(4, 8), (100, 8), (500, 40)])
def test_a_long_corridor_has_more_steps_to_spare(play, length, spare):
    _, rewards, *_ = play(TMaze(length), lambda _: BACK, seed=0)
    assert len(rewards) == length + 1 + spare


def test_a_turn_on_the_last_step_terminates(play):
    env = TMaze(length=2, spare=0)
    _, rewards, terminated, truncated, _ = play(env, TMazeOracle().act, seed=0)
    assert (rewards, terminated, truncated) == ([0, 0, 1], True, False)


def test_the_cue_is_shown_exactly_once(play):
    env = TMaze(length=6)
    wander = np.random.default_rng(0)
    for seed in range(20):
        observations, *_ = play(env, lambda _: int(wander.integers(4)), seed)
        assert observations[0][:2].sum() == 1
        assert not np.stack(observations[1:])[:, :2].any()
        assert all(o.sum() == 1 and o.dtype == np.float32 for o in observations)


def test_the_oracle_acts_on_what_was_seen(play):
    env, rememberer = TMaze(length=10), TMazeOracle()

    def act(observation):
        assert rememberer.act(observation) == env.oracle()
        return env.oracle()

    for seed in range(20):
        play(env, act, seed)


@pytest.mark.parametrize("turn", [UP, DOWN])
def test_always_turning_the_same_way_is_chance(play, turn):
    env, way = TMaze(length=10), [FORWARD] * 10 + [turn]
    successes = [play(env, iter(way), seed)[-1]["is_success"] for seed in range(300)]
    assert 0.4 <= np.mean(successes) <= 0.6


@pytest.mark.parametrize(
    "setting", [{"length": 0}, {"spare": -1}, {"render_mode": "human"}], ids=str
)
def test_impossible_settings_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        TMaze(**setting)


def test_renders():
    env = TMaze(length=3, render_mode="ansi")
    env.reset(seed=0)
    env.step(FORWARD)
    assert str(env.render()).startswith(".@.T ")
    picture = TMaze(length=3, render_mode="rgb_array").render()
    assert picture.shape == (24, 32, 3)
    assert TMaze().render() is None
