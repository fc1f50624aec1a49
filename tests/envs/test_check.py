"""Each way to break the contract is found and named, and what keeps it is not blamed."""

import re
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from envs import make
from envs.check import check


class Fine(gym.Env):
    """Counts to five, with some noise that its seed decides."""

    observation_space = spaces.Dict({"time": spaces.Box(0.0, 6.0, (2,), np.float32)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.look(), {}

    def step(self, action):
        if self.time == 5:
            raise ValueError("over")
        self.time += 1
        return self.look(), float(action), self.time == 5, False, {}

    def look(self):
        return {"time": np.array([self.time, self.np_random.random()], np.float32)}


class Helpful(Fine):
    def explore(self, rng):
        return int(rng.integers(2))

    def oracle(self):
        return np.int64(1)


class Unseeded(Fine):
    def reset(self, *, options=None):  # pyright: ignore
        return super().reset()


class Careless(Fine):
    def look(self):
        return {"time": np.array([self.time, np.random.random()], np.float32)}


class Forgetful(Fine):
    """What it paid in one episode is still known in the next."""

    paid = 0

    def step(self, action):
        self.paid += 1
        seen, _, *rest = super().step(action)
        return seen, self.paid, *rest


class Buffered(Fine):
    buffer = np.zeros(2, np.float32)

    def look(self):
        self.buffer[:] = super().look()["time"]
        return {"time": self.buffer}


class Growing(Fine):
    def look(self):
        return {"time": np.zeros(2 + (self.time == 3), np.float32)}


class Double(Fine):
    def look(self):
        return {"time": super().look()["time"].astype(np.float64)}


class Beyond(Fine):
    def look(self):
        return {"time": super().look()["time"] + np.float32(2.5)}


class Infinite(Fine):
    def look(self):
        return {"time": np.array([self.time, np.nan if self.time == 2 else 0], np.float32)}


class Blind(Fine):
    def look(self):
        return {"time": None}


class Ragged(Fine):
    def look(self):
        return {"time": [[1.0], [1.0, 2.0]]}


class Nowhere(Fine):
    def look(self):
        return None


class Uninformed(Fine):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class Old(Fine):
    def step(self, action):
        seen, reward, terminated, _, info = super().step(action)
        return seen, reward, terminated, info


class Failing(Fine):
    def step(self, action):
        return super().step(action) if self.time < 3 else 1 / 0


class Leaving(Fine):
    def step(self, action):
        return super().step(action) if self.time < 3 else sys.exit("bye")


class Optionless(Fine):
    def reset(self, *, seed=None):  # pyright: ignore
        return super().reset(seed=seed)


class Advised(Fine):
    def explore(self, rng):
        return int(rng.integers(2, 4))


class Silent(Fine):
    def oracle(self):
        return None


class Helpless(Fine):
    def oracle(self):
        raise NotImplementedError("later")


class Misspelt(Fine):
    delay = "wiat"

    def __init__(self, wait=5):
        self.wait = wait


class Lucky(Fine):
    chance = 33


class Vague(Fine):
    def step(self, action):
        *found, _ = super().step(action)
        return *found, {"is_success": "yes"}


BROKEN = {
    Misspelt: "delay = 'wiat' names no argument of Misspelt; it has: wait",
    Lucky: "chance = 33 is no share: success by guessing, from 0 to 1",
    Vague: r"info\['is_success'\] = 'yes' is no bool: return True or False",
    Advised: r"explore\(\) returned [23], which is no action of Discrete\(2\)",
    Silent: r"oracle\(\) returned None, which is no action of Discrete\(2\)",
    Helpless: r"oracle\(\) raised NotImplementedError: later \(test_check.py, line \d+\)",
    Unseeded: r"reset\(\) takes no seed: write `def reset\(self, \*, seed=None",
    Careless: "the first observation .'time'. differs although seed and actions are the same",
    Forgetful: "reward or end of step 1 differs although seed",
    Buffered: r"changed by the next step: it is a view.*observation.copy\(\)",
    Growing: r"The observation 'time' has shape \(3,\), and its space says \(2,\): return arr",
    Double: r"'time' is of dtype float64, and its space says float32: return it with .astype",
    Beyond: r"'time'\[0\] = 6.5 lies outside the bounds of its space, 0.0 to 6.0",
    Infinite: r"'time'\[1\] = nan is not finite",
    Blind: "'time' is of type NoneType: return numbers",
    Ragged: "'time' is of type list: return numbers",
    Nowhere: "The observation is of type NoneType: its space is a Dict, so return a dict",
    Uninformed: r"reset\(\) returned of type dict without info|returned dict without info",
    Old: r"step\(\) returned 4 values: Gymnasium's rule is `return observation, reward, term",
    Failing: r"step\(\) raised ZeroDivisionError: division by zero \(test_check.py, line \d+\)",
    Leaving: r"step\(\) raised SystemExit: bye \(test_check.py, line \d+\)",
    Optionless: r"reset\(\) takes no options: write `def reset\(self, \*, seed=None",
}


@pytest.mark.parametrize(
    ("kind", "said"), BROKEN.items(), ids=lambda part: getattr(part, "__name__", "")
)
def test_what_is_wrong_is_named(kind, said):
    """Fails where a broken environment passes, or the words do not say what to change."""
    found = check(kind(), steps=40)
    assert len(found.wrong) == 1
    assert re.search(said, found.wrong[0])


def test_nothing_is_wrong_with_what_keeps_the_contract():
    """Fails where a good environment is blamed (the negative control)."""
    assert check(Helpful(), steps=20).wrong == []
    found = check(Fine(), steps=42)
    assert (found.wrong, found.notes) == ([], [])
    assert (found.steps, found.episodes) == (42, 8)
    assert found.speed > 0


@pytest.mark.parametrize(
    "env_id",
    ["CartPole-v1", "Pendulum-v1", "clew/TMaze-v0", "MiniGrid-DoorKey-6x6-v0", "Acrobot-v1"],
)
def test_known_environments_pass(env_id):
    assert check(make(env_id, guard=False), steps=300).wrong == []


def test_what_is_interrupted_is_told(monkeypatch):
    """Fails where Ctrl-C on an environment that hangs loses what was found, and where it hangs."""
    monkeypatch.setattr("envs.check.LATE", 0.05)

    class Hanging(Fine):
        def step(self, action):
            if self.time == 3:
                time.sleep(0.1)
                raise KeyboardInterrupt
            return super().step(action)

    found = check(Hanging(), steps=40)
    assert found.notes == ["interrupted after 3 steps"]
    (wrong,) = found.wrong
    said = r"step\(\) gave no answer for 0.1 s, and was interrupted \(test_check.py, line \d+\)"
    assert re.match(said, wrong)


def test_what_is_worth_knowing():
    """Fails where an episode without end, or without reward, goes unsaid."""
    first, second = check(make("MiniGrid-DoorKey-6x6-v0", guard=False), 50).notes
    assert "no episode ended within 50 steps" in first
    assert "no reward but 0 came in 50 random steps" in second

    class Endless(Fine):
        def step(self, action):
            self.time = self.time % 5 + 1
            return self.look(), 1.0, self.time == 5, False, {}

    (note,) = check(Endless(), 20).notes
    assert "goes on as if nothing had ended" in note
