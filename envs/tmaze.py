"""The passive T-Maze: one bit shown at the first step, asked for at the last one."""

import numpy as np
from gymnasium import spaces

from envs.corridor import FORWARD, Corridor

BACK, UP, DOWN = 1, 2, 3
CORRIDOR, JUNCTION = 2, 3  # channels 0 and 1 are the cue: up, down


class TMaze(Corridor):
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

    ## Floor
    After the first observation both cues look the same, so a policy without memory is right in at
    most half of its episodes: success 0.5. `oracle()` is always right, and earns 1.

    ## Arguments
    * `length`: steps from the start to the junction, which is how long the cue must be kept.
    * `spare`: steps an agent may waste, so that exploration meets the reward at all; None: 8 % of
      `length`, at least 8.
    * `render_mode`: None, "ansi" or "rgb_array".

    ## Source
    Ni et al. 2023, "When Do Transformers Shine in RL? Decoupling Memory from Credit Assignment".
    Different here: theirs punishes every step taken behind schedule, so that one early slip is paid
    for until the end; ours charges the slip alone, once.
    """

    actions = 4
    answers = (UP, DOWN)
    answer_names = ("up", "down")
    end = JUNCTION

    def __init__(
        self, length: int = 100, spare: int | None = None, render_mode: str | None = None
    ) -> None:
        if length < 1:
            name = type(self).__name__
            raise ValueError(f"{name} length is {length}: give it a corridor of at least 1 step")
        super().__init__(length, spare, render_mode)
        self.observation_space = spaces.Box(0.0, 1.0, (4,), np.float32)

    def _observe(self) -> np.ndarray:
        place = JUNCTION if self._position == self.length else CORRIDOR
        observation = np.zeros(4, np.float32)
        observation[self._cue if self._steps == 0 else place] = 1.0
        return observation

    def _walk(self, action: int | np.int64) -> None:
        if action == BACK and self._position < self.length:
            self._position = max(self._position - 1, -self.before)
        else:
            super()._walk(action)


class TMazeOracle:
    """Solves every T-Maze by keeping the cue: the proof that it can be solved."""

    def __init__(self) -> None:
        self._cue = 0

    def act(self, observation: np.ndarray) -> int:
        """Note the cue when it is shown, walk, and turn by it."""
        if observation[:CORRIDOR].any():
            self._cue = int(observation[:CORRIDOR].argmax())
        return UP + self._cue if observation[JUNCTION] else FORWARD
