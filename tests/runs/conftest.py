"""A run that tests of the command line and of evaluation share, and settings that are quick."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs import EnvStreams
from envs.vector import Record
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
