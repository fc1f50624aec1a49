"""The original Memory Maze behind our interface, and ours beside it; needs the extra `mujoco`."""

import importlib.util

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from envs import make
from envs import mujoco_memory_maze as original

MISSING = [name for name in original.PACKAGES if importlib.util.find_spec(name) is None]
ENV_ID = "clew/MuJoCoMemoryMaze-9x9-v0"
needs_mujoco = pytest.mark.skipif(
    bool(MISSING), reason=f"needs {', '.join(MISSING)}: {original.INSTALL}"
)


@pytest.fixture(scope="module")
def env():
    """The original 9x9 maze, bare; built once, for that takes seconds."""
    env = make(ENV_ID).unwrapped
    yield env
    env.close()


@needs_mujoco
@pytest.mark.filterwarnings("ignore")
def test_it_has_our_interface(env):
    """Fails where spaces, info or frames differ from ours in shape, type or range."""
    ours = make("clew/MemoryMaze-9x9-v0").unwrapped
    assert env.observation_space == ours.observation_space
    assert env.action_space == ours.action_space
    (frame, info), (our_frame, our_info) = env.reset(seed=1), ours.reset(seed=1)
    assert frame in env.observation_space
    assert frame.shape == our_frame.shape
    assert info.keys() == our_info.keys()
    for name, value in info.items():
        assert np.shape(value) == np.shape(our_info[name])
        assert np.asarray(value).dtype == np.asarray(our_info[name]).dtype
    for place in [info["agent_pos"], *info["targets_pos"]]:
        assert info["maze_layout"][int(place[1]), int(place[0])] == 1


@needs_mujoco
@pytest.mark.filterwarnings("ignore")
def test_the_seed_decides_the_maze(env):
    """Fails where labmaze or textures are seeded from elsewhere, or an earlier episode counts."""
    actions = (1, 4, 5, 2)
    env.reset(seed=3)
    again, other = [
        [env.reset(seed=seed), *(env.step(action) for action in actions)] for seed in (1, 2)
    ]
    new = make(ENV_ID).unwrapped
    built = [new.reset(seed=1), *(new.step(action) for action in actions)]
    new.close()
    assert data_equivalence(built, again, exact=True)
    assert (other[0][0] != again[0][0]).any()


@needs_mujoco
@pytest.mark.filterwarnings("ignore")
def test_our_mover_goes_where_the_original_goes(env):
    """Fails where the two drift apart in 6 random actions: most of all where a wall is met."""
    ours = make("clew/MemoryMaze-9x9-v0").unwrapped
    ours.reset(seed=0)
    rng, away, turned = np.random.default_rng(0), [], []
    for episode in range(4):
        _, info = env.reset(seed=1) if episode == 0 else env.reset()
        world = ours._world
        world.walls[0, 1:-1, 1:-1] = 1 - info["maze_layout"]
        world._place(0, info["agent_pos"] + 0.5)
        world.bodies[0, 3] = np.arctan2(*info["agent_dir"][::-1])
        for action in rng.choice([1, 1, 2, 3, 4, 5], 6):
            *_, info = env.step(action)
            *_, our_info = ours.step(action)
        away.append(np.abs(info["agent_pos"] - our_info["agent_pos"]).max())
        turned.append(info["agent_dir"] @ our_info["agent_dir"])
    assert np.median(away) < 0.02
    assert max(away) < 0.15
    assert np.median(turned) > np.cos(np.radians(2))
    assert min(turned) > np.cos(np.radians(30))


@needs_mujoco
@pytest.mark.filterwarnings("ignore")
def test_its_policies_play_it(env):
    """Fails where the oracle steers by other coordinates than the original's."""
    env.reset(seed=2)
    assert sum(env.step(env.oracle())[1] for _ in range(90)) >= 1
    rng = np.random.default_rng(0)
    assert {env.explore(rng) for _ in range(100)} <= set(range(6))


def test_without_its_packages_the_cure_is_named(monkeypatch):
    """Fails where a missing extra is an ImportError from deep inside."""
    find = importlib.util.find_spec
    hide = lambda name: None if name in original.PACKAGES else find(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    with pytest.raises(ValueError, match=r"needs memory_maze.*pip install 'clew\[mujoco\]'"):
        make(ENV_ID)


def test_there_is_no_7x7():
    """Fails where our small size is looked for in the original."""
    with pytest.raises(ValueError, match="MuJoCoMemoryMaze size is '7x7': choose from 9x9, "):
        original.MuJoCoMemoryMaze("7x7")
    assert "clew/MuJoCoMemoryMaze-7x7-v0" not in gym.registry
