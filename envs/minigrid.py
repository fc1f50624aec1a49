"""MiniGrid's environments: how an episode went, and their symbols as the categories they are."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

PREFIXES = ("MiniGrid", "BabyAI")
PICTURES = ("RGBImgObsWrapper", "RGBImgPartialObsWrapper")
IMAGE = "image"


class Success(gym.Wrapper):
    """`info["is_success"]` at the end of an episode: it was terminated with a positive reward."""

    @property
    def chance(self) -> float | None:
        """Success of whoever guesses where something had to be remembered; None elsewhere."""
        return 0.5 if type(self.unwrapped).__name__ == "MemoryEnv" else None

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; MiniGrid pays for reaching a goal, and for nothing else."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            info = info | {"is_success": bool(terminated) and float(reward) > 0}
        return observation, reward, terminated, truncated, info


class Symbols(gym.Wrapper):
    """Object, colour and state of each cell as categories, which MiniGrid declares as pixels."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        if isinstance(space, spaces.Dict):
            parts = {**space.spaces, IMAGE: _categories(space[IMAGE])}
            self.observation_space = spaces.Dict(parts)
        else:
            self.observation_space = _categories(space)


def has_symbols(env: gym.Env) -> bool:
    """Whether an environment of MiniGrid's, inside its wrappers, still shows its symbols."""
    space = env.observation_space
    image = space.spaces.get(IMAGE) if isinstance(space, spaces.Dict) else space
    if not isinstance(image, spaces.Box) or image.dtype != np.uint8:
        return False
    return image.shape[2:] == (3,) and not _draws(env)


def _draws(env: gym.Env) -> bool:
    """Whether a wrapper draws pictures instead."""
    while isinstance(env, gym.Wrapper):
        if type(env).__name__ in PICTURES:
            return True
        env = env.env
    return False


def _categories(image: gym.Space) -> gym.Space:
    from minigrid.core.constants import COLOR_TO_IDX, DIR_TO_VEC, OBJECT_TO_IDX, STATE_TO_IDX

    # The state of an agent, in views of the whole grid, is its direction.
    states = max(len(STATE_TO_IDX), len(DIR_TO_VEC))
    counts = [len(OBJECT_TO_IDX), len(COLOR_TO_IDX), states]
    assert image.shape is not None
    return spaces.MultiDiscrete(np.broadcast_to(counts, image.shape).copy(), dtype=np.uint8)
