"""What a user types, and what it comes to: help, mistakes, and runs that begin, stop and go on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.wrappers import TransformObservation

from agent.learner import Learner, NonFiniteError
from envs import TMaze
from runs.cli import main
from runs.config import Config
from runs.folder import locked, read_config
from runs.parsing import parse_pairs
from runs.train import Trainer

QUICK = ["--steps", "60", "--prefill", "40", "--evaluation-episodes", "0", "--threads", "1"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says as it refuses."""
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.replace("│", " ").split())


def settings(config: Any, prefix: str = "") -> list[str]:
    """The options of all settings."""
    names = []
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        names += settings(value, f"{name}.") if is_dataclass(value) else [f"--{name}"]
    return names


def test_help_is_quick_and_names_the_commands() -> None:
    """Without the second or two that importing torch takes."""
    probe = (
        "import sys; from runs.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in (
        "train RECIPE",
        "--resume",
        "evaluate RUN",
        "collect ENV",
        "recipes",
        "doctor",
        "--version",
    ):
        assert command in done.stdout


def test_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("clew ")
    assert main([]) == 2


def test_help_of_train_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (*settings(Config()), "--name", "--out", "--resume"):
        assert option in shown
    assert "Frames a row reads per batch." in shown


def test_help_of_a_recipe_shows_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "debug", "--help"]) == 0
    assert "length=5" in capsys.readouterr().out


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    for name in ("debug", "tmaze", "cartpole", "minigrid-empty"):
        assert name in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("trian tmaze", "no command 'trian'. Nearest: train"),
        ("train tmze", "no recipe 'tmze'. Nearest: tmaze"),
        ("train", "Say what to train"),
        ("train --seed 1", "Say what to train"),
        ("train --seed 1 debug", "The recipe comes before the settings"),
        ("train debug --replay.contxt 5", "--replay.context"),
        ("train debug --sed 1", "--seed"),
        ("train debug --steps 0", "steps = 0 must be at least 1"),
        ("train debug --steps many", "--steps"),
        ("train debug --num-envs 0", "num_envs = 0 must be at least 1"),
        ("train debug --behaviour.horizon -1", "behaviour.horizon = -1 must be at least 1"),
        ("train debug --behaviour.starts 0", "behaviour.starts = 0 must be at least 1"),
        ("train debug --explore 1.5", "explore = 1.5 must lie in [0, 1]"),
        ("train debug --env-timeout -1", "env_timeout = -1.0 must be 0 or a positive number"),
        ("train debug --env-restarts -1", "env_restarts = -1 must not be negative"),
        ("train debug --env-kwargs --env worlds.py:Mine", "there is no file"),
        ("train debug --env-kwargs --env no_such.module:Mine", "pip install no_such"),
        ("train debug --steps 200", "prefill = 200 must be less than steps = 200"),
        ("train debug --replay.context 48", "must be a multiple of replay.context = 48"),
        ("train debug --replay.capacity 64", "raise capacity"),
        ("train debug --model.layers scan atend", "'atend' names no operation"),
        ("train debug --env-kwargs lenth=5", "does not know 'lenth'; its arguments: "),
        ("train debug --env-kwargs length", "not of the form name=value"),
        ("train debug --device abacus", "'abacus' cannot be used here"),
        ("train debug --scan mamba", "scan = 'mamba' must be one of auto, torch, mamba-ssm"),
        ("train debug --scan mamba-ssm --device cpu", "needs a CUDA device, and the device is cpu"),
        ("collect", "Missing from clew collect: ENV"),
        ("collect CartPole-v9", "unknown env id 'CartPole-v9'; nearest ids: CartPole-v"),
        ("collect CartPole-v1 --frames 0", "frames = 0 must be at least 1"),
        ("train --env CartPole-v9", "unknown env id 'CartPole-v9'; nearest ids: CartPole-v"),
        ("train --env CartPole-v1 --wrappers nonsense", "not of the form 'module:Class'"),
    ],
)
def test_mistakes_are_refused_and_leave_nothing(
    arguments: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *arguments.split())
    assert not list(tmp_path.iterdir())


