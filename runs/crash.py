"""What a run leaves that could not learn any further: crash/, and what is wrong in it, in words.

Unusual: the dump is a checkpoint of the moment before the update, with the batch beside it, so the
update can be made again. Only safetensors and JSON are read; nothing in it is run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from agent.agent import Agent
from agent.learner import Learner, NonFiniteError
from runs import checkpoint

FOLDER, FORM, BATCH = "crash", "crash.json", "batch.safetensors"
WEIGHTS = ("agent.safetensors", "learner.safetensors")
HUGE_INPUT = 1e6  # observations and rewards beyond it are worth a word
HUGE_WEIGHT = 1e3  # no layer needs such weights

Arrays = Mapping[str, np.ndarray]


class CrashError(NonFiniteError):
    """Something was not finite; the message says where and when, and what was saved."""

    def __init__(self, error: NonFiniteError, env_steps: int, updates: int, saved: Path) -> None:
        super().__init__(error.where)
        self.args = (
            f"{error}, at update {updates + 1:,} (environment step {env_steps:,}). The numbers "
            f"that led there and the state before that update are saved in {saved}, and clew "
            f"doctor {saved} tells what is wrong with them. Going on from the last checkpoint "
            "would lead there again; smaller learning rates may not.",
        )


def write(
    run: Path,
    agent: Agent,
    learner: Learner,
    state: dict[str, Any],
    batch: Arrays,
    skipped: Sequence[str],
) -> Path:
    """Save a batch, and the state that could not take it, in a run's crash/.

    `skipped` names what was not finite in each of the updates in a row that came to nothing.
    """
    folder = run / FOLDER
    checkpoint.write(folder, agent, learner, state)
    arrays = {name: np.ascontiguousarray(value) for name, value in batch.items()}
    (folder / BATCH).write_bytes(to_bytes(arrays))
    about = {name: [value.dtype.name, list(value.shape)] for name, value in arrays.items()}
    form = {
        "where": skipped[-1],
        "skipped": list(skipped),
        "env_steps": state["env_steps"],
        "updates": learner.updates,
        "batch": about,
    }
    (folder / FORM).write_text(json.dumps(form, indent=1))
    return folder


@dataclass(frozen=True)
class Array:
    """What an array of a dump holds: its extremes, and how much of it is not finite."""

    name: str
    about: str
    least: float
    largest: float
    odd: int
    first: str

    @property
    def size(self) -> float:
        """The largest absolute value."""
        return max(abs(self.least), abs(self.largest))


@dataclass(frozen=True)
class Dump:
    """A dump, as far as it matters: how it came about, its batch and its weights."""

    form: Mapping[str, Any]
    batch: tuple[Array, ...]
    weights: tuple[Array, ...]


def read(path: Path) -> Dump:
    """The dump in a folder crash/, or in the run that has one.

    Raises:
        ValueError: where there is none, or where it is damaged.
    """
    folder = path if (path / FORM).is_file() or not (path / FOLDER).is_dir() else path / FOLDER
    if not (folder / FORM).is_file():
        raise ValueError(f"{path} is no dump of a run that crashed: it has no {FORM}.")
    try:
        form = json.loads((folder / FORM).read_text())
        batch = load_file(folder / BATCH)
        weights = {k: v for file in WEIGHTS for k, v in load_file(folder / file).items()}
        _told(form)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"The dump {folder} is damaged or half written ({error!r}).") from error
    return Dump(form, _looked_at(batch), _looked_at(weights))


def _looked_at(arrays: Arrays) -> tuple[Array, ...]:
    return tuple(look(name, array) for name, array in sorted(arrays.items()))


def look(name: str, array: np.ndarray) -> Array:
    """What an array holds."""
    finite = np.isfinite(array)
    known = array[finite] if finite.any() else np.zeros(1)
    odd = np.argwhere(~finite)
    about = f"{array.dtype.name} {' x '.join(map(str, array.shape)) or 'one number'}"
    first = f"{array[tuple(odd[0])]} at [{', '.join(map(str, odd[0]))}]" if len(odd) else ""
    return Array(name, about, float(known.min()), float(known.max()), len(odd), first)


def verdict(dump: Dump) -> str:
    """What went wrong, most likely, and what helps."""
    poisoned = [a for a in dump.batch if a.odd]
    spoiled = [a for a in dump.weights if a.odd and not _carried(a)]
    grown = [a for a in dump.weights if a.size > HUGE_WEIGHT and not _counts(a)]
    large = [a for a in dump.batch if a.size > HUGE_INPUT]
    if spoiled:
        return (
            f"The weights were not finite before the update: {_named(spoiled)}. No update of clew "
            "leaves them so. Go on from an older checkpoint."
        )
    if poisoned:
        return (
            f"The batch is not finite: {_named(poisoned)}. Training lets no such number in, so its "
            "replay or dataset is damaged. Begin anew, with another dataset if it came from one."
        )
    if large:
        return (
            f"The batch holds huge numbers: {_named(large)}. Let the environment scale or clip "
            "them (clew check-env tells which keys leave their bounds), or smaller learning rates."
        )
    if grown:
        return f"The weights have grown huge: {_named(grown)}. Begin anew with smaller rates."
    return (
        "Batch and weights are unremarkable: the update itself overflowed. Smaller learning rates "
        "(--optimiser.model-lr, actor-lr, critic-lr) or a smaller --optimiser.clip may help, and "
        "--optimiser.precision fp32 where it was bf16."
    )


def _carried(array: Array) -> bool:
    """Whether it is what rows carry, where infinity is how an empty place is told."""
    return array.name.startswith("carry/")


def _counts(array: Array) -> bool:
    """Whether large numbers are in order there."""
    return _carried(array) or array.name == "updates" or array.name.startswith("optimiser/")


def _named(arrays: Sequence[Array], most: int = 3) -> str:
    parts = [f"{a.name} ({a.first or f'up to {a.size:.3g}'})" for a in arrays[:most]]
    return ", ".join(parts) + f" and {len(arrays) - most} more" * (len(arrays) > most)


def _told(form: Mapping[str, Any]) -> list[str]:
    """How it came about."""
    skipped = form.get("skipped", [form["where"]])
    reasons = ", ".join(dict.fromkeys(map(str, skipped)))
    lines = [
        f"{form['where']} was not finite, at update {form.get('updates', 0) + 1:,} (environment "
        f"step {form['env_steps']:,})."
    ]
    if len(skipped) > 1:
        lines.append(f"{len(skipped):,} updates in a row were skipped for that: {reasons}.")
    return lines


def show(dump: Dump, console: Console) -> None:
    """Tell a dump: how it came about, what it holds, and what helps."""
    console.print("\n".join(_told(dump.form)), soft_wrap=True, markup=False)
    table = Table("in the batch", "what it is", "least", "largest", "not finite")
    for array in dump.batch:
        odd = f"{array.odd:,}, first {array.first}" if array.odd else "none"
        extremes = f"{array.least:.4g}", f"{array.largest:.4g}"
        table.add_row(escape(array.name), array.about, *extremes, escape(odd))
    console.print(table)
    trained = [array for array in dump.weights if not _counts(array)]
    largest = max(trained, key=lambda array: array.size)
    odd = sum(array.odd for array in trained)
    lines = [
        f"{len(trained):,} arrays of weights: the largest of them is {largest.size:.4g}, in "
        f"{largest.name}; {odd:,} are not finite.",
        verdict(dump),
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False)
