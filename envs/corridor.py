"""What the tasks with a corridor share: a cue at its start, and an answer by it at its end."""

import operator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.window import check_render_mode

FORWARD = 0
NOTHING = -1
SPARE = 0.08  # of the length may be wasted, where nothing else is said; at least 8 steps
SLIP = 0.05  # how often an explorer tries something else on the way
GROUND, ANSWER, AGENT = (160, 160, 160), (0, 200, 0), (220, 40, 40)
KINDS = np.array(
    [
        (40, 90, 220),
        (240, 200, 40),
        (160, 60, 200),
        (40, 190, 200),
        (240, 130, 30),
        (250, 250, 250),
        (120, 80, 40),
        (250, 140, 190),
    ],
    np.uint8,
)


class Corridor(gym.Env[np.ndarray, np.int64]):
    """A cue, `length` steps to walk, an answer: the rules are in the cards of the subclasses.

    A subclass says how many `actions` there are, which of them are the `answers` to cue 0 and to
    cue 1 and what these are called, what can be seen (`_observe`), and which channel of it is set
    at the `end`. Action 0 goes forward. There may be cells `before` the start.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 10}
    delay = "length"
    """The argument that says for how many steps something must be kept."""
    chance = 0.5
    """Success of whoever guesses where something had to be remembered."""
    actions: int
    answers: tuple[int, int]
    answer_names: tuple[str, str]
    end: int
    before = 0

    def __init__(self, length: int, spare: int | None, render_mode: str | None) -> None:
        name = type(self).__name__
        if spare is None:
            spare = max(8, round(SPARE * length))
        if spare < 0:
            raise ValueError(f"{name} spare is {spare}: give 0 or more extra steps")
        check_render_mode(self, render_mode)
        self.length = operator.index(length)  # one that is no integer would never be reached
        self.spare, self.render_mode = spare, render_mode
        self.action_space = spaces.Discrete(self.actions)
        self._cue = self._position = self._steps = 0
        self._things = np.full(self.length + 1, NOTHING)  # the kind of the thing in each cell

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a cue, go to the start, show the cue."""
        super().reset(seed=seed, options=options)
        self._cue = int(self.np_random.integers(2))
        self._position = self._steps = 0
        return self._observe(), {}

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Walk, or answer at the end."""
        self._steps += 1
        at_end = self._position == self.length
        terminated = at_end and action in self.answers
        success = bool(terminated and action == self.answers[self._cue])
        if terminated:
            reward = float(success)
        else:
            reward = -1.0 / self.length if self._is_wasted(action) else 0.0
            self._walk(action)
        truncated = not terminated and self._steps >= self._needed() + self.spare
        info = {"is_success": success} if terminated or truncated else {}
        return self._observe(), reward, terminated, truncated, info

    def oracle(self) -> int:
        """The action of an agent that remembers: forward, and at the end the right answer."""
        return self.answers[self._cue] if self._position == self.length else FORWARD

    def explore(self, rng: np.random.Generator) -> int:
        """An action that needs no memory: forward, now and then any; at the end a random answer.

        Slips are rarer in a long corridor: on average they cost at most half of the spare steps.
        """
        if self._position == self.length:
            return self.answers[rng.integers(2)]
        if rng.random() < min(SLIP, self.spare / (2 * self.length)):
            return int(rng.integers(self.actions))
        return FORWARD

    def render(self) -> Any:
        """The corridor with the agent in it; the answer is marked, though it cannot see it."""
        things = np.pad(self._things, (self.before, 0), constant_values=NOTHING)
        here = self._position + self.before
        if self.render_mode == "ansi":
            cells = ["." if kind == NOTHING else str(kind) for kind in things]
            cells[-1] = "T"
            cells[here] = "@"
            return f"{''.join(cells)} {self.answer_names[self._cue]}"
        if self.render_mode == "rgb_array":
            picture = np.zeros((3, len(things), 3), np.uint8)
            picture[1] = picture[:, -1] = GROUND
            filled = things != NOTHING
            picture[1, filled] = KINDS[things[filled]]
            picture[2 * self._cue, -1] = ANSWER
            picture[1, here] = AGENT
            return picture.repeat(8, axis=0).repeat(8, axis=1)
        return None

    def _needed(self) -> int:
        """Steps of an episode without a slip."""
        return self.length + 1

    def _is_wasted(self, action: int | np.int64) -> bool:
        """Whether an action that is no answer costs something here."""
        return action != FORWARD or self._position == self.length

    def _observe(self) -> np.ndarray:
        raise NotImplementedError

    def _walk(self, action: int | np.int64) -> None:
        if action == FORWARD:
            self._position = min(self._position + 1, self.length)