def test_unsupported_space_names_the_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(self: TMaze, length: int = 5, **_: Any) -> None:
        self.observation_space = gym.spaces.Dict(
            {"map": gym.spaces.Graph(gym.spaces.Discrete(2), None)}
        )
        self.action_space = gym.spaces.Discrete(4)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TMaze, "__init__", odd)
    said = refused(capsys, "train", "--env", "clew/TMaze-v0")
    assert "'map'" in said
    assert "Box, Discrete" in said
    assert not list(tmp_path.iterdir())


def test_unsupported_actions_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(self: TMaze, length: int = 5, **_: Any) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (4,))
        self.action_space = gym.spaces.Dict({"turn": gym.spaces.Discrete(2)})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TMaze, "__init__", odd)
    said = refused(capsys, "train", "--env", "clew/TMaze-v0")
    assert "The action space is Dict" in said
    assert not list(tmp_path.iterdir())


def test_mistakes_in_evaluate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "is not a run" in refused(capsys, "evaluate", str(tmp_path))
    assert "no folder" in refused(capsys, "evaluate", str(tmp_path / "nowhere"))
    said = refused(capsys, "evaluate", str(tmp_path), "--episodes", "0")
    assert "episodes = 0 must be at least 1" in said


def test_pairs_are_json_or_else_strings() -> None:
    words = ["length=50", "flag=true", "name=abc", "sizes=[1, 2]", "eq=a=b", "none=null"]
    assert parse_pairs(words) == {
        "length": 50,
        "flag": True,
        "name": "abc",
        "sizes": [1, 2],
        "eq": "a=b",
        "none": None,
    }


def test_a_run_is_what_was_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["--env-kwargs", "length=3", "spare=2", "--replay.batch", "4", "--seed", "7"]
    assert main(["train", "debug", *QUICK, *asked, "--device", "cpu"]) == 0
    (run,) = (tmp_path / "outputs").iterdir()
    assert run.name.startswith("debug-20")
    assert run.name.endswith("-s7")
    config, recipe = read_config(run)
    assert (config.env_kwargs, config.replay.batch, config.seed, recipe) == (
        {"length": 3, "spare": 2},
        4,
        7,
        "debug",
    )
    said = capsys.readouterr().out
    assert "Replay: up to 8,000 records, 0." in said
    assert "scan: torch (chosen automatically)" in said
    form = json.loads((run / "config.json").read_text())
    assert form["scan"] == "torch"
    assert form["machine"]["cores"] > 0
    assert "steps 61/60" in said or "steps 60/60" in said
    lines = zip(("evaluate ", "--logdir ", "--resume "), said.splitlines()[-3:], strict=True)
    assert all(command in line for command, line in lines)


def test_text_is_left_out_with_a_notice(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted() -> gym.Env:
        text = gym.spaces.Text(9)
        space = gym.spaces.Dict({"seen": gym.spaces.Box(0, 1, (4,)), "note": text})
        return TransformObservation(TMaze(3), lambda seen: {"seen": seen, "note": "go"}, space)

    gym.register("test/Noted-v0", entry_point=noted)
    try:
        where = ["--out", str(tmp_path), "--name", "noted"]
        assert main(["train", "--env", "test/Noted-v0", *QUICK, *where]) == 0
    finally:
        del gym.registry["test/Noted-v0"]
    assert "observation 'note' is Text" in capsys.readouterr().out
    assert read_config(tmp_path / "noted")[1] is None


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str], finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    where = ["--out", str(finished.parent), "--name", finished.name]
    said = refused(capsys, "train", "debug", *QUICK, *where)
    assert f"clew train --resume {finished}" in said
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_resuming_what_cannot_be_resumed(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path
) -> None:
    said = refused(capsys, "train", "--resume", str(finished))
    assert "has trained for 12" in said
    assert "--steps" in said
    assert "is not a run" in refused(capsys, "train", "--resume", str(tmp_path))
    assert "no folder" in refused(capsys, "train", "--resume", str(tmp_path / "nowhere"))
    assert "is not a run" in refused(capsys, "train", "--resume", "")
    said = refused(capsys, "train", "debug", "--resume", str(finished), "--seed", "3")
    assert "--seed, debug cannot be given with --resume" in said


