"""What holds for every task of ours: the contract, seeds, an oracle, and a floor."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from envs import make
from envs.testing import EnvContract

FETCHED = {
    "active-tmaze": ("clew/ActiveTMaze-v0", {"length": 9}),
    "active-tmaze-shortest": ("clew/ActiveTMaze-v0", {"length": 1}),
}
SHOWN = {
    "tmaze": ("clew/TMaze-v0", {"length": 9}),
    "tmaze-shortest": ("clew/TMaze-v0", {"length": 1}),
    "memory-length": ("clew/MemoryLength-v0", {"length": 9}),
    "memory-length-bits": ("clew/MemoryLength-v0", {"length": 9, "bits": 3}),
    "memory-length-shortest": ("clew/MemoryLength-v0", {"length": 1}),
    "hallway": ("clew/Hallway-v0", {"width": 9, "density": 0.5}),
    "hallway-shortest": ("clew/Hallway-v0", {"width": 1}),
}
TASKS = FETCHED | SHOWN  # what is to be remembered has to be fetched, or is shown at once


@pytest.fixture(params=TASKS.values(), ids=TASKS.keys())
def build(request):
    """Make one of our tasks, small."""
    env_id, kwargs = request.param
    return lambda: make(env_id, kwargs).unwrapped


@pytest.fixture(params=SHOWN.values(), ids=SHOWN.keys())
def build_shown(request):
    """Make one of those tasks that show at once what is to be remembered, small."""
    env_id, kwargs = request.param
    return lambda: make(env_id, kwargs).unwrapped


@pytest.mark.parametrize(("env_id", "kwargs"), TASKS.values(), ids=TASKS.keys())
class TestTasks(EnvContract):
    """The contract that users' environments can be held to as well."""

    solved = 1.0
    episodes = 100

    @pytest.fixture(autouse=True)
    def chosen(self, monkeypatch, env_id, kwargs):
        monkeypatch.setattr(TestTasks, "env_id", env_id, raising=False)
        monkeypatch.setattr(TestTasks, "kwargs", kwargs)


def test_every_task_of_ours_is_here():
    mazes = {i for i in gym.registry if "MemoryMaze" in i or "LedMaze" in i}  # have own files
    assert {i for i, _ in TASKS.values()} == {i for i in gym.registry if "clew/" in i} - mazes


@pytest.mark.parametrize(("env_id", "kwargs"), TASKS.values(), ids=TASKS.keys())
def test_a_length_that_would_never_be_reached_is_refused(env_id, kwargs):
    name = next(iter(kwargs))
    with pytest.raises(ValueError, match=f"rejected the value of '{name}'.*integer"):
        make(env_id, {name: 2.5})


def test_the_oracle_always_succeeds(build, play):
    env = build()
    for seed in range(100):
        _, rewards, terminated, truncated, info = play(env, lambda _: env.oracle(), seed)
        assert (terminated, truncated, info) == (True, False, {"is_success": True})
        assert sum(rewards) == 1


def test_explorers_answer_at_random(build, play):
    env, rng = build(), np.random.default_rng(0)
    ends = [play(env, lambda _: env.explore(rng), seed)[2:] for seed in range(400)]
    answered = [info["is_success"] for terminated, _, info in ends if terminated]
    assert len(answered) >= 0.9 * len(ends)
    assert 0.4 <= np.mean(answered) <= 0.6  # four standard deviations


class Opposite(np.random.Generator):
    """Draws what another generator would, but every coin falls on its other side."""

    def integers(self, low, *args, **kwargs):
        drawn = super().integers(low, *args, **kwargs)
        return 1 - drawn if low == 2 else drawn


def same_but_for_the_cue(build, seed):
    """Two environments that differ in what is to be remembered, and in nothing else."""
    env, twin = build(), build()
    env.np_random = np.random.Generator(np.random.PCG64(seed))
    twin.np_random = Opposite(np.random.PCG64(seed))
    assert not np.array_equal(env.reset()[0], twin.reset()[0])
    return env, twin


def test_without_memory_half_is_the_most(build_shown):
    """After the first step an action is seen, paid and ended alike, until one of two is right."""
    for seed in range(50):
        env, twin = same_but_for_the_cue(build_shown, seed)
        action, over = 0, False
        explore, again = (partial(e.explore, np.random.default_rng(seed)) for e in (env, twin))
        while not over:
            seen, *paid = env.step(action)
            also_seen, *also_paid = twin.step(action)
            assert np.array_equal(seen, also_seen)
            _, terminated, truncated, info = paid
            if terminated:
                assert also_paid[1:3] == [True, False]
                assert info["is_success"] != also_paid[3]["is_success"]
            else:
                assert paid == also_paid
            over, action = terminated or truncated, explore()
            assert action == again()


def test_the_oracle_gives_nothing_away_before_it_is_asked(build_shown):
    env, twin = same_but_for_the_cue(build_shown, seed=0)
    over = False
    while not over:
        action, other = env.oracle(), twin.oracle()
        *_, over, _, _ = env.step(action)
        twin.step(action)
        assert (action != other) == over
