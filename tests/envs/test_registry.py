"""Ids, arguments and wrappers: what works, and what the errors tell one to type."""

import subprocess
import sys

import gymnasium as gym
import pytest

import envs
from envs import make

MINIGRID = "MiniGrid-Empty-8x8-v0"


def test_registering_twice_changes_nothing():
    envs.register_envs()
    spec = gym.registry["clew/TMaze-v0"]
    envs.register_envs()
    assert gym.registry["clew/TMaze-v0"] is spec


def test_importing_is_silent_and_makes_the_id_known_to_gymnasium():
    code = "import gymnasium; print(gymnasium.make('envs:clew/TMaze-v0', length=3).spec.id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("clew/TMaze-v0\n", "")


def test_passes_arguments_on():
    assert make("clew/TMaze-v0", {"length": 7}).unwrapped.length == 7
    assert make("CartPole-v1", {"max_episode_steps": 5}).spec.max_episode_steps == 5


def test_wrappers_are_applied_in_order_even_twice():
    wrappers = ["minigrid.wrappers:RGBImgPartialObsWrapper", "minigrid.wrappers:ImgObsWrapper"]
    assert make(MINIGRID, wrappers=wrappers).observation_space.shape == (56, 56, 3)
    flat = ["gymnasium.wrappers:FlattenObservation"] * 2
    assert str(make("CartPole-v1", wrappers=iter(flat))).count("FlattenObservation") == 2


@pytest.mark.parametrize(
    ("env_id", "advice"),
    [
        ("clew/Tmaze-v0", "clew/TMaze-v0"),
        ("clew/TMaze-v7", "clew/TMaze-v0"),
        ("CartPole", "CartPole-v1"),
        ("CartPole-v9", "CartPole-v0, CartPole-v1"),
        ("MiniGrid-Empty-8x8", "MiniGrid-Empty-8x8-v0"),
        ("nothing at all like it", "no id comes near it"),
        ("no_such_package:Env-v0", "pip install no_such_package"),
    ],
)
def test_an_unknown_id_names_the_nearest(env_id, advice):
    with pytest.raises(ValueError, match=advice):
        make(env_id)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "advice"),
    [
        ("clew/TMaze-v0", {"lenght": 3}, "does not know 'lenght'; its arguments: .*length"),
        ("clew/TMaze-v0", {"length": "far"}, "rejected the value of 'length'"),
        ("clew/TMaze-v0", {"length": 0}, "length is 0"),
        (MINIGRID, {"sizes": 3}, "does not know 'sizes'; .*agent_view_size.*size"),
    ],
)
def test_a_bad_argument_is_named_with_the_valid_ones(env_id, kwargs, advice):
    with pytest.raises(ValueError, match=advice):
        make(env_id, kwargs)


@pytest.mark.parametrize(
    ("wrapper", "advice"),
    [
        ("ImgObsWrapper", "form 'module:Class'"),
        ("minigrid.wrappers:ImgObsWraper", "did you mean ImgObsWrapper"),
        ("no_such_package.wrappers:A", "pip install no_such_package"),
        ("math:sqrt", "does not fit"),
        ("builtins:repr", "made no gymnasium.Env but str"),
        ("minigrid.wrappers:ImgObsWrapper", "does not fit"),
    ],
)
def test_a_bad_wrapper_is_named(wrapper, advice):
    with pytest.raises(ValueError, match=advice):
        make("CartPole-v1", wrappers=[wrapper])


def test_a_missing_package_of_an_env_is_named(monkeypatch):
    monkeypatch.setitem(
        gym.registry, "Lost-v0", gym.envs.registration.EnvSpec("Lost-v0", "no_such_package.env:Env")
    )
    with pytest.raises(ValueError, match="pip install no_such_package"):
        make("Lost-v0")
