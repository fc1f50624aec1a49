"""Environments that are hard on whoever learns in them, as a user would bring them in a file."""

import os
import signal
import sys
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

FATES = ["raises", "leaves", "dies", "killed", "hangs", "leaks", "nan reward", "huge reward"]
HOARD = []  # what this process has lost to leaks


class Odd(gym.Env):
    """Numbers of a `kind`, and episodes of `length` steps; `rate` is the share of odd steps."""

    def __init__(self, kind="plain", length=5, rate=1.0):
        self.kind, self.length, self.rate = kind, length, rate
        # Without bounds, and wider than what models compute with: whatever comes is let through.
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = spaces.Discrete(2)
        self.buffer = np.zeros(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.look(), {}

    def step(self, action):
        self.time += 1
        odd = self.np_random.random() < self.rate
        reward = float(action)
        if odd:
            reward = self.happen(self.np_random.choice(FATES) if self.kind == "any" else self.kind)
        return self.look(odd), reward, self.time >= self.length, False, {}

    def happen(self, kind):
        """The reward of an odd step, if there is ever one."""
        if kind == "raises":
            raise OSError("the simulator lost its window")
        if kind == "leaves":
            sys.exit("no more")
        if kind == "dies":
            os._exit(9)
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hangs":
            time.sleep(600)
        if kind == "leaks":
            HOARD.append(np.ones(2**17))  # 1 MiB, never given back
            if len(HOARD) > 40:
                raise MemoryError("no more of it")
        if kind == "wider":
            self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
        return {"nan reward": np.nan, "huge reward": 1e300, "large reward": 1e9}.get(kind, 0.5)

    def look(self, odd=False):
        """What is seen."""
        if self.kind == "constant":
            return np.full(3, 7.0)
        if self.kind in ("view", "any"):
            self.buffer[:] = self.time, self.np_random.random(), odd
            return self.buffer
        seen = self.np_random.standard_normal(self.observation_space.shape)
        seen[0] = self.time
        if odd:
            numbers = {"nan": np.nan, "infinite": -np.inf, "huge": 1e300, "large": 3e38}
            seen[1] = numbers.get(self.kind, seen[1])
        return seen


class Fickle(Odd):
    """Each copy has another space."""

    made = 0

    def __init__(self):
        super().__init__()
        type(self).made += 1
        self.observation_space = spaces.Box(-1, 1, (type(self).made,), np.float64)


class Swapped(gym.ActionWrapper):
    """The same action space, with other meanings."""

    def action(self, action):
        return self.action_space.n - 1 - action


class Ominous(Odd):
    """What it says of itself is odd: of how sure a guess is, or of what would be best."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        if what == "chance":
            self.chance = "a third"

    def oracle(self):
        return {"raises": lambda: 1 / 0, "action": lambda: 7}.get(self.what, lambda: 1)()


class Unnamed(Odd):
    """What it calls its delay is no argument's name."""

    delay = 3
