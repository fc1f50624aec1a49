"""A run that tests of the command line and of evaluation share, and settings that are quick."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from envs import EnvStreams
from envs.vector import Record
from runs import checkpoint
from runs.cli import main
from runs.config import Config
from runs.recipes import RECIPES


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run, trained and evaluated; not to be written to."""
    out = tmp_path_factory.mktemp("runs")
    settings = "--steps 120 --prefill 60 --log-every 40 --evaluation-episodes 4 --threads 1"
    assert main(["train", "debug", "--name", "done", "--out", str(out), *settings.split()]) == 0
    return out / "done"


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dataset: an oracle in T-Mazes of length 5; not to be written to."""
    if sys.version_info < (3, 11):
        pytest.skip("Minari needs Python 3.11")
    out = tmp_path_factory.mktemp("datasets")
    asked = "--env-kwargs length=5 --policy oracle --frames 192 --name of/oracle-v0"
    assert main(["collect", "clew/TMaze-v0", *asked.split(), "--out", str(out)]) == 0
    return out / "of" / "oracle-v0"


@pytest.fixture
def quick() -> Callable[..., Config]:
    """The debug recipe, so small that it makes some updates within a second or two."""

    def build(**changes: object) -> Config:
        base = replace(
            RECIPES["debug"].config,
            steps=320,
            prefill=100,
            log_every=40,
            checkpoint_every=100,
            replay_ratio=16.0,
            threads=1,
        )
        return replace(base, **changes)  # pyright: ignore[reportArgumentType]

    return build


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A run that may be written to."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


class Explorer:
    """A player that does what the environment's own explorer does."""

    def begin(self, streams: EnvStreams) -> None:
        """Get to know the environments."""
        self.streams = streams

    def act(self, record: Record) -> np.ndarray:
        """Ask it."""
        return self.streams.explore()


@pytest.fixture(scope="session")
def explorer() -> Explorer:
    """The environment's own explorer, as a player."""
    return Explorer()


SERVER = """
import json, os, signal, sys, time, traceback
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.utils.tensorboard
from runs import commands
from runs.cli import main
from runs.recipes import RECIPES
from runs.session import Trainer

WRITERS = ("checkpoint.py", "replay.py", "sealed.py", "telemetry.py")
READS_LONG = ("_load_learner_tensors", "_join_arrays")

def killer(line):
    left = [line]
    def lines(frame, event, argument):
        left[0] -= event == "line"
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return lines
    def calls(frame, event, argument):
        code = frame.f_code
        writes = code.co_filename.endswith(WRITERS) and code.co_name not in READS_LONG
        return lines if writes else None
    return calls

def child(asked):
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 99
    try:
        exec(asked["before"], {})
        if asked["line"]:
            sys.settrace(killer(asked["line"]))
        code = main(asked["arguments"])
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

def runs(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

torch.set_num_threads(1)  # more would not survive the fork
with TemporaryDirectory() as folder:  # what is imported late is imported here
    trainer = Trainer(RECIPES["debug"].config, Path(folder) / "run")
    trainer.start()
    trainer.collect()
    trainer.close()
for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid == 0:
        child(asked)
    while asked["after"] and not os.path.exists(asked["after"]) and runs(pid):
        time.sleep(0.01)
    if asked["seconds"]:
        time.sleep(asked["seconds"])
        os.kill(pid, asked["signal"])
    began = time.monotonic()
    _, status = os.waitpid(pid, 0)
    ended = os.waitstatus_to_exitcode(status), time.monotonic() - began
    print(json.dumps(ended), flush=True)
"""


class Sittings:
    """Runs commands of `clew`, one after another, each in a fork of one that has imported all.

    What kills them is real: SIGKILL at a line of the code that writes, or any signal at any time.
    """

    def __init__(self, log: Path) -> None:
        self.log, self.seconds = log, 0.0
        command = [sys.executable, "-c", SERVER]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[2], text=True, **pipes)

    def __enter__(self) -> "Sittings":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.communicate()

    def __call__(
        self,
        *arguments: str,
        line: int = 0,
        seconds: float = 0.0,
        after: Path | str = "",
        signal: int = 9,
        before: str = "",
    ) -> int:
        """The exit code of a command (negative: of what killed it), after some Python.

        It is killed at the so-manieth `line` of what writes, or gets a signal some `seconds` after
        it begins or a file is there; `self.seconds` then says how long it went on.
        """
        asked = {"arguments": arguments, "line": line, "seconds": seconds, "signal": signal}
        asked |= {"after": str(after), "log": str(self.log), "before": before}
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        code, self.seconds = json.loads(self.process.stdout.readline())
        return code

    @property
    def said(self) -> str:
        """What the last command printed."""
        return self.log.read_text()


@pytest.fixture(scope="session")
def sit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sittings]:
    """Commands in processes of their own."""
    with Sittings(tmp_path_factory.mktemp("sittings") / "log") as sit:
        yield sit


SMALL = (
    "--prefill 40 --log-every 8 --checkpoint-every 24 --replay-ratio 4 --evaluation-episodes 0 "
    "--threads 1 --device cpu --replay.batch 2 --replay.context 16 --replay.stream 32 "
    "--replay.capacity 160 --behaviour.horizon 3 --keep 4 --name run"
)


@pytest.fixture
def small() -> tuple[str, ...]:
    """`clew train` of the smallest run that learns, which saves often."""
    return ("train", "debug", *SMALL.split())


@pytest.fixture(scope="session")
def untouched(sit: Sittings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a run after 120 steps; not to be written to."""
    out = tmp_path_factory.mktemp("untouched")
    assert sit("train", "debug", *SMALL.split(), "--steps", "120", "--out", str(out)) == 0, sit.said
    return out / "run"


def lines_of(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def records_of(run: Path, state: Any) -> dict[str, bytes]:
    """All records that a checkpoint sees, in order."""
    found = {}
    for path in (run / "replay").glob("*.npy"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        slots = np.arange(max(0, state["written"] - 40), state["written"]) % array.shape[1]
        found[path.name] = array[:, slots].tobytes()
    return found


def assert_same(run: Path, whole: Path) -> None:
    """Metrics, all that the newest checkpoint holds, and what it sees of replay, bit for bit."""
    assert lines_of(run) == lines_of(whole)
    ends = [checkpoint.complete(folder)[-1] for folder in (run, whole)]
    assert ends[0].name == ends[1].name
    for file in ("agent.safetensors", "learner.safetensors", "state.safetensors"):
        ours, theirs = (load_file(end / file) for end in ends)
        assert {name: value.tobytes() for name, value in ours.items()} == {
            name: value.tobytes() for name, value in theirs.items()
        }, file
    states = [json.loads((end / "state.json").read_text()) for end in ends]
    for state in states:
        del state["telemetry"]["bytes"]  # seconds are written in more digits or fewer
    assert states[0] == states[1]
    assert records_of(run, states[0]["replay"]) == records_of(whole, states[1]["replay"])


@pytest.fixture(scope="session")
def same() -> Callable[[Path, Path], None]:
    """Asserts that two runs are one."""
    return assert_same
