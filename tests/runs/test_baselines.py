"""Baselines act as Stable-Baselines3 does, are kept without pickles, and measured as our own."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

from envs import make
from runs.baselines.flat import flat, flat_space
from runs.baselines.learn import make_envs
from runs.baselines.policy import Baseline, BaselineConfig, Learned, algorithm
from runs.cli import main
from runs.config import Config
from worldmodel.spaces import flatten_observation, flatten_space

KINDS: tuple[Learned, ...] = ("ppo", "recurrent-ppo")
SHORT = ["--steps", "256", "--num-envs", "2", "--ppo.rollout", "64", "--ppo.epochs", "1"]


@pytest.mark.parametrize("env", ["clew/TMaze-v0", "clew/MemoryMaze-7x7-v0"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_acts_as_sb3_does(kind: Learned, env: str, tmp_path: Path) -> None:
    """Fails where frames are stacked, or an LSTM is fed, in another way than in training.

    Episodes end on the way: what is kept must end with them.
    """
    config = Config(env=env, env_kwargs={"max_episode_steps": 7}, num_envs=3)
    settings = BaselineConfig(width=16)
    envs = make_envs(kind, config, settings)
    body, name, kwargs = algorithm(kind, envs.observation_space, settings)
    model = body(name, envs, policy_kwargs=kwargs, seed=0, device="cpu")
    assert isinstance(model, PPO | RecurrentPPO)
    bare = make(config.env, config.env_kwargs)
    ours = Baseline(kind, bare.observation_space, bare.action_space, model.policy)
    ours.save(tmp_path, settings)
    ours = Baseline.load(tmp_path, json.loads((tmp_path / "baseline.json").read_text()))
    seen, first = envs.reset(), np.ones(3, np.bool_)
    state, hidden = ours.initial(3), None
    for _ in range(20):
        newest = seen[..., -bare.observation_space.shape[-1] :]  # pyright: ignore
        wanted, hidden = model.predict(seen, hidden, first, deterministic=True)
        tensors = {"observation": torch.as_tensor(newest)}
        found, state = ours.act(tensors, state, torch.as_tensor(first), deterministic=True)
        np.testing.assert_array_equal(found.numpy(), wanted)
        seen, _, first, _ = envs.step(wanted)
    envs.close()


def test_any_observation_becomes_pictures_and_a_vector() -> None:
    """Fails where a part is lost, or a category is read as a number."""
    space = spaces.Dict(
        picture=spaces.Box(0, 255, (40, 40, 3), np.uint8),
        small=spaces.Box(0, 255, (2, 2, 3), np.uint8),
        kind=spaces.Discrete(3),
    )
    leaves = flatten_space(space)
    found = flat_space(leaves)
    assert isinstance(found, spaces.Dict)
    assert found["vector"].shape == (15,)
    space.seed(0)
    rows = [space.sample() for _ in range(4)]
    batch = {name: np.stack([row[name] for row in rows]) for name in leaves}
    parts = flat(leaves, flatten_observation(leaves, batch))
    assert parts["picture"].shape == (4, 40, 40, 3)
    kinds = parts["vector"][:, :3] if next(iter(leaves)) == "kind" else parts["vector"][:, -3:]
    np.testing.assert_array_equal(kinds.argmax(-1), batch["kind"])


@pytest.mark.parametrize("kind", [*KINDS, "random", "oracle"])
def test_a_baseline_is_a_run(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails where a baseline cannot be evaluated again and compared, or is pickled."""
    asked = ["--env", "clew/TMaze-v0", "--env-kwargs", "length=4", *SHORT]
    out = ["--out", str(tmp_path), "--name", "run", "--evaluation-episodes", "4"]
    assert main(["baseline", kind, *asked, *out]) == 0
    run = tmp_path / "run"
    suites = ["--suite", "return", "horizon", "--episodes", "4"]
    assert main(["evaluate", str(run), *suites]) == 0
    report = json.loads((run / "evaluation-2" / "return.json").read_text())
    success = report["players"]["greedy"]["success"]["rate"]
    assert success == 1 if kind == "oracle" else success < 1
    assert main(["compare", str(run), "--out", str(tmp_path / "side")]) == 0
    kinds = {path.suffix for path in run.rglob("*")}
    assert kinds.isdisjoint({".zip", ".pkl", ".pth", ".pt"})
    assert (".safetensors" in kinds) == (kind in KINDS)
    assert (run / "metrics.jsonl").exists() == (kind in KINDS)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--suite", "dreamed"]) == 2
    assert "a baseline has no world model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["ppo", "--env", "clew/TMazes-v0"], "TMaze-v0"),
        (["ppo", "--env", "clew/TMaze-v0", "--steps", "100"], "fewer than one rollout"),
        (["oracle", "--env", "CartPole-v1"], "has no oracle()"),
    ],
)
def test_mistakes_are_refused(
    words: list[str], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fails where a mistake leaves a folder behind, or ends in a traceback."""
    assert main(["baseline", *words, "--out", str(tmp_path / "runs")]) == 2
    assert hint in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_seeds_of_a_baseline_are_summed_up_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fails where an oracle and a random policy are taken for seeds of one thing."""
    base = ["--env", "clew/TMaze-v0", "--env-kwargs", "length=4", "--out", str(tmp_path)]
    run = partial("{}/{}".format, tmp_path)
    for name, kind, seed in (("a", "random", 0), ("b", "random", 1), ("c", "oracle", 0)):
        words = ["--seed", str(seed), "--name", name, "--evaluation-episodes", "4"]
        assert main(["baseline", kind, *base, *words]) == 0
    capsys.readouterr()
    assert main(["compare", run("a"), run("b"), run("c"), "--out", run("side")]) == 0
    said = capsys.readouterr().out
    assert "a, b" in said
    assert "b, c" not in said
