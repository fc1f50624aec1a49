"""What breaks Gymnasium's contract: named with key, value and rule, or put right with a warning."""

import copy
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from envs.contract import (
    MOST,
    ContractError,
    Guard,
    NotFiniteError,
    observation_faults,
    quick_test,
)

SPACE = spaces.Dict(
    {
        "eye": spaces.Box(0, 255, (2, 2, 1), np.uint8),
        "inner": spaces.Dict({"speed": spaces.Box(-1.0, 1.0, (2,), np.float32)}),
        "pair": spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary(2)]),
        "grid": spaces.MultiDiscrete([[2, 3], [4, 5]]),
        "said": spaces.Text(9),
    }
)


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    """Forget what other tests were told."""
    monkeypatch.setattr("envs.contract.TOLD", set())


def good():
    return {
        "eye": np.zeros((2, 2, 1), np.uint8),
        "inner": {"speed": np.zeros(2, np.float32)},
        "pair": (np.int64(1), np.zeros(2, np.int8)),
        "grid": np.zeros((2, 2), np.int64),
        "said": "",
    }


class Told(gym.Env):
    """Returns from `reset` and `step` what it is told to."""

    observation_space = SPACE
    action_space = spaces.Discrete(2)

    def __init__(self, seen=None, step=None, reset=None):
        seen = good() if seen is None else seen
        self.after_reset = reset or (good(), {})
        self.after_step = step or (seen, 1.0, False, False, {})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.after_reset

    def step(self, action):
        return self.after_step


def stepped(env):
    guarded = Guard(env)
    guarded.reset(seed=0)
    return guarded.step(0)


def changed(**parts):
    return good() | parts


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (np.zeros(3), "The observation is of type ndarray: its space is a Dict"),
        ({k: v for k, v in good().items() if k != "pair"}, "The observation lacks 'pair'"),
        (
            changed(eye=np.zeros((3, 2, 1), np.uint8)),
            r"'eye' has shape \(3, 2, 1\).*says \(2, 2, 1",
        ),
        (changed(eye=np.full((2, 2, 1), 0.5)), r"'eye' is of dtype float64.*says uint8.*astype"),
        (changed(inner={"speed": [0.0, np.nan]}), r"'inner/speed'\[1\] = nan is not finite"),
        (changed(inner={"speed": None}), "'inner/speed' is of type NoneType: return numbers"),
        (changed(pair=(0, np.zeros(2, np.int8))), "'pair/0' = 0 lies outside the categor.*1 to 3"),
        (changed(pair=(1, np.array([0, 2]))), r"'pair/1'\[1\] = 2 lies outside the categ.*0 to 1"),
        (changed(pair=[1, 2, 3]), "'pair' is of type list: its space is a Tuple of 2"),
        (changed(grid=[[0, 0], [4, 0]]), r"'grid'\[1, 0\] = 4 lies outside the categories.*0 to 3"),
    ],
    ids=str,
)
def test_what_no_model_can_read_is_named(seen, said):
    """Fails where an observation outside its space reaches a network, or its key is not told."""
    with pytest.raises((ContractError, NotFiniteError), match=f"Told: .*{said}"):
        stepped(Told(seen))


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (changed(inner={"speed": np.zeros(2)}), "'inner/speed' is of dtype float64, and its space"),
        (
            changed(inner={"speed": np.float32([0, 5])}),
            r"'inner/speed'\[1\] = 5.0 lies outside the",
        ),
        (changed(eye=np.full((2, 2, 1), 7)), "'eye' is of dtype int64, and its space says uint8"),
        (
            changed(grid=np.ones((2, 2))),
            "'grid' is of dtype float64, .*int64: return whole numbers",
        ),
        (changed(extra=1), "The observation has 'extra', which its space lacks"),
    ],
    ids=str,
)
def test_what_can_be_read_is_told_once_and_put_right(seen, said, caplog):
    """Fails where a harmless fault ends a run, fills the screen, or stays in the observation."""
    for env in (Guard(Told(seen)), Guard(Told(seen))):
        env.reset(seed=0)
        for _ in range(3):
            observation, *_ = env.step(0)
    assert len(caplog.records) == 1
    assert re.search(said, caplog.text)
    assert observation.keys() == SPACE.spaces.keys()
    assert observation["eye"].dtype == np.uint8
    assert observation["inner"]["speed"].dtype == np.float32
    np.testing.assert_array_equal(observation["eye"], seen["eye"])


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ((good(), 1.0, True, {}), "step.. returned 4 values: .*observation, reward, terminated"),
        ((good(), "much", False, False, {}), "reward = 'much' is of type str: return one float"),
        ((good(), np.inf, False, False, {}), "reward = inf is not finite"),
        ((good(), 1.0, False, False, None), "info is of type NoneType: return a dict"),
    ],
)
def test_what_step_must_return(step, said):
    """Fails where a step that is not Gymnasium's is taken for one."""
    with pytest.raises((ContractError, NotFiniteError), match=said):
        stepped(Told(step=step))


@pytest.mark.parametrize("reset", [good(), (good(),), (good(), None)], ids=["alone", "one", "none"])
def test_reset_without_info_is_named(reset):
    with pytest.raises(ContractError, match=r"reset\(\) returned .* without info"):
        Guard(Told(reset=reset)).reset(seed=0)


