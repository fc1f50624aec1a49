"""Agents that come with clew are whole, small, and remember; nothing of them is changed by use."""

import json
import shutil
from pathlib import Path

import pytest

from runs import hub
from runs.cli import main

WITHIN = 0.95  # of the reference agents' success, less what 40 episodes may miss by chance


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", hub.names())
def test_each_is_small_and_does_what_it_is_kept_for(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where a reference agent cannot be loaded any more, or has unlearned what it could."""
    files = [file for file in (hub.AGENTS / name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < hub.LARGEST
    assert main(["evaluate", f"hub:{name}", "--episodes", "40", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out).values()
    players = report["return"]["players"]
    assert players["greedy"]["success"]["rate"] >= WITHIN
    assert players["memory_off"]["success"]["rate"] < 0.7
    assert (here / f"outputs/hub-{name}/evaluation/report.html").is_file()
    assert not list(hub.AGENTS.rglob("evaluation"))


def test_there_are_some_and_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where the hub is empty, as it is where a wheel lacks its files."""
    assert "tmaze" in hub.names()
    assert main(["hub"]) == 0
    assert "hub:tmaze" in capsys.readouterr().out


def test_a_name_that_is_none_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where a typo makes a folder, or a traceback."""
    assert main(["evaluate", "hub:tmase"]) == 2
    assert "no reference agent 'tmase'. Nearest: tmaze" in capsys.readouterr().err
    assert not (here / "outputs").exists()


def test_a_run_is_kept_and_loaded(
    finished: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where an agent kept from a run is another one, or one that is too large is kept."""
    kept = hub.keep(finished, "mine", here / "agents")
    assert {file.name for file in kept.rglob("*") if file.is_file()} == {
        "config.json",
        "agent.json",
        "agent.safetensors",
        "done",
    }
    shutil.copytree(finished, here / "run")
    reports = []
    for run in ("run", "agents/mine"):
        assert main(["evaluate", run, "--episodes", "8", "--json"]) == 0
        reports.append(next(iter(json.loads(capsys.readouterr().out).values()))["return"])
    assert reports[0]["players"] == reports[1]["players"]
    assert main(["hub", "--keep", str(here)]) == 2
    assert "--keep RUN and --name NAME go together" in capsys.readouterr().err


def test_a_reference_agent_does_not_go_on_learning(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where what only training needs is missed by a traceback."""
    run = hub.local("hub:tmaze")
    assert main(["train", "--resume", str(run), "--steps", "500000"]) == 2
    assert "has no checkpoint that it can go on from" in capsys.readouterr().err
