"""Runs that are killed for real, again and again, end as the one that nobody touched."""

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from runs import checkpoint
from tests.runs.sittings import Sittings

SMALL = (
    "--prefill 40 --log-every 8 --checkpoint-every 24 --replay-ratio 8 --evaluation-episodes 0 "
    "--threads 1 --device cpu --replay.batch 2 --replay.context 16 --replay.stream 32 "
    "--replay.capacity 160 --behaviour.horizon 3 --name run"
).split()


@pytest.fixture
def sit(tmp_path: Path) -> Iterator[Sittings]:
    """Commands in processes of their own."""
    with Sittings(tmp_path / "log") as sit:
        yield sit


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def visible(run: Path) -> dict[str, bytes]:
    """All records that the newest checkpoint sees, in order, and what they were drawn by."""
    state = json.loads((checkpoint.complete(run)[-1] / "state.json").read_text())["replay"]
    found = {"state": json.dumps(state).encode()}
    for path in (run / "replay").glob("*.npy"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        slots = np.arange(max(0, state["written"] - 40), state["written"]) % array.shape[1]
        found[path.name] = array[:, slots].tobytes()
    return found


def assert_same(run: Path, whole: Path) -> None:
    """Metrics, weights and records are the same bits."""
    assert metrics(run) == metrics(whole)
    ends = [checkpoint.complete(folder)[-1] for folder in (run, whole)]
    assert ends[0].name == ends[1].name
    for file in ("agent.safetensors", "learner.safetensors", "state.safetensors"):
        ours, theirs = (load_file(end / file) for end in ends)
        assert {name: value.tobytes() for name, value in ours.items()} == {
            name: value.tobytes() for name, value in theirs.items()
        }, file
    assert visible(run) == visible(whole)


def kill_until_done(sit: Sittings, run: Path, steps: str, kills: int, longest: int) -> list[int]:
    """Begin a run and resume it until it is done, killed so often; the steps saved after each."""
    rng, saved = random.Random(0), []
    while len(saved) < kills:
        arguments = ("--resume", str(run)) if (run / "config.json").exists() else ()
        arguments = arguments or ("debug", *SMALL, "--steps", steps, "--out", str(run.parent))
        in_time = len(saved) % 4 == 3
        how = {"seconds": rng.uniform(0.05, 0.6)} if in_time else {"line": rng.randint(1, longest)}
        code = sit("train", *arguments, **how)
        done = checkpoint.complete(run)
        saved.append(int(done[-1].name.removeprefix("step-")) if done else 0)
        assert code == -signal.SIGKILL, (sit.log.read_text(), saved)
    assert sit("train", "--resume", str(run)) == 0, sit.log.read_text()
    return saved


def killed_equals_untouched(sit: Sittings, out: Path, steps: str, kills: int, longest: int) -> None:
    assert sit("train", "debug", *SMALL, "--steps", steps, "--out", str(out / "whole")) == 0
    whole, run = out / "whole" / "run", out / "killed" / "run"
    saved = kill_until_done(sit, run, steps, kills, longest)
    assert saved == sorted(saved), "what was once saved is lost"
    assert 0 < len(set(saved)) - 1 < len(saved)
    assert_same(run, whole)
    assert not [path.name for path in (run / "checkpoints").iterdir() if path.name[0] == "."]


def test_killed_twenty_times_equals_untouched(sit: Sittings, tmp_path: Path) -> None:
    """Fails where a kill at any line of what writes loses what was saved, or counts it twice."""
    killed_equals_untouched(sit, tmp_path, steps="360", kills=20, longest=2500)


@pytest.mark.slow
def test_killed_two_hundred_times_equals_untouched(sit: Sittings, tmp_path: Path) -> None:
    """Fails where some rarer moment does."""
    killed_equals_untouched(sit, tmp_path, steps="3000", kills=200, longest=2500)


def test_sigterm_saves_and_ends_within_seconds(sit: Sittings, tmp_path: Path) -> None:
    """Fails where a cluster's polite request loses a step, or is answered too late."""
    asked = ("train", "debug", *SMALL, "--steps", "100000", "--out", str(tmp_path))
    assert sit(*asked, seconds=2.0, signal=signal.SIGTERM) == 130, sit.log.read_text()
    assert sit.seconds < 5
    run = tmp_path / "run"
    (*_, newest) = checkpoint.complete(run)
    state = json.loads((newest / "state.json").read_text())
    assert f"Stopped and saved. Go on with: clew train --resume {run}" in sit.log.read_text()
    assert state["env_steps"] == int(newest.name.removeprefix("step-")) % 24 or state["env_steps"]
