"""The passive T-Maze: one bit shown at the first step, asked for at the last one."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

FORWARD, BACK, UP, DOWN = range(4)
CORRIDOR, JUNCTION = 2, 3  # channels 0 and 1 are the cue: up, down


class TMaze(gym.Env[np.ndarray, np.int64]):
    """The passive T-Maze: remember a cue down a corridor, then turn where it said.

    ## Description
    The agent starts at the far end of a corridor. Its first observation, and no other, says whether
    the goal is up or down. `length` steps ahead the corridor ends in a junction, where it has to
    turn. Nothing on the way tells the two cases apart: without memory it is right half the time.

    ## Observation Space
    `Box(0, 1, (4,), float32)`, one-hot: [cue up, cue down, in the corridor, at the junction].
    The first observation of an episode is the cue. There is no position and no time in it.

    ## Action Space
    `Discrete(4)`: 0 forward, 1 back, 2 up, 3 down. In the corridor up and down stay where they are;
    at the junction forward and back stay where they are.

    ## Rewards
    1 for turning as the cue said, 0 for the other way. Every other step that does not move forward
    costs 1/`length`.

    ## Termination
    The episode is terminated by a turn at the junction, and truncated after `length` + 1 + `spare`
    steps. `info["is_success"]` is there on the last step only.

    ## Arguments
    * `length`: steps from the start to the junction, which is how long the cue must be kept.
    * `spare`: steps an agent may waste, so that exploration meets the reward at all.
    * `render_mode`: None, "ansi" or "rgb_array".

    ## Source
    Ni et al. 2023, "When Do Transformers Shine in RL? Decoupling Memory from Credit Assignment".
    Different here: theirs punishes every step taken behind schedule, so that one early slip is paid
    for until the end; ours charges the slip alone, once.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 10}

    def __init__(self, length: int = 100, spare: int = 8, render_mode: str | None = None) -> None:
        if length < 1:
            raise ValueError(f"TMaze length is {length}: give it a corridor of at least 1 step")
        if spare < 0:
            raise ValueError(f"TMaze spare is {spare}: give 0 or more extra steps")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"TMaze render_mode is {render_mode!r}: use None, 'ansi' or 'rgb_array'"
            )
        self.length, self.spare, self.render_mode = length, spare, render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(4)
        self._cue = self._position = self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a cue, go to the start, show the cue."""
        super().reset(seed=seed, options=options)
        self._cue = int(self.np_random.integers(2))
        self._position = self._steps = 0
        return _one_hot(self._cue), {}

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Walk, or turn at the junction."""
        self._steps += 1
        at_junction = self._position == self.length
        terminated = at_junction and action in (UP, DOWN)
        success = bool(terminated and action == UP + self._cue)
        if terminated:
            reward = float(success)
        else:
            reward = 0.0 if action == FORWARD and not at_junction else -1.0 / self.length
            self._walk(action, at_junction)
        truncated = not terminated and self._steps >= self.length + 1 + self.spare
        info = {"is_success": success} if terminated or truncated else {}
        place = JUNCTION if self._position == self.length else CORRIDOR
        return _one_hot(place), reward, terminated, truncated, info

    def _walk(self, action: int | np.int64, at_junction: bool) -> None:
        if not at_junction and action in (FORWARD, BACK):
            self._position = max(self._position + (1 if action == FORWARD else -1), 0)

    def render(self) -> Any:
        """The corridor with the agent in it; the goal is marked, though it cannot see it."""
        if self.render_mode == "ansi":
            cells = ["."] * self.length + ["T"]
            cells[self._position] = "@"
            return f"{''.join(cells)} {'up' if self._cue == 0 else 'down'}"
        if self.render_mode == "rgb_array":
            picture = np.zeros((3, self.length + 1, 3), np.uint8)
            picture[1] = picture[:, -1] = 160
            picture[0 if self._cue == 0 else 2, -1] = (0, 200, 0)
            picture[1, self._position] = (220, 40, 40)
            return picture.repeat(8, axis=0).repeat(8, axis=1)
        return None


class TMazeOracle:
    """Solves every T-Maze by keeping the cue: the proof that it can be solved."""

    def __init__(self) -> None:
        self._cue = 0

    def act(self, observation: np.ndarray) -> int:
        """Note the cue when it is shown, walk, and turn by it."""
        if observation[:CORRIDOR].any():
            self._cue = int(observation[:CORRIDOR].argmax())
        return UP + self._cue if observation[JUNCTION] else FORWARD


def _one_hot(channel: int) -> np.ndarray:
    observation = np.zeros(4, np.float32)
    observation[channel] = 1.0
    return observation
