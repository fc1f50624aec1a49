"""A run's folder: how it is named and claimed, what makes it a run, and why it may be refused.

config.json  metrics.jsonl  tensorboard/  checkpoints/  replay/  evaluation/  crash/
"""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from runs import checkpoint, machine
from runs.config import Config
from worldmodel.config import from_dict

CONFIG = "config.json"

T = TypeVar("T")


class RefusalError(ValueError):
    """What was asked for cannot be done; the message says why, and what can."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turns a ValueError at start-up into a refusal, which needs no traceback."""
    try:
        yield
    except ValueError as error:
        raise RefusalError(" ".join(str(error).split())) from error


def version() -> str:
    """The version of clew."""
    try:
        return metadata.version("clew")
    except metadata.PackageNotFoundError:
        return "unknown"


@contextmanager
def claim(path: Path, exact: bool) -> Iterator[Path]:
    """Make a run's folder; where the block fails, nothing of it is left.

    Where it is taken, another number is added to its name, unless it has to be this `exact` one.
    """
    created = [parent for parent in path.parents if not parent.exists()]
    path = make(path, exact)
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        for parent in created:
            with suppress(OSError):
                parent.rmdir()
        raise


def make(path: Path, exact: bool = False, number: int = 1) -> Path:
    """Make an empty folder, which no other process has; a number is added to a taken name.

    The first one that is tried is `number`; 1 is the name itself.

    Raises:
        ValueError: where it has to be this `exact` one and is taken, or cannot be made.
    """
    while True:
        free = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            free.mkdir(parents=True)
            return free
        except FileExistsError as error:
            if exact and free.is_dir() and not any(free.iterdir()):
                return free
            if exact or not free.is_dir():
                raise ValueError(
                    f"{free} exists already, and nothing in it is overwritten. Take another "
                    f"--name, or go on with it: clew train --resume {free}"
                ) from error
            number += 1
        except OSError as error:
            raise ValueError(f"The folder {free} cannot be made: {error}.") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from training in this folder; the system forgets it when we end."""
    with (path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{path} is being trained by another process.") from error
        yield


def write_config(path: Path, config: Config, recipe: str | None, scan: str) -> None:
    """Write config.json, which makes a folder a run; `scan` is the body that it began with."""
    made = {"version": version(), "commit": machine.commit(), "machine": machine.describe()}
    form = made | {"recipe": recipe, "scan": scan, "config": asdict(config)}
    write_json(path / CONFIG, form)


def read_config(path: Path) -> tuple[Config, str | None]:
    """The config of a run, and the recipe it came from.

    A run that was told to use mamba-ssm goes on by the automatic choice: that is the same where it
    can run, and elsewhere the torch scan takes over.

    Raises:
        ValueError: where the folder is not a run, or its config is damaged.
    """
    if not path.is_dir():
        raise ValueError(f"There is no folder {path}.")
    if not (path / CONFIG).is_file():
        raise ValueError(f"{path} is not a run: it has no {CONFIG}.")
    try:
        form = json.loads((path / CONFIG).read_text())
        values, recipe = dict(form["config"]), form["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / CONFIG} is damaged or half written ({error!r}).") from error
    try:
        if values.get("scan") == "mamba-ssm":
            values["scan"] = "auto"
        return from_dict(Config, values), recipe
    except ValueError as error:
        raise ValueError(f"{path / CONFIG}: {error}") from error


def newest_checkpoint(path: Path) -> Path:
    """The newest complete checkpoint of a run; ValueError where it has none."""
    found = checkpoint.complete(path)
    if not found:
        raise ValueError(
            f"{path} has no complete checkpoint: it was stopped before its first one. Begin anew."
        )
    return found[-1]


def load_checkpoint(load: Callable[[Path], T], path: Path) -> T:
    """What `load` makes of a checkpoint; ValueError where its files are damaged or do not fit."""
    try:
        return load(path)
    except (OSError, SafetensorError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        others = set(checkpoint.complete(path.parents[1])) - {path}
        cure = " Remove it to go on from the one before." if others else ""
        raise ValueError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}: {error}).{cure}"
        ) from error


def write_json(path: Path, form: dict[str, Any]) -> None:
    """Write a JSON file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(form, indent=1) + "\n")
    partial.replace(path)
