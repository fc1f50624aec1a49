"""Observations as Stable-Baselines3 reads them: pictures, and one vector of everything else.

Categories are one-hot. Text is left out, as our own model leaves it out.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldmodel.spaces import flatten_observation, flatten_space

VECTOR = "vector"  # the part that is no picture
SMALLEST = 36  # pixels along a side that SB3's convolutions can read


class Flat(gym.ObservationWrapper):
    """Any observation as a picture, a vector, or a Dict of both."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.leaves = flatten_space(env.observation_space)
        self.observation_space = flat_space(self.leaves)

    def observation(self, observation: Any) -> Any:
        """Pictures as they are, everything else in one vector."""
        found = flatten_observation(self.leaves, observation)
        return flat(self.leaves, {name: value[None] for name, value in found.items()}, single=True)


def is_picture(space: gym.Space) -> bool:
    """Whether SB3's convolutions can read it."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and min(space.shape[:2]) >= SMALLEST
    )


def flat_space(leaves: dict[str, gym.Space]) -> spaces.Box | spaces.Dict:
    """The space of `flat`; Dict only where there are pictures and something else, or several."""
    parts: dict[str, gym.Space] = {n: leaf for n, leaf in leaves.items() if is_picture(leaf)}
    rest = sum(spaces.flatdim(leaf) for leaf in leaves.values() if not is_picture(leaf))
    if rest:
        parts[VECTOR] = spaces.Box(-np.inf, np.inf, (rest,), np.float32)
    if len(parts) == 1:
        (only,) = parts.values()
        assert isinstance(only, spaces.Box)
        return only
    return spaces.Dict(parts)


def flat(leaves: dict[str, gym.Space], found: dict[str, np.ndarray], single: bool = False) -> Any:
    """A batch of observations by leaf name as `flat_space` has them."""
    parts = {name: found[name] for name, leaf in leaves.items() if is_picture(leaf)}
    vectors = [_vectors(leaf, found[n]) for n, leaf in leaves.items() if not is_picture(leaf)]
    if vectors:
        parts[VECTOR] = np.concatenate(vectors, -1, dtype=np.float32)
    parts = {name: part[0] for name, part in parts.items()} if single else parts
    return next(iter(parts.values())) if len(parts) == 1 else parts


def _vectors(space: gym.Space, values: np.ndarray) -> np.ndarray:
    """A batch of one leaf as vectors; categories one-hot."""
    return np.stack([np.asarray(spaces.flatten(space, value), np.float32) for value in values])
