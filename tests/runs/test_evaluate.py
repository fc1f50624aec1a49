"""Evaluation counts fairly, repeats itself, and switches memory off when it says so."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
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
from runs.cli import main
from runs.config import Config
from runs.evaluation import ablate, dreamed, horizon, returns
from runs.evaluation.play import (
    AgentPlayer,
    OraclePlayer,
    RandomPlayer,
    always,
    evaluation_seed,
    never,
    play,
    play_new,
)
from runs.evaluation.report import new_folder
from runs.evaluation.statistics import iqm_ci, mean_ci, rate_ci, student, surely_more
from runs.evaluation.subject import load_run
from runs.evaluation.suite import Budget, Subject, quiet
from runs.folder import read_config


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
        self.calls.append((state, is_first))
        seen = observation["observation"]
        state = torch.where(seen[:, :2].any(-1), seen[:, :2].argmax(-1), state)
        return torch.where(seen[:, 3] > 0, UP + state, FORWARD), state


def played(memory: bool, episodes: int = 40) -> tuple[list[Episode], Rememberer]:
    """Episodes of a T-Maze by an agent that remembers perfectly, if it may."""
    agent, streams = Rememberer(), EnvStreams(partial(TMaze, 5), 8, seed=3)
    found = play(player(agent, memory), streams, episodes)
    streams.close()
    return found, agent


def player(agent: Rememberer, memory: bool = True) -> AgentPlayer:
    """The rememberer as a player."""
    forget = never if memory else always
    return AgentPlayer(agent, forget=forget)  # pyright: ignore[reportArgumentType]


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
    found = play(player(Rememberer()), streams, 200)
    shares = np.bincount([episode.env_index for episode in found], minlength=32)
    assert shares.tolist() == [7] * 8 + [6] * 24
    assert 9 < np.mean([episode.length for episode in found]) < 12
    streams.close()


def evaluated(run: Path, *words: str) -> dict[str, Any]:
    """The reports of the newest evaluation, after another one."""
    assert main(["evaluate", str(run), *words]) == 0
    folder = max(run.glob("evaluation*"), key=lambda path: path.stat().st_mtime_ns)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_report_has_its_form_and_repeats_itself(copied: Path) -> None:
    """Fails where evaluating draws on the random numbers of others, or overwrites a report."""
    before, first = torch.get_rng_state(), (copied / "evaluation" / "return.json").read_bytes()
    report = evaluated(copied, "--episodes", "6", "--seed", "5")["return"]
    assert torch.equal(before, torch.get_rng_state())
    assert (report["env"], report["episodes"], report["seed"]) == ("clew/TMaze-v0", 6, 5)
    assert list(report["players"]) == ["greedy", "sampled", "memory_off", "random", "oracle"]
    for part in report["players"].values():
        assert part["return"].keys() == part["length"].keys() == {"mean", "ci95"}
        assert part["success"].keys() == {"rate", "ci95"}
    torch.rand(3)
    assert evaluated(copied, "--episodes", "6", "--seed", "5")["return"] == report
    assert (copied / "evaluation" / "return.json").read_bytes() == first
    names = {path.name for path in copied.glob("evaluation*")}
    assert names == {"evaluation", "evaluation-2", "evaluation-3"}


def test_the_page_holds_everything_in_itself(copied: Path) -> None:
    """Fails where a report that is passed on lacks its pictures, or leads elsewhere."""
    evaluated(copied, "--episodes", "4", "--suite", "return", "horizon", "ablate-memory")
    page = (copied / "evaluation-2" / "report.html").read_text()
    for word in ("What it earns", "Success by delay", "What forgetting costs"):
        assert word in page
    assert page.count("data:image/png;base64,") == 3
    assert page.count("data:image/gif;base64,") == 1
    assert "http" not in page


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--suite", "retrun"], "no suite 'retrun'. Nearest: return"),
        (["--suite"], "names nothing"),
        (["--env", "CartPole-v1"], "observation space"),
        (["--env-kwargs", "lenght=3"], "lenght"),
        (["--episodes", "0"], "episodes = 0 must be at least 1"),
        (["--env", "clew/Hallway-v0", "--suite", "horizon"], "observation space"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_play(
    copied: Path, words: list[str], hint: str, capsys: pytest.CaptureFixture
) -> None:
    """Fails where a mistake ends in a traceback, or leaves a folder behind."""
    assert main(["evaluate", str(copied), *words]) == 2
    assert hint in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert not (copied / "evaluation-2").exists()


def test_a_model_alone_has_no_policy_to_measure(
    copied: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fails where an untrained policy is measured, or where `all` offers it."""
    form = json.loads((copied / "config.json").read_text())
    del form["sha256"]  # or the change is refused
    form["config"]["model_only"] = True
    (copied / "config.json").write_text(json.dumps(form))
    assert main(["evaluate", str(copied), "--suite", "ablate-memory"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "no policy to measure" in said
    assert "What can be: --suite horizon dreamed." in said
    found = evaluated(copied, "--suite", "all", "--episodes", "4")
    assert found.keys() == {"dreamed", "horizon"}
    assert "left out: return (it learned the world model alone" in capsys.readouterr().out
    assert list(horizon.headline(found["horizon"])) == ["memory horizon, of predictions"]


def test_an_unfinished_run_is_measured_and_said_so(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    form = json.loads((copied / "config.json").read_text())
    del form["sha256"]  # or the change is refused
    form["config"]["steps"] = 1_000
    (copied / "config.json").write_text(json.dumps(form))
    load_run(copied, "cpu")
    assert "is not finished" in caplog.text
    assert "of 1,000 steps" in caplog.text


def known(length: int = 24, **config: Any) -> tuple[Subject, Budget]:
    """The rememberer in a T-Maze, as what is measured."""
    agent: Any = Rememberer()
    maze = Config(env_kwargs={"length": length}, **config)
    return Subject(Path(), agent, maze), Budget(episodes=40, max_steps=200)


def test_floors_and_ceilings_of_a_perfect_memory() -> None:
    """Fails where a player is another than it is called."""
    report = returns.measure(*known(), quiet)["players"]
    for name in ("greedy", "sampled", "oracle"):
        assert report[name]["success"]["rate"] == 1.0
        assert report[name]["return"]["mean"] == 1.0
    assert 0.2 < report["memory_off"]["success"]["rate"] < 0.8
    assert report["random"]["success"]["rate"] < 0.2
    assert "it acts by what it remembers" in returns.verdict({"players": report})


class Fading(Rememberer):
    """Keeps the cue for `span` steps, then takes it for the first one."""

    def __init__(self, span: int) -> None:
        super().__init__()
        self.span = span

    def act(
        self, observation: dict[str, Tensor], state: Tensor, is_first: Tensor, deterministic: bool
    ) -> tuple[Tensor, Tensor]:
        """As the rememberer; the state is the cue, and its age in hundredths."""
        seen = observation["observation"]
        shown = seen[:, :2].any(-1)
        age = torch.where(shown, 0, state // 10 + 1)
        cue = torch.where(shown, seen[:, :2].argmax(-1), state % 10)
        cue = torch.where(age > self.span, 0, cue)
        return torch.where(seen[:, 3] > 0, UP + cue, FORWARD), 10 * age + cue


@pytest.mark.parametrize("span", [10, 30, 170])
def test_the_memory_horizon_is_that_of_the_memory(span: int) -> None:
    """Fails where a delay counts as solved that is not, or the search ends too soon."""
    subject, budget = known()
    agent: Any = Fading(span)
    report = horizon.measure(Subject(Path(), agent, subject.config), budget, quiet)
    assert report["horizon"] <= span < report["failed"]
    assert report["failed"] / report["horizon"] < 1.7
    for point in report["by_delay"]:
        assert (point["memory"]["rate"] == 1.0) == (point["delay"] <= span)
        assert 0.2 < point["memory_off"]["rate"] < 0.8


def test_a_memory_without_end_is_limited_by_the_steps_allowed() -> None:
    report = horizon.measure(*known(), quiet)
    assert (report["horizon"], report["failed"]) == (199, None)
    assert "longer ones take more than --max-steps" in horizon.verdict(report)


def test_a_task_that_hides_success_has_no_horizon(tmp_path: Path) -> None:
    """Fails where that comes out after an hour of play."""
    lines = [
        "from envs.tmaze import TMaze",
        "class Mute(TMaze):",
        "    def step(self, action):",
        "        return *super().step(action)[:4], {}",
    ]
    (tmp_path / "mute.py").write_text("\n".join(lines))
    mute = Config(env=f"{tmp_path}/mute.py:Mute", env_kwargs={"length": 8})
    assert "is_success" in horizon.missing(replace(known()[0], config=mute))
    assert not horizon.missing(known()[0])


def test_the_delay_of_training_stays_what_it_was() -> None:
    """Fails where a run that is measured at another delay seems to have learned there."""
    subject, budget = known()
    report = horizon.measure(replace(known(48)[0], learned=subject.config), budget, quiet)
    assert report["trained"] == 24


@pytest.mark.parametrize("span", [1, 2, 7, 100, 249, 250, 999, 3000, 20_000])
def test_every_horizon_is_found(span: int) -> None:
    """Fails where a memory shorter than a quarter of training counts as none."""
    good, bad = horizon.search(lambda delay: delay <= span, 1000, 20_000)
    assert good <= span < (bad or math.inf)
    assert bad is None or bad <= max(1.25 * good, good + 1)


def test_episodes_cut_before_their_end_are_not_failures() -> None:
    """Fails where a perfect memory's horizon is where `max_steps` ends."""
    subject = Subject(Path(), OraclePlayer(), Config(env="clew/ActiveTMaze-v0"))
    report = horizon.measure(subject, Budget(20, max_steps=70), quiet)
    assert report["horizon"] == 50
    assert report["failed"] is None
    assert all(point["memory"]["rate"] == 1.0 for point in report["by_delay"])


def test_no_memory_has_no_horizon() -> None:
    subject, budget = known()
    agent: Any = Fading(0)
    report = horizon.measure(Subject(Path(), agent, subject.config), budget, quiet)
    assert (report["horizon"], report["failed"]) == (0, 1)
    assert "No memory horizon" in horizon.verdict(report)


def test_forgetting_costs_where_something_was_remembered() -> None:
    """Fails where a memory is not cleared when it says so: the cue is needed all the way."""
    report = ablate.measure(*known(), quiet)
    assert report["whole"]["success"]["rate"] == 1.0
    assert [found["steps"] for found in report["once"]] == [1, 6, 10, 15, 19, 24]
    assert [found["steps"] for found in report["every"]] == [1, 4, 16]
    for found in (*report["once"], *report["every"]):
        assert 0.2 < found["success"]["rate"] < 0.8


def test_memory_is_cleared_once_and_no_more() -> None:
    agent: Any = Rememberer()
    streams = EnvStreams(partial(TMaze, 9), 3, seed=0)
    play(AgentPlayer(agent, forget=partial(ablate.once, 4)), streams, 6)
    streams.close()
    cleared = [bool(is_first.all()) for _, is_first in agent.calls]
    assert cleared[:11] == [step in (0, 4) for step in range(10)] + [False]


def test_every_player_meets_the_same_episodes() -> None:
    """Fails where the dice of one player decide the mazes of the next."""
    met = []
    for who in (OraclePlayer(), RandomPlayer(3)):
        streams = EnvStreams(partial(TMaze, 5, spare=0), 4, seed=8)
        cues: list[np.ndarray] = []
        play(who, streams, 4, watch=lambda r, _, cues=cues: cues.append(r.observation))
        streams.close()
        met.append(cues[0])
    assert (met[0] == met[1]).all()
    assert met[0][:, :2].any(1).all()


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
    found = play_new(AgentPlayer(agent), config, episodes=3, seed=0, max_steps=5)
    report = returns.summary(found, returns.says_success(found))
    assert report["length"] == {"mean": 5.0, "ci95": None}
    assert report["success"] is None
    assert "3 of 3 episodes were cut after 5 steps" in caplog.text


def test_an_oracle_knows_what_actions_mean_in_the_bare_environment_only() -> None:
    """Fails where a ceiling is played by actions that a wrapper turns into others."""
    odd = str(Path(__file__).with_name("odd_envs.py"))
    (subject, budget) = known()
    swapped = replace(subject.config, wrappers=(f"{odd}:Swapped",))
    assert "oracle" in returns.players(subject, budget)
    assert "oracle" not in returns.players(replace(subject, config=swapped), budget)
    assert dreamed.is_crossable(subject.config)
    assert not dreamed.is_crossable(swapped)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("chance", "chance = 'a third' is no share"),
        ("raises", "raised ZeroDivisionError: division by zero"),
        ("action", "returned 7, which is no action of Discrete(2)"),
        ("nothing", ""),
    ],
)
def test_what_an_environment_says_of_itself_is_checked_before_play(what: str, said: str) -> None:
    """Fails where it is found out after everything was played, or taken for an oracle's failure."""
    subject = known()[0]
    odd = f"{Path(__file__).with_name('odd_envs.py')}:Ominous"
    config = replace(subject.config, env=odd, env_kwargs={"what": what})
    missing = returns.missing(replace(subject, config=config))
    assert said in missing
    assert bool(missing) == bool(said)


def test_a_delay_that_names_no_argument_is_none() -> None:
    """Fails where that comes out as an error in the middle of an evaluation."""
    unnamed = Config(env=f"{Path(__file__).with_name('odd_envs.py')}:Unnamed")
    assert "no attribute `delay`" in horizon.missing(replace(known()[0], config=unnamed))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_are_none_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        Budget(seed=seed)


def test_to_guess_is_not_to_remember() -> None:
    """Fails where whoever needs its memory to walk, and guesses, acts by what it remembers."""

    def said(rate: float) -> str:
        on, off = (
            {"return": mean_ci([r] * 200), "success": rate_ci([i < 200 * r for i in range(200)])}
            for r in (rate, 0.0)
        )
        return returns.verdict({"players": {"greedy": on, "memory_off": off}, "chance": 0.5})

    assert "guessing succeeds in 50% as well" in said(0.55)
    assert "it acts by what it remembers" in said(0.7)


def test_nothing_is_left_of_an_evaluation_that_failed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_intervals() -> None:
    """Wilson for 8 of 10 from Brown, Cai & DasGupta's formula; a mean's beside the normal one."""
    assert rate_ci([True] * 8 + [False] * 2) == {
        "rate": 0.8,
        "ci95": pytest.approx([0.4902, 0.9433], abs=1e-4),
    }
    assert rate_ci([True] * 20)["ci95"] == pytest.approx([0.8389, 1.0], abs=1e-4)
    values = np.random.default_rng(0).normal(3.0, 1.0, 400).tolist()
    low, high = mean_ci(values)["ci95"]
    assert (low, high) == pytest.approx(
        (np.mean(values) - 0.096, np.mean(values) + 0.096), abs=0.01
    )
    assert mean_ci([7.0]) == {"mean": 7.0, "ci95": None}
    assert not surely_more(mean_ci([1.0] * 3), mean_ci([0.0] * 3))
    assert surely_more(mean_ci([1.0] * 4), mean_ci([0.0] * 4))


@pytest.mark.parametrize("count", [2, 3, 5, 8, 20])
def test_intervals_hold_the_truth_as_often_as_they_say(count: int) -> None:
    """Fails where few values are resampled too narrowly: a plain bootstrap of 3 holds 75 %."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(400, count, 1))
    ends = np.array([iqm_ci(runs)["ci95"] for runs in drawn])
    assert 0.91 <= ((ends[:, 0] < 0) & (ends[:, 1] > 0)).mean() <= 0.99


def test_quantiles_of_student() -> None:
    """Against Abramowitz & Stegun's table 26.10."""
    table = {1: 12.706, 4: 2.776, 10: 2.228, 15: 2.131, 30: 2.042, 120: 1.980}
    assert {n: student(n) for n in table} == pytest.approx(table, rel=2e-3)


def test_episodes_that_do_not_say_count_as_failures_where_others_say() -> None:
    episodes = [Episode(0, 3, 1.0, True), Episode(0, 3, 0.0, None)]
    assert returns.summary(episodes, returns.says_success(episodes))["success"]["rate"] == 0.5
    silent = returns.summary(episodes[1:], returns.says_success(episodes[1:]))
    assert silent["success"] is None
    players = {"players": {"greedy": silent, "memory_off": silent}}
    assert returns.sheets(players)[0].rows[0] == ("greedy", "0", "not reported", "3")
    assert "mean return of 0" in returns.verdict(players)


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
    del form["sha256"]  # or the change is refused
    form["config"]["scan"] = "mamba-ssm"
    (run / "config.json").write_text(json.dumps(form))
    assert read_config(run)[0].scan == "auto"
    agent, config, _ = load_run(run, "cpu")
    assert config.scan == "auto"
    assert agent.device.type == "cpu"
