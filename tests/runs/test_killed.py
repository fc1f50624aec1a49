"""Runs that are killed for real, again and again, end as the one that nobody touched."""

import random
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runs import checkpoint

Sit = Any  # Sittings, of conftest.py
Same = Callable[[Path, Path], None]


def kill_until_done(sit: Sit, train: list[str], run: Path, kills: int, longest: int) -> list[int]:
    """Begin a run and resume it until it is done, killed so often; the steps saved after each.

    Three of four times it dies at some line of what writes, the fourth at any time.
    """
    rng, saved = random.Random(0), []
    while len(saved) < kills:
        begun = (run / "config.json").exists()
        arguments = ["train", "--resume", str(run)] if begun else train
        in_time = len(saved) % 4 == 3
        how = {"seconds": rng.uniform(0.02, 0.3)} if in_time else {"line": rng.randint(1, longest)}
        code = sit(*arguments, **how)
        done = checkpoint.complete(run)
        saved.append(int(done[-1].name.removeprefix("step-")) if done else 0)
        assert code == -signal.SIGKILL, (saved, sit.said)
    assert sit("train", "--resume", str(run)) == 0, sit.said
    return saved


def killed_is_untouched(
    sit: Sit, same: Same, train: list[str], out: Path, kills: int, longest: int
) -> None:
    assert sit(*train, "--out", str(out / "whole")) == 0, sit.said
    run = out / "killed" / "run"
    saved = kill_until_done(sit, [*train, "--out", str(out / "killed")], run, kills, longest)
    assert saved == sorted(saved), "what was saved once is lost"
    assert saved[-1] > 0, "no kill came after a checkpoint"
    same(run, out / "whole" / "run")
    assert not list((run / "checkpoints").glob(".*"))


def test_killed_twenty_times_is_untouched(
    sit: Sit, same: Same, small: tuple[str, ...], tmp_path: Path
) -> None:
    """Fails where a kill at any line of what writes loses what was saved, or counts it twice."""
    killed_is_untouched(sit, same, [*small, "--steps", "480"], tmp_path, kills=20, longest=9000)


@pytest.mark.slow
def test_killed_two_hundred_times_is_untouched(
    sit: Sit, same: Same, small: tuple[str, ...], tmp_path: Path
) -> None:
    """Fails where some rarer moment does."""
    train = [*small, "--steps", "6000"]
    killed_is_untouched(sit, same, train, tmp_path, kills=200, longest=9000)


def test_sigterm_saves_and_ends_within_seconds(
    sit: Sit, small: tuple[str, ...], tmp_path: Path
) -> None:
    """Fails where a polite request to end loses a step, or is answered too late."""
    run, asked = tmp_path / "run", [*small, "--steps", "100000", "--out", str(tmp_path)]
    how = {"after": run / "metrics.jsonl", "seconds": 0.3, "signal": signal.SIGTERM}
    assert sit(*asked, **how) == 130, sit.said
    assert sit.seconds < 10
    assert f"train --resume {run}" in sit.said
    steps = re.findall(r"steps ([\d,]+)/100,000", sit.said)[-1].replace(",", "")
    assert checkpoint.complete(run)[-1].name == f"step-{int(steps):010d}"


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(
    sit: Sit, same: Same, small: tuple[str, ...], untouched: Path, tmp_path: Path
) -> None:
    """Fails where it has to be removed by hand, or keeps lines of the first attempt."""
    run, train = tmp_path / "run", [*small, "--steps", "120", "--out", str(tmp_path)]
    assert sit(*train, line=1) == -signal.SIGKILL  # before it is a run
    assert not (run / "config.json").exists()
    stop = "import os; from runs import checkpoint; checkpoint.write = lambda *_: os.abort()"
    assert sit(*train, before=stop) == -signal.SIGABRT
    assert not checkpoint.complete(run)
    assert (run / "metrics.jsonl").read_text()
    assert sit("train", "--resume", str(run)) == 0, sit.said
    same(run, untouched)


def test_what_a_kill_left_half_done_is_finished(sit: Sit, untouched: Path, tmp_path: Path) -> None:
    """Fails where a complete checkpoint that had no name yet is lost, or rests stay for ever."""
    run = Path(shutil.copytree(untouched, tmp_path / "run"))
    found = checkpoint.complete(run)
    found[-1].rename(found[-1].with_name(f".{found[-1].name}.partial"))  # what it replaced is gone
    shutil.copytree(found[0], found[0].with_name(f".{found[0].name}.dropped"))
    half = Path(shutil.copytree(found[0], found[0].with_name(".step-0000000130.partial")))
    (half / "done").unlink()
    assert sit("train", "--resume", str(run)) == 2
    assert "has trained for 12" in sit.said
    assert checkpoint.complete(run) == found
    assert len(list((run / "checkpoints").iterdir())) == len(found)
