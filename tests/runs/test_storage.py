"""Full, read-only and vanished disks: told with cause and cure, and nothing is lost by them."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from agent.replay import ReplayConfig
from runs import checkpoint, folder
from runs.cli import main
from runs.config import Config
from runs.train import Trainer

Sit = Any  # Sittings, of conftest.py
Same = Callable[[Path, Path], None]

# At so many steps, in the child process: something happens to the folder.
AT = """
from runs.train import Trainer
collect = Trainer.collect
def collected(self):
    collect(self)
    if self.env_steps >= 60 and not hasattr(self, "happened"):
        self.happened = True
        happens()
Trainer.collect = collected
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 16 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "clew-test", str(path)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to mount a disk")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_disk_that_is_too_small_is_refused_before_the_first_step(
    disk: Path, small: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where a run begins that cannot end, or leaves something behind."""
    assert main([*small, "--replay.capacity", "1000000", "--out", str(disk / "out")]) == 2
    said = capsys.readouterr().err
    assert "MB of replay, " in said
    assert "MB free. Free some space, lower --replay.capacity or --keep" in said
    assert not list(disk.iterdir())


@pytest.mark.parametrize(
    ("option", "size"),
    [("--num-envs", 10**9), ("--model.width", 10**6), ("--replay.batch", 10**9)],
)
def test_what_no_memory_can_hold_is_refused(
    small: tuple[str, ...], option: str, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where memory is taken before it is known that there is too little."""
    assert main([*small, option, str(size)]) == 2
    said = capsys.readouterr().err
    assert "GB of memory, and there are" in said
    assert f"lower {option}" in said
    assert main([*small, option, str(2**63)]) == 2


def test_sizes_are_known_beforehand(quick: Callable[..., Config], tmp_path: Path) -> None:
    """Fails where a checkpoint or a replay takes more than the check allows for."""
    trainer = Trainer(quick(steps=160), tmp_path / "run")
    trainer.start()
    trainer.run()
    trainer.close()
    (*_, newest) = checkpoint.complete(tmp_path / "run")
    size = sum(path.stat().st_size for path in newest.iterdir())
    assert 0.8 * size < checkpoint.size(trainer.learner) < 1.2 * size


def test_a_disk_that_fills_up_ends_the_run_and_loses_nothing(
    sit: Sit, same: Same, disk: Path, small: tuple[str, ...], untouched: Path
) -> None:
    """Fails where that kills the process, damages what was saved, or is not told."""
    asked = [*small, "--steps", "120", "--out", str(disk)]
    happens = f"""
def happens():
    try:
        with open({str(disk / "filler")!r}, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))
    except OSError:
        pass
"""
    assert sit(*asked, before=AT + happens) == 1, sit.said
    run = disk / "run"
    assert f"clew: {run} cannot be written to" in sit.said
    assert "its disk is full: free some space" in sit.said
    assert f"train --resume {run}" in sit.said
    assert not list((run / "checkpoints").glob(".*"))
    (disk / "filler").unlink()
    assert sit("train", "--resume", str(run)) == 0, sit.said
    same(run, untouched)


