"""Runs side by side are counted fairly, and odd runs and environments still have a true report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from envs import Episode, TMaze
from runs import folder
from runs.cli import main
from runs.evaluation import ablate, horizon, returns
from runs.evaluation.compare import joint
from runs.evaluation.evaluate import describe, evaluate
from runs.evaluation.play import OraclePlayer
from runs.evaluation.report import newest_report
from runs.evaluation.statistics import interquartile_mean, iqm_ci, rate_ci, rates_ci, written
from runs.evaluation.subject import load_subject
from runs.evaluation.suite import Budget
from runs.evaluation.suites import find_suites


def test_runs_side_by_side(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails where seeds are not summed up, or differences are not told."""
    other = Path(shutil.copytree(copied, tmp_path / "other"))
    form = json.loads((other / "config.json").read_text())
    del form["sha256"]  # or the change is refused
    form["config"]["seed"] = 1
    (other / "config.json").write_text(json.dumps(form))
    asked = [str(copied), str(other), "--episodes", "4"]
    assert main(["evaluate", *asked, "--suite", "return", "horizon", "--json"]) == 0
    printed, shown = capsys.readouterr()
    assert "Seeds together" in shown
    (group,) = json.loads(printed)["together"]
    assert group["runs"] == asked[:2]
    assert group["players"]["greedy"]["return"]["runs"] == 2
    assert main(["evaluate", str(other), "--episodes", "6"]) == 0
    for _ in range(2):
        assert main(["compare", *asked[:2], "--out", str(tmp_path / "side")]) == 0
    assert json.loads((tmp_path / "side-2" / "together.json").read_text())[0]["runs"] == asked[:2]
    page = (tmp_path / "side-2" / "report.html").read_text()
    for word in (
        "memory horizon",
        "Seeds together",
        "run, other",
        "In return, episodes differs: 4 (run); 6 (other).",
    ):
        assert word in page
    assert page.count("data:image/png;base64,") == 1