def test_a_step_after_the_end_is_refused():
    """Fails where rewards are collected that no episode has."""
    env = Guard(Told(step=(good(), 1.0, True, False, {})))
    with pytest.raises(ContractError, match=r"call reset\(\) first"):
        env.step(0)
    env.reset()
    env.step(0)
    with pytest.raises(ContractError, match=r"after the end of an episode: call reset\(\) first"):
        env.step(0)
    env.reset()
    env.step(0)


def test_a_reset_without_seed_or_options_is_refused_at_once():
    """Fails where Gymnasium's wrappers are the first to complain, with a traceback."""

    class Unseeded(Told):
        def reset(self, *, options=None):  # pyright: ignore
            return good(), {}

    class Old(Told):
        def reset(self):  # pyright: ignore
            return good(), {}

    cure = r": write `def reset\(self, \*, seed=None, options=None\)`"
    with pytest.raises(ContractError, match=f"takes no seed{cure}"):
        Guard(Unseeded())
    with pytest.raises(ContractError, match=f"takes no seed and no options{cure}"):
        Guard(Old())


LEAVES = [
    *SPACE.spaces.values(),
    spaces.Box(-np.inf, np.inf, (2,), np.float64),
    spaces.Box(0, np.inf, (), np.float32),
    spaces.Box(np.float32([0, -np.inf]), np.float32([1, 0])),
    spaces.Box(-128, 127, (3,), np.int8),
    spaces.Box(1, 9, (3,), np.uint8),
    spaces.Discrete(2),
]


@pytest.mark.parametrize("space", LEAVES, ids=str)
def test_the_quick_test_agrees_with_the_long_one(space):
    """Fails where a fault slips through because most observations have none."""
    space.seed(0)
    quick = quick_test(space)
    seen = [space.sample() for _ in range(20)]
    assert all(map(quick, seen))
    shape = space.shape or ()
    odd = [None, np.zeros(9), np.zeros((2, 2, 1)), {}, (1,), np.full(shape, np.nan, np.float32)]
    odd += [np.full(shape, value, space.dtype) for value in (0, 7, 100) if space.dtype != str]
    odd += [np.full(shape, value) for value in (-9.0, 0.5, np.inf)]
    for value in odd:
        assert not (quick(value) and list(observation_faults(space, value)))
    if not isinstance(space, spaces.Text):
        assert any(list(observation_faults(space, value)) for value in odd)


def test_what_keeps_the_contract_passes_unchanged(caplog):
    """Fails where there is a fault in what has none (the negative control)."""
    env = Told()
    observation, reward, terminated, truncated, info = stepped(env)
    assert observation is env.after_step[0]
    assert (reward, terminated, truncated, info) == (1.0, False, False, {})
    assert not caplog.records


class Growing(Told):
    """Its space is widened under our hands, and what it returns with it."""

    def step(self, action):
        self.observation_space.spaces["eye"] = spaces.Box(0, 255, (3, 2, 1), np.uint8)
        return (changed(eye=np.zeros((3, 2, 1), np.uint8)), 1.0, False, False, {})


def test_an_environment_is_held_to_the_space_that_it_began_with():
    """Fails where a space that is changed as the episode goes changes what is let through."""
    env = Growing(good())
    env.observation_space = copy.deepcopy(SPACE)
    with pytest.raises(ContractError, match=r"'eye' has shape \(3, 2, 1\).*says \(2, 2, 1"):
        stepped(env)


class Wide(gym.Env):
    """A space of float64 whose bounds no float32 holds."""

    action_space = spaces.Discrete(2)

    def __init__(self, seen, reward, high):
        self.observation_space = spaces.Box(-high, high, (2,), np.float64)
        self.seen, self.reward = seen, reward

    def reset(self, *, seed=None, options=None):
        return np.zeros(2), {}

    def step(self, action):
        return np.array([0.0, self.seen]), self.reward, False, False, {}


@pytest.mark.parametrize("high", [np.inf, 1e308])
@pytest.mark.parametrize(
    ("seen", "reward", "said"),
    [
        (1e300, 0.0, r"observation\[1\] = 1e\+300 is not finite in float32"),
        (0.0, -1e39, r"reward = -1e\+39 is not finite in float32"),
        (0.0, 10**400, r"reward = 10+ is not finite in float32"),
        (0.0, np.float64(1e39), r"reward = 1e\+39 is not finite in float32"),
    ],
)
def test_what_is_infinite_to_a_model_is_not_let_in(seen, reward, said, high):
    """Fails where a number that becomes infinite in float32 is taken for a finite one."""
    with pytest.raises(NotFiniteError, match=said):
        stepped(Wide(seen, reward, high))
    observation, reward, *_ = stepped(Wide(3e38, -3e38, high))
    assert observation[1] == 3e38 == -reward


def test_what_is_new_at_every_step_is_not_told_for_ever(caplog, monkeypatch):
    """Fails where an environment that invents a key a step fills the screen, and the memory."""
    monkeypatch.setattr("envs.contract.TOLD", told := set())
    env = Guard(Told(good()))
    env.reset(seed=0)
    for number in range(300):
        env.unwrapped.after_step = changed(**{f"key {number}": 1}), 0.0, False, False, {}
        env.step(0)
    assert len(caplog.records) == len(told) == MOST
