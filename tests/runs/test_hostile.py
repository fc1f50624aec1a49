"""Environments that raise, die, hang, leak, or change under one's hands: survived, or refused."""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs import ContractError, EnvStreams, make
from runs.cli import main
from runs.config import Config
from runs.train import Trainer

FILE = Path(__file__).with_name("odd_envs.py")
MIB = 2**20
PAGE = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc/self")
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's

measured = pytest.mark.skipif(
    TRIM is None or not (PROC / "statm").exists(),
    reason="memory is read from /proc, once glibc has given back what is free",
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long for what hangs as it is closed."""
    monkeypatch.setattr("envs.vector.PATIENCE", 1.0)


@pytest.fixture
def build() -> Iterator[Callable[..., EnvStreams]]:
    """Streams of Odd that are closed when the test ends."""
    opened = []

    def build(num_envs: int, env: str = "Odd", settings: Any = None, **kwargs: Any) -> EnvStreams:
        maker = partial(make, f"{FILE}:{env}", kwargs)
        opened.append(EnvStreams(maker, num_envs, seed=3, **(settings or {})))
        return opened[-1]

    yield build
    for streams in opened:
        streams.close()


def memory(process: str = "self") -> float:
    """MiB that a process holds."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE / MIB


def children() -> list[str]:
    """The processes that this one started, and theirs."""
    found, asked = [], [str(os.getpid())]
    while asked:
        tasks = Path(f"/proc/{asked.pop()}/task").glob("*/children")
        below = [pid for task in tasks for pid in task.read_text().split()]
        found, asked = found + below, asked + below
    return found


def held() -> np.ndarray:
    """MiB of ours, MiB of the processes below, their number, and our open files."""
    gc.collect()
    assert TRIM is not None
    TRIM(0)  # else a leak fills what earlier tests have freed, and is not seen
    below = children()
    files = len(list((PROC / "fd").iterdir()))
    return np.array([memory(), sum(map(memory, below)), len(below), files])


def endure(streams: EnvStreams, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """What is held after a fifth of so many steps, and at the end; each record is sound."""
    record, taken, early = streams.reset(), 0, None
    actions = np.zeros(streams.num_envs, int)
    while taken < steps:
        before, record = record, streams.step(actions)
        assert np.isfinite(record.observation).all()
        assert np.isfinite(record.reward).all()
        # The times that it shows go on by one or begin anew, in a buffer of the environment's too.
        expected = np.where(record.is_first, 0, before.observation[:, 0] + 1)
        assert (record.observation[:, 0] == expected).all()
        taken += int((~record.is_first).sum())
        if early is None and taken >= steps / 5:
            early = held()
    assert early is not None
    return early, held()


def assert_flat(early: np.ndarray, late: np.ndarray) -> None:
    """Nothing has grown, but for what an allocator keeps."""
    grown = late - early
    assert grown[0] < 8, f"{grown[0]:.1f} MiB of ours"
    assert grown[1] < 200, f"{grown[1]:.1f} MiB of the processes below"  # 4 that may leak 40 each
    assert grown[2] <= 0
    assert grown[3] <= 0


IMPATIENT = {"parallel": True, "timeout": 1.0, "max_restarts": 10_000}


@measured
def test_a_mix_of_all_of_it_is_survived(build: Callable[..., EnvStreams]) -> None:
    """Fails where one kind of failure harms the streams beside it, or leaves a process behind."""
    streams = build(3, settings=IMPATIENT, kind="any", length=40, rate=0.004)
    assert_flat(*endure(streams, 2_000))
    assert streams.restarts >= 4


@measured
def test_what_fails_in_our_own_process_leaves_nothing(build: Callable[..., EnvStreams]) -> None:
    """Fails where an environment that was given up is kept all the same."""
    settings = {"max_restarts": 10_000}
    streams = build(2, settings=settings, kind="raises", length=40, rate=0.02)
    assert_flat(*endure(streams, 10_000))
    assert streams.restarts > 100


@measured
def test_the_measure_can_fail(build: Callable[..., EnvStreams]) -> None:
    """Fails where memory that is lost is not seen."""
    streams = build(1, settings={"max_restarts": 10_000}, kind="leaks", rate=0.1)
    with pytest.raises(AssertionError, match="MiB of ours"):
        assert_flat(*endure(streams, 300))
    env: Any = streams._places[0]._stream.env.unwrapped
    vars(sys.modules[type(env).__module__])["HOARD"].clear()


@measured
@pytest.mark.slow
def test_a_mix_of_all_of_it_is_survived_for_long(
    build: Callable[..., EnvStreams], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where memory, processes or open files grow with steps or with failures."""
    streams = build(4, settings=IMPATIENT, kind="any", length=200, rate=0.0015)
    early, late = endure(streams, 100_000)
    with capsys.disabled():
        print(f"\n{streams.restarts} restarts; MiB, MiB below, processes, files: {early}, {late}")
    assert streams.restarts > 80
    assert_flat(early, late)


def test_training_goes_on_through_all_of_it(quick: Callable[..., Config], tmp_path: Path) -> None:
    """Fails where the training loop does not survive what its streams do."""
    config = quick(
        env=f"{FILE}:Odd",
        env_kwargs={"kind": "any", "length": 40, "rate": 0.02},
        parallel=True,
        env_timeout=1.0,
        env_restarts=1_000,
    )
    trainer = Trainer(config, tmp_path)
    try:
        trainer.start()
        trainer.run()
    finally:
        trainer.close()
    assert trainer.restarts > 0
    assert trainer.skipped == 0
    assert trainer.learner.updates > 10


@pytest.mark.parametrize("parallel", [False, True])
def test_a_space_that_changes_is_refused(build: Callable[..., EnvStreams], parallel: bool) -> None:
    """Fails where an environment is held to its newest space, and the next record fits nowhere."""
    streams = build(2, settings={"parallel": parallel}, kind="wider", rate=0.1)
    with pytest.raises(ContractError, match=r"has shape \(4,\), and its space says \(3,\)"):
        endure(streams, 100)
    assert streams.restarts == 0


def test_copies_with_other_spaces_are_refused(build: Callable[..., EnvStreams]) -> None:
    """Fails where two copies that cannot stand side by side are a traceback of NumPy's."""
    with pytest.raises(ContractError, match=r"Fickle: its observation space is .* every copy"):
        build(2, "Fickle")


@pytest.mark.parametrize("kind", ["wider", "raises"])
def test_a_run_that_cannot_go_on_ends_in_words(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where what an environment does wrong is told as a fault of ours."""
    asked = ["--env", f"{FILE}:Odd", "--env-kwargs", f"kind={kind}", "rate=0.5"]
    asked += ["--threads", "1", "--out", str(tmp_path)]
    assert main(["train", "debug", *asked]) == 1
    said = capsys.readouterr().err
    assert "clew: Odd: The observation has shape (4,)" in said or "10 restarts are allowed" in said