def test_a_limit_on_files_is_told(
    sit: Sit, same: Same, small: tuple[str, ...], untouched: Path, tmp_path: Path
) -> None:
    """Fails where half a checkpoint is left, or the next sitting stumbles over it."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))"
    run, asked = tmp_path / "run", [*small, "--steps", "120", "--out", str(tmp_path)]
    assert sit(*asked, before=limit) == 1, sit.said
    assert "a file would be larger than the system allows" in sit.said
    assert "Nothing is saved: the first checkpoint comes at step 24" in sit.said
    assert not list((run / "checkpoints").iterdir())
    assert sit("train", "--resume", str(run)) == 0, sit.said
    same(run, untouched)


def test_a_folder_that_can_only_be_read_is_refused(
    disk: Path, untouched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where that is found out after an hour of training or of measuring."""
    run = Path(shutil.copytree(untouched, disk / "run"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert main(["train", "--resume", str(run), "--steps", "200"]) == 2
    assert "it can only be read: mount it for writing" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--episodes", "1"]) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_a_folder_that_belongs_to_somebody_else_is_refused(sit: Sit, untouched: Path) -> None:
    """Fails where that is found out at the first checkpoint."""
    with TemporaryDirectory() as shared:
        os.chmod(shared, 0o755)
        run = Path(shutil.copytree(untouched, Path(shared) / "run"))
        os.chmod(run, 0o755 if os.geteuid() == 0 else 0o555)
        become = "import os\nif os.geteuid() == 0: os.setuid(65534)"  # nobody
        assert sit("train", "--resume", str(run), "--steps", "200", before=become) == 2, sit.said
        assert "it may not be written to: change its permissions" in sit.said
        os.chmod(run, 0o755)


def test_a_folder_that_vanishes_is_told_and_not_made_anew(
    sit: Sit, same: Same, small: tuple[str, ...], untouched: Path, tmp_path: Path
) -> None:
    """Fails where a run goes on in a new folder that is no run."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    happens = f"import os\ndef happens(): os.rename({str(run)!r}, {str(elsewhere)!r})"
    asked = [*small, "--steps", "120", "--out", str(tmp_path)]
    assert sit(*asked, before=AT + happens) == 1, sit.said
    assert "it has vanished: bring it back to where it was" in sit.said
    assert not run.exists()
    elsewhere.rename(run)
    assert sit("train", "--resume", str(run)) == 0, sit.said
    same(run, untouched)


def test_two_processes_do_not_train_in_one_folder(
    sit: Sit, untouched: Path, small: tuple[str, ...], tmp_path: Path
) -> None:
    """Fails where a second one writes as well, or removes what belongs to the first."""
    run = Path(shutil.copytree(untouched, tmp_path / "run"))
    with folder.locked(run):
        assert sit("train", "--resume", str(run), "--steps", "200") == 2
        assert f"is being trained by another process (process {os.getpid()} on " in sit.said
    begun = tmp_path / "begun" / "run"
    begun.mkdir(parents=True)
    with folder.locked(begun):
        assert sit(*small, "--out", str(begun.parent)) == 2
        assert "is being trained by another process" in sit.said
        assert begun.is_dir()


def test_a_clock_that_jumps_back_changes_nothing(
    sit: Sit, same: Same, small: tuple[str, ...], untouched: Path, tmp_path: Path
) -> None:
    """Fails where the order of checkpoints, or a pace, is taken from the time of day."""
    run, asked = tmp_path / "run", [*small, "--steps", "120", "--out", str(tmp_path)]
    back = "import time\nnow = time.time\ntime.time = lambda: now() - 1e7\n"
    happens = "import os\ndef happens(): os.abort()"
    assert sit(*asked, before=AT + happens) < 0
    for path in run.rglob("*"):
        os.utime(path, (2e9, 2e9))  # all that is there is of a later time
    assert sit("train", "--resume", str(run), before=back) == 0, sit.said
    same(run, untouched)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux tells what is open")
def test_all_is_on_disk_before_it_is_called_complete(
    quick: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where a power cut can leave a checkpoint that is called complete and is not."""
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def forced(descriptor: int) -> None:
        done.append(f"force {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def renamed(self: Path, to: Path) -> Path:
        done.append(f"rename {self.name}")
        return rename(self, to)

    trainer = Trainer(quick(), tmp_path)
    trainer.start()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(Path, "rename", renamed)
    trainer.save()
    trainer.close()
    files = ["agent.json", "agent.safetensors", "learner.safetensors"]
    files += ["state.json", "state.safetensors", ".done"]
    partial = ".step-0000000000.partial"
    before = ["metrics.jsonl", tmp_path.name, *files]
    expected = [*(f"force {name}" for name in before), "rename .done", f"force {partial}"]
    assert done == [*expected, f"rename {partial}", "force checkpoints"]


def test_the_best_checkpoint_is_kept(quick: Callable[..., Config], tmp_path: Path) -> None:
    """Fails where it is dropped with the old ones, or equals do not count for the newer one."""
    replay = ReplayConfig(capacity=160, batch=2, context=16, stream=32)
    trainer = Trainer(replace(quick(), replay=replay, keep=2), tmp_path)
    scores = iter([None, 0.2, 0.9, 0.5, 0.9, 0.1, 0.3, 0.2])
    trainer.telemetry.score = lambda: next(scores)
    trainer.start()
    kept = []
    for step in range(1, 9):
        trainer.env_steps = step
        trainer.save()
        kept.append([folder.step_of(path) for path in checkpoint.complete(tmp_path)])
    trainer.close()
    assert kept == [[1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [5, 6, 7], [5, 7, 8]]
    assert folder.find_checkpoint(tmp_path, "best").name == "step-0000000005"
    assert folder.find_checkpoint(tmp_path, "7").name == "step-0000000007"


def test_the_score_is_that_of_a_hundred_episodes(
    quick: Callable[..., Config], tmp_path: Path
) -> None:
    """Fails where the luck of the first few makes a checkpoint the best one for ever."""
    trainer = Trainer(quick(), tmp_path)
    trainer.telemetry.recent.extend([(1.0, 5, None)] * 99)
    assert trainer.telemetry.score() is None
    trainer.telemetry.recent.append((2.0, 5, None))
    assert trainer.telemetry.score() == pytest.approx(1.01)
    trainer.telemetry.recent.extend([(0.0, 5, True), (0.0, 5, False)])
    assert trainer.telemetry.score() == 0.5
    trainer.close()
