"""What is damaged, edited or planted in a run's folder is found and named, and never executed."""

import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from agent import Agent, sealed
from agent.sealed import DamagedError
from runs import checkpoint, folder, session
from runs.cli import main
from runs.evaluation.compare import curves, read
from runs.evaluation.perceptual import _are_weights
from runs.evaluation.subject import load_subject

Sit = Any  # Sittings, of conftest.py
FILES = (
    "agent.json",
    "agent.safetensors",
    "learner.safetensors",
    "state.json",
    "state.safetensors",
)


@pytest.fixture
def run(untouched: Path, tmp_path: Path) -> Path:
    """A run with some checkpoints, which may be written to."""
    return Path(shutil.copytree(untouched, tmp_path / "run"))


def flip(path: Path, at: float = 0.5) -> None:
    """Flip a bit somewhere in a file."""
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said of a command that is refused."""
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("damage", [flip, truncate, edit, Path.unlink])
def test_each_damaged_file_of_a_checkpoint_is_named(
    run: Path, damage: Callable[[Path], None]
) -> None:
    """Fails where one bit more or less is not noticed, or is blamed on another file."""
    newest = checkpoint.complete(run)[-1]
    assert {path.name for path in newest.iterdir()} == {*FILES, sealed.DONE}
    sealed.check(newest)
    for name in FILES:
        whole = (newest / name).read_bytes()
        damage(newest / name)
        with pytest.raises(DamagedError, match=rf"{newest / name} is (not what was|missing)"):
            sealed.check(newest)
        (newest / name).write_bytes(whole)
    sealed.check(newest)


@pytest.mark.parametrize("at", [0.0, 0.3, 0.9, 1.0])
def test_damaged_checksums_are_found(run: Path, at: float) -> None:
    newest = checkpoint.complete(run)[-1]
    flip(newest / sealed.DONE, at)
    with pytest.raises(DamagedError):
        sealed.check(newest)


def test_a_damaged_agent_is_not_loaded(run: Path) -> None:
    """Fails where wrong weights act without a word."""
    Agent.load(run)
    flip(checkpoint.complete(run)[-1] / "agent.safetensors", 0.9)
    with pytest.raises(DamagedError, match=r"agent\.safetensors is not what was written"):
        Agent.load(run)


def test_a_checkpoint_of_a_time_before_checksums_is_taken_as_it_is(run: Path) -> None:
    newest = checkpoint.complete(run)[-1]
    (newest / sealed.DONE).write_bytes(b"")
    sealed.check(newest)
    Agent.load(run)
    assert checkpoint.best(run) != newest


def test_a_run_goes_on_from_the_last_good_checkpoint(
    sit: Sit, same: Callable[[Path, Path], None], run: Path, untouched: Path
) -> None:
    """Fails where a damaged one is used or stops a run, is not told, or comes in the way again."""
    _, older, newest, last = checkpoint.complete(run)
    shutil.rmtree(last)
    flip(newest / "learner.safetensors")
    assert sit("train", "--resume", str(run)) == 0, sit.said
    assert f"DAMAGED: {newest}/learner.safetensors is not what was written" in sit.said
    assert f"Going on from {older.name} instead; it is now damaged-{newest.name}" in sit.said
    assert (run / "checkpoints" / f"damaged-{newest.name}").is_dir()
    same(run, untouched)


def test_a_damaged_checkpoint_is_not_measured_and_another_one_offered(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newest = checkpoint.complete(run)[-2:]
    steps = folder.step_of(older)
    flip(newest / "agent.safetensors", 0.9)
    said = refused(capsys, "evaluate", run, "--episodes", 1)
    assert "agent.safetensors is not what was written" in said
    assert f"{steps}." in said.partition("Measure another one: --checkpoint ")[2]
    asked = ["evaluate", str(run), "--episodes", "1", "--checkpoint", str(steps)]
    assert main(asked) == 0
    report = json.loads((run / "evaluation" / "return.json").read_text())
    assert report["steps"] == steps
    said = refused(capsys, "evaluate", run, "--checkpoint", "../../elsewhere")
    assert "has no checkpoint '../../elsewhere'. It has: " in said


def test_where_no_checkpoint_is_whole_all_are_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = checkpoint.complete(run)
    for path in found:
        truncate(path / "state.json")
    said = refused(capsys, "train", "--resume", run, "--steps", "200")
    assert all(f"{path.name}/state.json is not what was written" in said for path in found)
    assert checkpoint.complete(run) == found


def test_damaged_records_are_named_and_left_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where a run learns from damaged records, or wipes what is left of them."""
    records = run / "replay" / "reward.npy"
    flip(records, 0.1)
    before = records.read_bytes()
    said = refused(capsys, "train", "--resume", run, "--steps", "200")
    assert "The replay in" in said
    assert "is not what was written" in said
    truncate(records)
    said = refused(capsys, "train", "--resume", run, "--steps", "200")
    assert "reward.npy is damaged" in said
    assert records.read_bytes() == before[:-1]


