"""The hallway: a cue at its start, things on the way that look like cues, a turn at its end."""

from typing import Any

import numpy as np
from gymnasium import spaces

from envs.corridor import NOTHING, Corridor

LEFT, RIGHT = 1, 2
OBJECTS = 8
START, END = OBJECTS, OBJECTS + 1  # the channels after the kinds of objects


class Hallway(Corridor):
    """The hallway: remember the first object past many that mean nothing, then turn by it.

    ## Description
    The agent starts on a cell that holds the cue: an object of kind 0 or 1. The end is `width`
    steps ahead, and there it has to turn: left if the cue was 0, right if it was 1. Every cell in
    between holds, with probability `density`, a distractor: an object of any kind, the cue's kinds
    included, drawn anew for every episode. What has to be remembered looks no different from what
    has to be ignored; only where it was seen counts.

    ## Observation Space
    `Box(0, 1, (10,), float32)`: the kind of the object in the agent's cell, one-hot of 8 and all
    zero where there is none, then [at the start, at the end]. The end cell holds nothing. There is
    no position and no time in it.

    ## Action Space
    `Discrete(3)`: 0 forward, 1 left, 2 right. Turning anywhere but at the end, and going forward at
    the end, stays there.

    ## Rewards
    1 for turning as the cue said, 0 for the other way. Every other step that does not move forward
    costs 1/`width`.

    ## Termination
    The episode is terminated by a turn at the end, and truncated after `width` + 1 + `spare` steps.
    `info["is_success"]` is there on the last step only.

    ## Floor
    Once the agent has left the start both cues look the same, and the distractors know nothing of
    them, so a policy without memory is right in at most half of its episodes: success 0.5.
    `oracle()` is always right, and earns 1.

    ## Arguments
    * `width`: steps from the start to the end, which is how long the cue must be kept.
    * `shortest`: if given, every episode has a width of its own from `shortest` to `width`, drawn
      so that each octave of widths fills as many steps: short hallways are many, and teach the
      task, long ones are few, and take up as much of the experience.
    * `density`: the probability of a distractor in a cell.
    * `spare`: steps an agent may waste, so that exploration meets the reward at all.
    * `render_mode`: None, "ansi" or "rgb_array".

    ## Source
    After the Distracting Memory task of Deng et al. 2023, "Facing Off World Model Backbones: RNNs,
    Transformers, and S4", which has widths of 100, 200 and 400. Different here: the observations
    are vectors, not pictures.
    """

    delay = "width"
    actions = 3
    answers = (LEFT, RIGHT)
    answer_names = ("left", "right")
    end = END

    def __init__(
        self,
        width: int = 100,
        shortest: int | None = None,
        density: float = 0.1,
        spare: int = 8,
        render_mode: str | None = None,
    ) -> None:
        if width < 1:
            raise ValueError(f"Hallway width is {width}: give it a hallway of at least 1 step")
        if shortest is not None and not 1 <= shortest <= width:
            raise ValueError(
                f"Hallway shortest is {shortest}: give a width from 1 to {width}, or None"
            )
        if not 0 <= density <= 1:
            raise ValueError(f"Hallway density is {density}: give a probability, 0 to 1")
        super().__init__(width, spare, render_mode)
        self.longest, self.shortest, self.density = self.length, shortest, density
        self.observation_space = spaces.Box(0.0, 1.0, (OBJECTS + 2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a cue, the width and the distractors, go to the start, show the cue."""
        observation, info = super().reset(seed=seed, options=options)
        if self.shortest is not None:
            share = self.np_random.uniform(1 / (self.longest + 1), 1 / self.shortest)
            self.length = min(int(1 / share), self.longest)
            self._things = np.full(self.length + 1, NOTHING)
        between = self.length - 1
        held = self.np_random.random(between) < self.density
        kinds = self.np_random.integers(OBJECTS, size=between)
        self._things[1:-1] = np.where(held, kinds, NOTHING)
        return observation, info

    def _observe(self) -> np.ndarray:
        observation = np.zeros(OBJECTS + 2, np.float32)
        observation[START] = self._position == 0
        observation[END] = self._position == self.length
        kind = self._cue if self._position == 0 else self._things[self._position]
        if kind != NOTHING:
            observation[kind] = 1.0
        return observation
