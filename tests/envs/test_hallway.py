"""The hallway: its rewards by hand, and distractors that look like cues and mean nothing."""

import numpy as np
import pytest

from envs.corridor import FORWARD
from envs.hallway import END, LEFT, OBJECTS, RIGHT, START, Hallway


def walk(env, seed):
    """What is seen from the start to the end."""
    first, _ = env.reset(seed=seed)
    return np.stack([first, *(env.step(FORWARD)[0] for _ in range(env.length))])


def seed_with_cue(env, cue):
    return next(seed for seed in range(100) if env.reset(seed=seed)[0][cue])


@pytest.mark.parametrize("cue", [0, 1])
@pytest.mark.parametrize("turn", [LEFT, RIGHT])
def test_rewards_by_hand(play, cue, turn):
    env = Hallway(width=3, density=1)
    actions = [LEFT, FORWARD, RIGHT, LEFT, FORWARD, FORWARD, FORWARD, turn]
    seed = seed_with_cue(env, cue)
    observations, rewards, terminated, truncated, info = play(env, iter(actions), seed)
    slip, success = -1 / 3, turn == (LEFT, RIGHT)[cue]
    assert rewards == [slip, 0, slip, slip, 0, 0, slip, float(success)]
    assert (terminated, truncated, info) == (True, False, {"is_success": success})
    cells = walk(env, seed)
    assert np.array_equal(observations, cells[[0, 0, 1, 1, 1, 2, 3, 3, 3]])


def test_truncates_after_the_spare_steps(play):
    env = Hallway(width=4, spare=2)
    for action in (FORWARD, LEFT):
        _, rewards, terminated, truncated, info = play(env, lambda _, a=action: a, seed=0)
        assert len(rewards) == 4 + 1 + 2
        assert (terminated, truncated, info) == (False, True, {"is_success": False})


def test_a_turn_on_the_last_step_terminates(play):
    env = Hallway(width=2, spare=0)
    _, rewards, terminated, truncated, _ = play(env, lambda _: env.oracle(), seed=0)
    assert (rewards, terminated, truncated) == ([0, 0, 1], True, False)


@pytest.mark.parametrize("density", [0, 0.1, 1])
def test_what_is_seen_on_the_way(density):
    env = Hallway(width=100, density=density)
    seen = np.stack([walk(env, seed) for seed in range(40)])
    assert seen.dtype == np.float32
    assert seen[:, 0, START].all()
    assert not seen[:, 1:, START].any()
    assert seen[:, -1, END].all()
    assert not seen[:, :-1, END].any()
    objects = seen[:, :, :OBJECTS].sum(-1)
    assert (objects[:, 0] == 1).all()
    assert (objects[:, -1] == 0).all()
    assert objects.max() == 1
    assert objects[:, 1:-1].mean() == pytest.approx(density, abs=0.02)


def test_cues_are_of_two_kinds_and_distractors_of_all():
    env = Hallway(width=100, density=1)
    seen = np.stack([walk(env, seed) for seed in range(100)])[:, :, :OBJECTS]
    cues, kinds = seen[:, 0].mean(0), seen[:, 1:-1].mean((0, 1))
    assert cues[2:].sum() == 0
    assert 0.3 <= cues[0] <= 0.7
    assert kinds == pytest.approx(np.full(OBJECTS, 1 / OBJECTS), abs=0.015)
    assert (seen[0] != seen[1]).any()


def test_the_oracle_acts_on_what_was_seen(play):
    env, cue = Hallway(width=10, density=1), []

    def act(observation):
        cue[:] = [observation[:2].argmax()] if observation[START] else cue
        assert env.oracle() == ((LEFT, RIGHT)[cue[0]] if observation[END] else FORWARD)
        return env.oracle()

    for seed in range(20):
        play(env, act, seed)


def test_explorers_arrive_however_long_the_way(play):
    env, rng = Hallway(width=400), np.random.default_rng(0)
    rewards = [play(env, lambda _: env.explore(rng), seed)[1:3] for seed in range(30)]
    assert sum(terminated for _, terminated in rewards) >= 27
    assert any(min(paid) < 0 for paid, _ in rewards)


@pytest.mark.parametrize(
    "setting",
    [{"width": 0}, {"density": -0.1}, {"density": 1.5}, {"spare": -1}, {"render_mode": "human"}],
    ids=str,
)
def test_impossible_settings_are_named(setting):
    with pytest.raises(ValueError, match=f"Hallway {next(iter(setting))}"):
        Hallway(**setting)


def test_renders():
    env = Hallway(width=3, density=1, render_mode="ansi")
    cells = walk(env, seed=0)
    kinds = cells[1:3, :OBJECTS].argmax(-1)
    answer = "right" if cells[0, 1] else "left"
    assert env.render() == f".{kinds[0]}{kinds[1]}@ {answer}"
    picture = Hallway(width=3, render_mode="rgb_array").render()
    assert picture.shape == (24, 32, 3)
    assert Hallway().render() is None


def test_widths_can_be_drawn() -> None:
    """Fails where drawn widths leave their range, fill octaves unevenly, or break the rules."""
    env = Hallway(width=400, shortest=10)
    widths = []
    for seed in range(2000):
        env.reset(seed=seed)
        widths.append(env.length)
    assert min(widths) == 10
    assert 300 < max(widths) <= 400
    drawn = np.array(widths)
    assert 0.4 < drawn[drawn < np.sqrt(10 * 400)].sum() / drawn.sum() < 0.6
    env.reset(seed=3)
    steps = 0
    done = False
    while not done:
        _, reward, terminated, truncated, _ = env.step(env.oracle())
        steps, done = steps + 1, terminated or truncated
    assert (steps, reward) == (env.length + 1, 1.0)
    with pytest.raises(ValueError, match="shortest is 500"):
        Hallway(width=400, shortest=500)