def test_resuming_what_is_damaged(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    more = ("train", "--resume", str(run), "--steps", "200")
    with locked(run):
        assert "by another process" in refused(capsys, *more)
    (checkpoint,) = (run / "checkpoints").iterdir()
    whole = (checkpoint / "learner.safetensors").read_bytes()
    (checkpoint / "learner.safetensors").write_bytes(whole[:-99])
    said = refused(capsys, *more)
    assert "has no checkpoint that it can go on from" in said
    assert "learner.safetensors is not what was written" in said
    (checkpoint / "learner.safetensors").write_bytes(whole)
    (checkpoint / "done").unlink()
    assert "no complete checkpoint" in refused(capsys, *more)
    form = json.loads((run / "config.json").read_text())
    del form["sha256"]  # or the change is refused
    form["config"]["replay"]["contxt"] = 3
    (run / "config.json").write_text(json.dumps(form))
    assert "no setting replay.contxt. Nearest: context" in refused(capsys, *more)
    (run / "config.json").write_text(json.dumps(form)[:100])
    assert "damaged or half written" in refused(capsys, *more)


def test_evaluating_what_is_damaged_or_gone(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    form = json.loads((run / "config.json").read_text())
    del form["sha256"]  # or the change is refused
    form["config"]["env"] = "clew/Gone-v0"
    (run / "config.json").write_text(json.dumps(form))
    assert "unknown env id 'clew/Gone-v0'" in refused(capsys, "evaluate", str(run))
    (weights,) = run.glob("checkpoints/*/agent.safetensors")
    weights.write_bytes(weights.read_bytes()[:-99])
    assert f"{weights} is not what was written" in refused(capsys, "evaluate", str(run))


def test_a_failed_start_closes_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[TMaze] = []

    def fails(self: TMaze, *, seed: Any = None, options: Any = None) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(TMaze, "reset", fails)
    monkeypatch.setattr(TMaze, "close", lambda self: closed.append(self))
    with pytest.raises(ZeroDivisionError):
        main(["train", "debug", *QUICK, "--out", str(tmp_path)])
    assert len(closed) == 4
    assert not list(tmp_path.iterdir())


def test_a_finished_run_takes_more_steps(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert main(["train", "--resume", str(run), "--steps", "180"]) == 0
    said = capsys.readouterr().out
    assert "Going on from step 12" in said
    assert "The agent succeeds in" in said
    assert (run / "config.json").read_text() == (finished / "config.json").read_text()
    assert json.loads((run / "evaluation" / "return.json").read_text())["episodes"] == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learn, before = Trainer.learn, signal.getsignal(number)

    def interrupted(trainer: Trainer) -> None:
        learn(trainer)
        if 40 <= trainer.env_steps < 44:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "learn", interrupted)
    run = tmp_path / "run"
    assert main(["train", "debug", *QUICK, "--out", str(tmp_path), "--name", "run"]) == 130
    assert f"train --resume {run}" in capsys.readouterr().out
    assert signal.getsignal(number) is before
    assert main(["train", "--resume", str(run)]) == 0


def test_a_run_without_an_update_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Fails where chance is shown as what was learned, or what was learned is called nothing."""
    asked = ["--prefill", "40", "--evaluation-episodes", "0", "--threads", "1"]
    for steps, told in (("60", True), ("120", False)):
        run = ["--steps", steps, "--out", str(tmp_path), "--name", steps]
        assert main(["train", "debug", *asked, *run]) == 0
        assert (
            "NOTHING WAS LEARNED: the first update takes 256 frames" in capsys.readouterr().out
        ) == told


def test_a_crash_is_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise NonFiniteError("The loss of the actor")

    monkeypatch.setattr(Learner, "update", fails)
    asked = ["--prefill", "4", "--replay-ratio", "64", "--threads", "1"]
    assert main(["train", "debug", *asked, "--out", str(tmp_path), "--name", "run"]) == 1
    said = capsys.readouterr().err
    assert "clew: The loss of the actor is not finite, at update 1 (environment step " in said
    assert str(tmp_path / "run" / "crash") in said