def test_lost_lines_are_not_made_up(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where a file that is too short is filled up with zeros."""
    (run / "metrics.jsonl").write_text("{}\n")
    said = refused(capsys, "train", "--resume", run, "--steps", "200")
    assert "metrics.jsonl has lost lines" in said
    assert (run / "metrics.jsonl").read_text() == "{}\n"


def test_a_config_that_was_edited_is_refused_unless_that_is_meant(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where a run goes on, unnoticed, by other settings than it began with."""
    config = run / "config.json"
    config.write_text(config.read_text().replace('"discount": 0.97', '"discount": 0.91'))
    asked = ("evaluate", run, "--episodes", "1")
    assert "is not what was written" in refused(capsys, *asked)
    form = json.loads(config.read_text())
    assert form["config"]["behaviour"]["discount"] == 0.91
    del form["sha256"]
    config.write_text(json.dumps(form))
    assert main([str(word) for word in asked]) == 0


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def evil(tmp_path: Path) -> tuple[bytes, Path]:
    """A pickle, and the file that tells that it was loaded."""
    mark = tmp_path / "executed"
    data = pickle.dumps(Evil(mark))
    pickle.loads(data)
    assert mark.exists(), "it does what it should not do"
    mark.unlink()
    return data, mark


def test_no_file_of_a_run_is_unpickled(
    run: Path, evil: tuple[bytes, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where any name that is read can hide code."""
    data, mark = evil
    main(["evaluate", str(run), "--episodes", "1"])
    newest = checkpoint.complete(run)[-1]
    files = [*newest.iterdir(), *run.glob("*.json*"), *run.glob("evaluation/*.json")]
    files += (run / "replay").iterdir()
    assert len(files) > 15
    monkeypatch.setattr("runs.session._train", lambda *_: 0)  # reading is what matters here
    readers = (lambda: session.resume(run, 160), lambda: load_subject(run), lambda: curves([run]))
    for path in files:
        whole = path.read_bytes()
        for planted in (data, whole[:128] + data):
            path.write_bytes(planted)
            for reader in (*readers, lambda: read([run])):
                with suppress(ValueError):
                    reader()
            assert not mark.exists(), path
            for moved in (run / "checkpoints").glob("damaged-*"):
                moved.rename(moved.with_name(moved.name.removeprefix("damaged-")))
        path.write_bytes(whole)


def test_no_file_of_a_dataset_is_unpickled(
    recorded: Path, evil: tuple[bytes, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, mark = evil
    copied = Path(shutil.copytree(recorded, tmp_path / "dataset"))
    for path in [path for path in copied.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        path.write_bytes(data)
        said = refused(capsys, "train", "--dataset", copied, "--out", tmp_path / "out")
        assert "dataset" in said
        assert not mark.exists(), path
        path.write_bytes(whole)


def test_weights_of_others_are_read_as_weights_only(
    evil: tuple[bytes, Path], tmp_path: Path
) -> None:
    data, mark = evil
    (tmp_path / "evil.pth").write_bytes(data)
    torch.save({"features": Evil(mark)}, tmp_path / "hidden.pth")
    torch.save({"features": torch.zeros(3)}, tmp_path / "good.pth")
    assert not _are_weights(tmp_path / "evil.pth")
    assert not _are_weights(tmp_path / "hidden.pth")
    assert _are_weights(tmp_path / "good.pth")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/tmp/clew-elsewhere", ".."])
def test_names_lead_nowhere_else(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "kept"
    for command in (["train", "debug"], ["baseline", "random", "--env", "clew/TMaze-v0"]):
        said = refused(capsys, *command, "--out", out, "--name", name)
        assert f"--name {name} leads out of" in said
    assert not list(tmp_path.iterdir())


def test_checksums_name_files_of_their_own_folder_only(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("y")
    sealed.seal(kept)
    form = json.loads((kept / sealed.DONE).read_text())
    form["sha256"]["../secret"] = form["sha256"]["file"]
    (kept / sealed.DONE).write_text(json.dumps(form))
    with pytest.raises(DamagedError, match=r"\.\./secret is missing"):
        sealed.check(kept)
