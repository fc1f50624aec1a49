"""The same seed, the same numbers: as in another process, and as before, but for what is meant.

Where a difference is meant, `make golden` renews the files, and git shows what has changed.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runs
from runs.config import Config
from tests.runs.golden import CONFIG, EARLY, LOSSES, PARAMETERS, differences, losses, parameters

GOLDEN = json.loads(LOSSES.read_text())
SLOWER = replace(CONFIG.optimiser, model_lr=0.95 * CONFIG.optimiser.model_lr)
SHORTER = replace(CONFIG.behaviour, discount=0.95)


def test_learning_is_what_it_was() -> None:
    """Fails where a change that was not meant to makes the first 50 updates another learning."""
    assert not differences(losses(), GOLDEN)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"optimiser": SLOWER}, "reconstruction"), ({"behaviour": SHORTER}, "critic"), ({}, "")],
)
def test_a_change_of_learning_is_seen(changes: dict[str, Any], said: str) -> None:
    """Fails where the golden losses are compared so loosely that nothing can be seen."""
    found = differences(losses(replace(CONFIG, **changes), EARLY), GOLDEN)
    assert any(line.startswith(said) for line in found) if said else not found


def test_checkpoints_hold_what_they_held() -> None:
    """Fails where a checkpoint of before could not be loaded any more: then raise agent.FORMAT."""
    assert parameters().splitlines() == PARAMETERS.read_text().splitlines()


ELSEWHERE = "import sys; from runs.cli import main; sys.exit(main(sys.argv[1:]))"


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what depends on the clock."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def test_another_process_writes_the_same_metrics(tmp_path: Path) -> None:
    """Fails where hashes, the clock or where environments live decide what is learned."""
    asked = ["train", "debug", "--steps", "160", "--prefill", "60", "--log-every", "20"]
    asked += ["--replay-ratio", "32", "--threads", "1", "--evaluation-episodes", "0"]
    asked += ["--out", str(tmp_path), "--device", "cpu"]
    path = {"PYTHONPATH": str(Path(runs.__file__).parents[1])}
    for number, parallel in (("1", "--no-parallel"), ("2", "--parallel")):
        command = [sys.executable, "-c", ELSEWHERE, *asked, parallel, "--name", number]
        env = os.environ | path | {"PYTHONHASHSEED": number}
        subprocess.run(command, check=True, capture_output=True, env=env, timeout=300)
    one, other = (metrics(tmp_path / number) for number in ("1", "2"))
    assert one == other
    assert one[-1]["updates"] > 5


def test_the_golden_run_is_one_that_learns() -> None:
    """Fails where the file is of a run in which some part was not learning yet."""
    assert isinstance(CONFIG, Config)
    assert GOLDEN["reconstruction"][-1] < 0.7 * GOLDEN["reconstruction"][0]
    assert GOLDEN["recall"][-1] < GOLDEN["recall"][0]
    assert any(GOLDEN["actor"][CONFIG.optimiser.actor_delay :])
