"""Memory length: bits shown at the first step, one of them asked for at the last one."""

import operator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

TIME, QUERY, BITS = 0, 1, 2  # the bits are the last channels


class MemoryLength(gym.Env[np.ndarray, np.int64]):
    """Memory length: see some bits, wait, say one of them.

    ## Description
    The first observation, and no other, shows `bits` random bits. `length` steps later one of them
    is asked for, drawn at random, and the action taken there is the answer. Actions before that
    have no effect: there is nothing to explore and nothing to walk, only time.

    ## Observation Space
    `Box(float32)` of `bits` + 2 numbers: [time to go, query, the bits]. The time to go falls from 1
    to 0 in steps of 1/`length`. The query, on the last step, is the index of the bit asked for, 0
    until then. The bits are -1 or 1 in the first observation, 0 afterwards.

    ## Action Space
    `Discrete(2)`: 0 says that the bit was -1, 1 that it was 1.

    ## Rewards
    1 for the right answer, -1 for the wrong one, 0 before.

    ## Termination
    The episode is terminated by the answer, after `length` + 1 steps; the question stays in view.
    `info["is_success"]` is there on the last step only.

    ## Floor
    After the first observation all bits look the same, so a policy without memory is right in at
    most half of its episodes: success 0.5, return 0. `oracle()` is always right, and earns 1. An
    agent that is told its previous action can keep one bit by repeating it: to measure memory,
    hide that too. For the same reason `oracle()` gives nothing away before it is asked.

    ## Arguments
    * `length`: steps from the bits to the question, which is how long they must be kept.
    * `bits`: how many are shown.

    ## Source
    Osband et al. 2020, "Behaviour Suite for Reinforcement Learning", memory_len (and memory_size
    for more bits). Different here: its code gives the first observation twice and asks one step
    before the time has run out; ours shows the bits once and asks when no time is left, in as many
    steps.
    """

    delay = "length"
    """The argument that says for how many steps something must be kept."""

    chance = 0.5
    """Success of whoever guesses where something had to be remembered."""

    def __init__(self, length: int = 100, bits: int = 1) -> None:
        if length < 1:
            raise ValueError(f"MemoryLength length is {length}: give it at least 1 step to wait")
        if bits < 1:
            raise ValueError(f"MemoryLength bits is {bits}: give it at least 1 bit to show")
        self.length = operator.index(length)  # one that is no integer would never be reached
        self.bits = operator.index(bits)
        low, high = -np.ones(self.bits + 2, np.float32), np.ones(self.bits + 2, np.float32)
        low[:BITS] = 0
        high[QUERY] = max(self.bits - 1, 1)  # Gymnasium warns of a Box whose bounds are equal
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Discrete(2)
        self._bits = np.zeros(self.bits, np.int64)
        self._query = self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw the bits and which of them to ask for, show the bits."""
        super().reset(seed=seed, options=options)
        self._bits = self.np_random.integers(2, size=self.bits)
        self._query = int(self.np_random.integers(self.bits))
        self._steps = 0
        return self._observe(), {}

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Wait, or answer when no time is left."""
        if self._steps == self.length:
            success = bool(action == self._bits[self._query])
            reward = 1.0 if success else -1.0
            return self._observe(), reward, True, False, {"is_success": success}
        self._steps += 1
        return self._observe(), 0.0, False, False, {}

    def oracle(self) -> int:
        """The action of an agent that remembers: 0, and the right answer when it is asked."""
        return int(self._bits[self._query]) if self._steps == self.length else 0

    def explore(self, rng: np.random.Generator) -> int:
        """An action that needs no memory: any, as none but the last has an effect."""
        return int(rng.integers(2))

    def _observe(self) -> np.ndarray:
        observation = np.zeros(self.bits + 2, np.float32)
        observation[TIME] = 1 - self._steps / self.length
        if self._steps == self.length:
            observation[QUERY] = self._query
        if self._steps == 0:
            observation[BITS:] = 2 * self._bits - 1
        return observation
