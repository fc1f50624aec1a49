"""MiniGrid's symbols are categories, whatever the view, and pictures stay pictures."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from envs import make

WRAPPERS = "minigrid.wrappers:"


def image(env: gym.Env) -> gym.Space:
    space = env.observation_space
    return space["image"] if isinstance(space, spaces.Dict) else space


@pytest.mark.parametrize(
    ("env_id", "wrappers", "shape"),
    [
        ("MiniGrid-MemoryS13Random-v0", [], (7, 7, 3)),
        ("MiniGrid-DoorKey-6x6-v0", ["ImgObsWrapper"], (7, 7, 3)),
        ("MiniGrid-DoorKey-6x6-v0", ["FullyObsWrapper"], (6, 6, 3)),
        ("MiniGrid-DoorKey-6x6-v0", ["ViewSizeWrapper"], (7, 7, 3)),
        ("minigrid:BabyAI-GoToDoor-v0", [], (7, 7, 3)),
    ],
)
def test_symbols_are_categories(env_id, wrappers, shape):
    """Fails where a number that stands for a key or a door is read as a brightness."""
    env = make(env_id, wrappers=[WRAPPERS + name for name in wrappers])
    space = image(env)
    assert isinstance(space, spaces.MultiDiscrete)
    assert space.shape == shape
    assert (space.nvec == [11, 6, 4]).all()
    env.action_space.seed(0)
    seen = [env.reset(seed=0)[0]]
    for _ in range(60):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        seen.append(observation)
        assert env.observation_space.contains(observation)
        if terminated or truncated:
            seen.append(env.reset()[0])
    cells = np.stack([s["image"] if isinstance(s, dict) else s for s in seen])
    assert cells.max((0, 1, 2))[0] >= 4 or "DoorKey" not in env_id, "a door or a key was seen"


@pytest.mark.parametrize(
    "wrappers",
    [
        ["RGBImgPartialObsWrapper"],
        ["RGBImgObsWrapper", "ImgObsWrapper"],
        ["RGBImgPartialObsWrapper", "ImgObsWrapper"],
    ],
)
def test_pictures_stay_pictures(wrappers):
    """Fails where a drawn picture is read as symbols: its colours are no categories."""
    env = make("MiniGrid-Empty-5x5-v0", wrappers=[WRAPPERS + name for name in wrappers])
    assert isinstance(image(env), spaces.Box)
    env.reset(seed=0)
    env.step(0)


def test_observations_of_other_wrappers_are_left_alone():
    env = make("MiniGrid-Empty-5x5-v0", wrappers=[f"{WRAPPERS}OneHotPartialObsWrapper"])
    assert image(env).shape == (7, 7, 20)
    assert isinstance(image(env), spaces.Box)


def test_guessing_is_known_where_two_objects_are_to_choose_from():
    """Fails where half of the episodes pass for memory, or an empty room for a coin."""
    assert make("MiniGrid-MemoryS7-v0").get_wrapper_attr("chance") == 0.5
    assert make("MiniGrid-Empty-5x5-v0").get_wrapper_attr("chance") is None
