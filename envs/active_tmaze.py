"""The active T-Maze: the bit that is asked for at the end has to be fetched first."""

import operator
from typing import Any

import numpy as np

from envs.corridor import FORWARD
from envs.tmaze import BACK, CORRIDOR, JUNCTION, TMaze


class ActiveTMaze(TMaze):
    """The active T-Maze: fetch a cue behind you, remember it down a corridor, turn where it said.

    ## Description
    The agent starts in a corridor that ends, `length` steps ahead, in a junction, where it has to
    turn up or down. Which of the two is right is shown `fetch` steps behind the start and nowhere
    else. So it has to walk away from the goal first, and what that was good for shows only at the
    end: memory and credit assignment grow with `length` together.

    ## Observation Space
    `Box(0, 1, (4,), float32)`, one-hot: [cue up, cue down, in the corridor, at the junction].
    The cue is seen whenever the agent is in its cell. The start looks like any other cell of the
    corridor. There is no position and no time in it.

    ## Action Space
    `Discrete(4)`: 0 forward, 1 back, 2 up, 3 down. In the corridor up and down stay where they are,
    and so does back in the cue's cell; at the junction forward and back stay where they are.

    ## Rewards
    1 for turning as the cue said, 0 for the other way. Every other step that does not move forward
    costs 1/`length`; going back is free until the cue was seen.

    ## Termination
    The episode is terminated by a turn at the junction, and truncated after 2 · `fetch` + `length`
    + 1 + `spare` steps. `info["is_success"]` is there on the last step only.

    ## Floor
    Outside its cell nothing tells the cues apart, so a policy without memory is right in at most
    half of its episodes, and so is one that never fetches the cue: success 0.5. `oracle()` is
    always right, and earns 1.

    ## Arguments
    * `length`: steps from the start to the junction; the cue must be kept for `length` + `fetch`.
    * `spare`: steps an agent may waste, so that exploration meets the reward at all; None: 8 % of
      `length`, at least 8.
    * `fetch`: steps from the start back to the cue.
    * `render_mode`: None, "ansi" or "rgb_array".

    ## Source
    Ni et al. 2023, "When Do Transformers Shine in RL? Decoupling Memory from Credit Assignment",
    where `fetch` is 1. Different here: theirs shows the cue only once, and punishes every step
    taken behind schedule; ours charges the slip alone.
    """

    def __init__(
        self,
        length: int = 100,
        spare: int | None = None,
        fetch: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if fetch < 1:
            raise ValueError(f"ActiveTMaze fetch is {fetch}: put the cue at least 1 step back")
        super().__init__(length, spare, render_mode)
        self.before = operator.index(fetch)
        self._fetched = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a cue and go to the start, where nothing is seen of it."""
        self._fetched = False
        return super().reset(seed=seed, options=options)

    def oracle(self) -> int:
        """The action of an agent that remembers: back for the cue, forward, the right answer."""
        return super().oracle() if self._fetched else BACK

    def explore(self, rng: np.random.Generator) -> int:
        """An action that needs no memory: half of the time the cue is fetched before all else."""
        if not self._fetched and self._position <= 0:
            return BACK if self._position < 0 or rng.integers(2) else FORWARD
        return super().explore(rng)

    def _observe(self) -> np.ndarray:
        observation = np.zeros(4, np.float32)
        if self._position == -self.before:
            observation[self._cue] = 1.0
        else:
            observation[JUNCTION if self._position == self.length else CORRIDOR] = 1.0
        return observation

    def _walk(self, action: int | np.int64) -> None:
        super()._walk(action)
        self._fetched |= self._position == -self.before

    def _needed(self) -> int:
        return 2 * self.before + self.length + 1

    def _is_wasted(self, action: int | np.int64) -> bool:
        fetches = action == BACK and not self._fetched and self._position < self.length
        return super()._is_wasted(action) and not fetches