def test_what_was_not_evaluated_cannot_be_compared(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fails where a folder is made for nothing."""
    shutil.rmtree(copied / "evaluation")
    assert main(["compare", str(copied), "--out", str(tmp_path / "side")]) == 2
    assert "was not evaluated yet: clew evaluate" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "nowhere")]) == 2
    assert "no folder" in capsys.readouterr().err
    assert not (tmp_path / "side").exists()


def test_interquartile_mean() -> None:
    """The middle half; of five values, the second and the fourth count three quarters."""
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, -50.0])) == 1.5
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 4.0, 9.0])) == pytest.approx(5.75 / 2.5)


def test_the_doubt_about_several_runs_is_that_between_them() -> None:
    """Fails where many episodes of few runs look like many runs, or one episode in four is lost."""
    found = iqm_ci([[1.0] * 8, [3.0] * 8])
    assert found == {"iqm": 2.0, "ci95": pytest.approx([-7.17, 11.17], abs=0.01), "runs": 2}
    assert written(found) == "2 [-7.17, 11.2]"
    assert iqm_ci([[0.0, 1.0, 1.0, 1.0]] * 4)["iqm"] == 0.75
    learned_and_not = rates_ci([[True] * 200, [False] * 200])
    assert learned_and_not == {"rate": 0.5, "ci95": [0.0, 1.0]}
    assert rates_ci([[True] * 10] * 2) == rate_ci([True] * 20)


def test_runs_that_earn_the_same_are_as_sure_as_their_episodes() -> None:
    """Fails where the noise of episodes is blown up as if it were that between two runs."""
    run = [-2.2, -1.7, -1.9, -2.0, -2.3, -1.6, -1.8, -2.1] * 3
    low, high = iqm_ci([run, run])["ci95"]
    assert -2.1 < low < -1.95 < high < -1.8
    wider_low, wider_high = iqm_ci([run, [value + 1 for value in run]])["ci95"]
    assert wider_low < -2 - 3
    assert wider_high > -1 + 3


def test_who_learned_nothing_counts_once() -> None:
    """Fails where an oracle in the same episodes is as sure as two; agents are two."""
    each = {"return": [1.0, 0.0, 1.0, 1.0], "success": [True, False, True, True]}
    report = {"players": {name: {"each": each} for name in ("oracle", "greedy")}}
    (oracle, share), (greedy, both) = (joint([report, report], who) for who in report["players"])
    assert (oracle["runs"], greedy["runs"]) == (1, 2)
    assert share == rates_ci([[True, False, True, True]])
    assert both["ci95"][0] > share["ci95"][0]


def test_no_run_counts_twice(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Fails where a run is another seed of itself: by another path, or as a copy."""
    again = Path(shutil.copytree(copied, tmp_path / "again" / copied.name))
    monkeypatch.chdir(copied)
    assert main(["compare", ".", str(copied), str(again), "--out", str(tmp_path / "side")]) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert "Seedstogether" not in shown
    page = (tmp_path / "side" / "report.html").read_text()
    assert page.count(f"<th>{copied}</th>") == 1
    assert page.count(f"<th>{again}</th>") == 1
    assert page.index(f"<th>{copied}</th>") < page.index(f"<th>{again}</th>")


def test_seeds_measured_in_different_tasks_are_not_one(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fails where a corridor of another length is summed up with the usual one."""
    other = Path(shutil.copytree(copied, tmp_path / "other"))
    form = json.loads((other / "config.json").read_text())
    del form["sha256"]  # or the change is refused
    form["config"]["seed"] = 1
    (other / "config.json").write_text(json.dumps(form))
    out = ["--out", str(tmp_path / "side")]
    assert main(["compare", str(copied), str(other), *out]) == 0
    assert "Seeds together" in capsys.readouterr().out
    assert main(["evaluate", str(other), "--episodes", "2", "--env-kwargs", "length=7"]) == 0
    capsys.readouterr()
    assert main(["compare", str(copied), str(other), *out]) == 0
    assert "Seeds together" not in capsys.readouterr().out


def test_the_newest_reports_have_the_highest_number(copied: Path) -> None:
    """Fails where a removed folder's number is given to newer reports, or on a renamed one."""
    shutil.copytree(copied / "evaluation", copied / "evaluation-3")
    (copied / "evaluation").rename(copied / "evaluation-old")
    assert main(["evaluate", str(copied), "--episodes", "3"]) == 0
    found = newest_report(copied, "return")
    assert found
    assert found["episodes"] == 3
    assert (copied / "evaluation-4").is_dir()


def test_reports_tell_the_steps_of_what_was_measured(copied: Path) -> None:
    """Fails where training, going on meanwhile, changes what a report says was measured."""
    subject = load_subject(copied)
    shutil.copytree(folder.newest_checkpoint(copied), copied / "checkpoints" / "step-0000009999")
    assert describe(subject, Budget())["steps"] == subject.steps < 9999


class OnlySuccess(TMaze):
    """A T-Maze that says nothing of failures, and is drawn in numbers that no video takes."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info if info.get("is_success") else {}

    def render(self) -> Any:
        return np.zeros((8, 8, 3), np.float32)


def test_environments_that_say_success_alone(copied: Path) -> None:
    """Fails where a player without any success, or a strange picture, ends the report."""
    subject = replace(load_subject(copied), agent=OraclePlayer())
    config = replace(subject.config, env=f"{__name__}:OnlySuccess", env_kwargs={"length": 5})
    subject = replace(subject, config=config)
    found = evaluate(subject, [returns.SUITE], Budget(3), Console(quiet=True))["return"]
    assert found["players"]["random"]["success"]["rate"] == 0.0
    assert found["players"]["greedy"]["success"]["rate"] == 1.0
    assert not list(copied.glob("evaluation-2/*.gif"))


def test_an_environment_keeps_its_arguments_by_another_path(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where a run's own environment, named by a shorter path, is taken for another one."""
    form = json.loads((copied / "config.json").read_text())
    del form["sha256"]  # or the change is refused
    form["config"] |= {
        "env": f"{Path(__file__).resolve()}:OnlySuccess",
        "env_kwargs": {"length": 7},
    }
    (copied / "config.json").write_text(json.dumps(form))
    monkeypatch.chdir(Path(__file__).parent)
    subject = load_subject(copied, "./test_compare.py:OnlySuccess")
    assert subject.config.env_kwargs == {"length": 7}


def test_memory_is_not_claimed_for_noise() -> None:
    """Fails where any difference of two means is a reach of memory."""

    def part(rewards: list[float]) -> dict[str, Any]:
        episodes = [Episode(0, 3, reward, None) for reward in rewards]
        return {"steps": 1, **returns.summary(episodes, False)}

    def said(off: list[float], on: list[float], once: list[float]) -> tuple[str, str]:
        report = {"every": [part(off)], "once": [part(once)], "whole": part(on)}
        return ablate.headline(report)["memory needed"], ablate.verdict(report)

    bad, good = [0.0, 0.1, 0.1, 0.2], [1.0, 0.9, 1.0, 1.1]
    needed, verdict = said([0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.1], bad)
    assert needed == "not shown"
    assert verdict.startswith("That memory is needed is not shown")
    needed, verdict = said(bad, good, bad)
    assert needed == "all of the episode"
    assert "costs most after 1 step (0.1 " in verdict
    assert "does not show" in said(bad, good, good)[1]


def test_horizons_say_where_memory_makes_no_difference() -> None:
    """Fails where a task that needs no memory has a memory horizon without a word."""
    point = {"delay": 5, "memory": rate_ci([True] * 20), "memory_off": rate_ci([True] * 20)}
    report = {"horizon": 5, "failed": None, "trained": 5, "by_delay": [point]}
    assert "may need no memory" in horizon.verdict(report)
    point["memory_off"] = rate_ci([True, False] * 10)
    assert "may need no memory" not in horizon.verdict(report)


def test_horizons_of_episodes_of_one_step(copied: Path) -> None:
    """Fails where there is no delay short enough to be played."""
    assert main(["evaluate", str(copied), "--suite", "horizon", "--max-steps", "1"]) == 0
    found = newest_report(copied, "horizon")
    assert found
    assert (found["horizon"], found["failed"]) == (0, None)


def test_all_suites_of_what_none_can_measure(copied: Path) -> None:
    """Fails where an empty report is written, as if something had been measured."""
    subject = load_subject(copied)
    config = replace(subject.config, env="CartPole-v1", env_kwargs={}, model_only=True)
    with pytest.raises(ValueError, match=r"no suite can measure.*return: it learned the world"):
        find_suites(["all"], replace(subject, config=config))
