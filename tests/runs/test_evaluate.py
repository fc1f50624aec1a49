"""Evaluation counts fairly, repeats itself, and switches memory off when it says so."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from agent.agent import Agent
from envs import EnvStreams, Episode, TMaze, episode_seed
from envs.tmaze import FORWARD, UP
from runs.config import Config
from runs.evaluate import (
    evaluate,
    evaluate_run,
    evaluation_seed,
    load_run,
    mean_ci,
    play,
    rate_ci,
    show,
    summary,
)
from runs.folder import RefusalError, read_config


class Rememberer:
    """Solves T-Mazes by a state of its own: the cue, or 0 where it saw none."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []

    def initial(self, batch: int) -> Tensor:
        """No cue seen."""
        return torch.zeros(batch, dtype=torch.int64)

    def to_tensors(self, observation: np.ndarray) -> dict[str, Tensor]:
        """As an agent's."""
        return {"observation": torch.as_tensor(observation)}

    def act(
        self, observation: dict[str, Tensor], state: Tensor, is_first: Tensor, deterministic: bool
    ) -> tuple[Tensor, Tensor]:
        """Note the cue, walk, and turn by it."""
        assert deterministic
        self.calls.append((state, is_first))
        seen = observation["observation"]
        state = torch.where(seen[:, :2].any(-1), seen[:, :2].argmax(-1), state)
        return torch.where(seen[:, 3] > 0, UP + state, FORWARD), state


def played(memory: bool, episodes: int = 40) -> tuple[list[Episode], Rememberer]:
    """Episodes of a T-Maze by an agent that remembers perfectly, if it may."""
    agent, streams = Rememberer(), EnvStreams(partial(TMaze, 5), 8, seed=3)
    found = play(agent, streams, episodes, memory)  # pyright: ignore[reportArgumentType]
    streams.close()
    return found, agent


def test_memory_off_clears_the_state_before_every_record() -> None:
    on, remembering = played(memory=True)
    off, forgetting = played(memory=False)
    assert all(episode.success for episode in on)
    assert 0.2 < np.mean([bool(episode.success) for episode in off]) < 0.8
    assert any(state.any() for state, _ in remembering.calls)
    assert not any(state.any() for state, _ in forgetting.calls)
    assert all(is_first.all() for _, is_first in forgetting.calls)
    assert not all(is_first.all() for _, is_first in remembering.calls)


class Waiting(gym.Env[np.ndarray, int]):
    """Ends by itself after 1 or 20 steps, a coin's throw."""

    observation_space = gym.spaces.Box(0, 1, (4,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Throw the coin."""
        super().reset(seed=seed)
        self.left = 1 if self.np_random.random() < 0.5 else 20
        return np.zeros(4, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Wait."""
        self.left -= 1
        return np.zeros(4, np.float32), 1.0, self.left == 0, False, {}


def test_short_episodes_are_not_counted_more_often() -> None:
    """The first 200 episodes to end anywhere are mostly short ones: their mean length is 2.4."""
    streams = EnvStreams(Waiting, 32, seed=0)
    found = play(Rememberer(), streams, 200)  # pyright: ignore[reportArgumentType]
    shares = np.bincount([episode.env_index for episode in found], minlength=32)
    assert shares.tolist() == [7] * 8 + [6] * 24
    assert 9 < np.mean([episode.length for episode in found]) < 12
    streams.close()


def test_report_has_its_form_and_repeats_itself(finished: Path) -> None:
    before = torch.get_rng_state()
    report = evaluate_run(finished, episodes=6, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    assert json.loads((finished / "evaluation" / "evaluation.json").read_text()) == report
    assert list(report) == ["env", "episodes", "seed", "return", "success", "length", "memory_off"]
    assert (report["env"], report["episodes"], report["seed"]) == ("clew/TMaze-v0", 6, 5)
    for part in (report, report["memory_off"]):
        assert part["return"].keys() == part["length"].keys() == {"mean", "ci95"}
        assert part["success"].keys() == {"rate", "ci95"}
    torch.rand(3)
    assert evaluate_run(finished, episodes=6, seed=5) == report


def test_evaluating_what_is_no_run_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusalError, match=r"no folder .*nowhere"):
        evaluate_run(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    with pytest.raises(RefusalError, match="no complete checkpoint"):
        evaluate_run(tmp_path)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_episodes_of_evaluation_are_not_those_of_training(seed: int) -> None:
    def seeds(of: int) -> set[int]:
        return {episode_seed(of, env, episode) for env in range(32) for episode in range(20)}

    assert not seeds(seed) & seeds(evaluation_seed(seed))
    assert not seeds(evaluation_seed(seed)) & seeds(evaluation_seed(seed + 1))


def test_an_environment_that_never_ends_is_cut(
    quick: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    config = quick(env="CartPole-v1", env_kwargs={"max_episode_steps": 10_000})
    space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    agent = Agent(space, gym.spaces.Discrete(2), config.model)
    report = evaluate(agent, config, episodes=3, seed=0, max_steps=5)
    assert report["length"] == {"mean": 5.0, "ci95": [5.0, 5.0]}
    assert report["success"] is None
    assert "3 of 3 episodes were cut after 5 steps" in caplog.text


def test_intervals() -> None:
    """Wilson for 8 of 10 from Brown, Cai & DasGupta's formula; the mean's by hand."""
    assert rate_ci([True] * 8 + [False] * 2) == {
        "rate": 0.8,
        "ci95": pytest.approx([0.4902, 0.9433], abs=1e-4),
    }
    assert rate_ci([True] * 20)["ci95"] == pytest.approx([0.8389, 1.0], abs=1e-4)
    assert mean_ci([1, 2, 3, 4]) == {"mean": 2.5, "ci95": pytest.approx([1.2348, 3.7652], abs=1e-4)}
    assert mean_ci([7.0]) == {"mean": 7.0, "ci95": None}


def test_episodes_that_do_not_say_count_as_failures_where_others_say() -> None:
    episodes = [Episode(0, 3, 1.0, True), Episode(0, 3, 0.0, None)]
    assert summary(episodes)["success"]["rate"] == 0.5
    assert summary(episodes[1:])["success"] is None
    report = {"env": "x", "episodes": 1, "seed": 0, **summary(episodes[1:])}
    show(report | {"memory_off": summary(episodes[1:])})


def test_stable_baselines_evaluates_our_agent(finished: Path) -> None:
    """Agent.load takes a run's folder, and `predict` SB3's state and episode starts."""
    agent = Agent.load(finished)
    envs = DummyVecEnv([lambda: Monitor(TMaze(5))] * 3)
    returns, lengths = evaluate_policy(
        agent,  # pyright: ignore[reportArgumentType]
        envs,
        n_eval_episodes=6,
        deterministic=True,
        return_episode_rewards=True,
    )
    assert isinstance(lengths, list)
    assert len(lengths) == 6
    assert np.isfinite(returns).all()
    envs.close()


def test_a_run_trained_with_another_scan_is_evaluated_here(finished: Path, tmp_path: Path) -> None:
    """Fails where a run from a machine with mamba-ssm cannot be evaluated without it."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    form = json.loads((run / "config.json").read_text())
    form["config"]["scan"] = "mamba-ssm"
    (run / "config.json").write_text(json.dumps(form))
    assert read_config(run)[0].scan == "auto"
    agent, config = load_run(run, "cpu")
    assert config.scan == "auto"
    assert agent.device.type == "cpu"
