"""What a suite of measurements is, and what it is given.

A suite measures one subject (an agent in an environment) and makes a report of it: a dictionary
that is written as JSON and is the same for the same seed. Tables and figures are made from that
report alone, so that they can be made again later.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from runs.config import Config

Report = dict[str, Any]
Tell = Callable[[str, int, int], None]  # what is being done, how much of it, of how much
Clip = list[np.ndarray]  # pictures of a short video, (height, width, 3) bytes each


SEEDS = 2**63  # what torch and NumPy both take


def check_seed(seed: int) -> None:
    """ValueError where a seed is none."""
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed = {seed} must not be negative, and less than 2**63.")


@dataclass(frozen=True)
class Subject:
    """What is measured: a run's newest agent, in the environment that `config` names."""

    run: Path
    agent: Any
    """An Agent, or a baseline: whoever acts by the same verbs, or a player by itself."""
    config: Config
    learned: Config | None = None
    """The settings it learned with, where they are others."""
    steps: int = 0
    """Environment steps that it had learned from."""


@dataclass(frozen=True)
class Budget:
    """How much is played, and which episodes; never those of training."""

    episodes: int = 200
    seed: int = 0
    max_steps: int = 20_000

    def __post_init__(self) -> None:
        for name in ("episodes", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1.")
        check_seed(self.seed)


@dataclass(frozen=True)
class Sheet:
    """A table for people: rows of as many cells as there are columns, the first one a name."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Suite:
    """A suite: whether it can measure a subject, how, and how its report is shown."""

    name: str
    about: str
    missing: Callable[[Subject], str]
    """What the subject lacks, in a sentence that says why; empty where it can be measured."""
    measure: Callable[[Subject, Budget, Tell], Report]
    sheets: Callable[[Report], list[Sheet]]
    headline: Callable[[Report], Mapping[str, str]]
    """The figures that a comparison of runs shows, by name."""
    figures: Callable[[Report], Mapping[str, Figure]] = _nothing
    """Pictures by name."""
    clips: Callable[[Subject, Budget], Mapping[str, Clip]] = _nothing
    """Short videos by name."""


def quiet(what: str, done: int, total: int) -> None:
    """Tells nobody."""


def needs_model(subject: Subject) -> str:
    """What a subject lacks that is a baseline."""
    return "" if isinstance(subject.agent, nn.Module) else "a baseline has no world model"


def needs_policy(subject: Subject) -> str:
    """What a subject lacks that learned no policy."""
    if not subject.config.model_only:
        return ""
    return "it learned the world model alone (model_only), so there is no policy to measure"
