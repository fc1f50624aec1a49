"""A run's folder: how it is named and claimed, what makes it a run, and why it may be refused.

config.json  metrics.jsonl  tensorboard/  checkpoints/  replay/  evaluation/  crash/
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from agent.sealed import DamagedError, sync
from runs import checkpoint, machine
from runs.config import Config
from runs.storage import cannot_write
from worldmodel.config import from_dict

CONFIG = "config.json"

T = TypeVar("T")


# What a run that was killed as it began leaves behind.
LEFTOVERS = {".lock", "replay", ".replay.partial", f".{CONFIG}.partial"}


class TakenError(ValueError):
    """Another process has the folder."""


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
    except TakenError:
        raise
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
        RefusalError: where it has to be this `exact` one and is taken, or cannot be made.
    """
    while True:
        free = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            free.mkdir(parents=True)
            return free
        except FileExistsError as error:
            if exact and free.is_dir() and {p.name for p in free.iterdir()} <= LEFTOVERS:
                return free
            if exact or not free.is_dir():
                raise RefusalError(
                    f"{free} exists already, and nothing in it is overwritten. Take another "
                    f"--name, or go on with it: clew train --resume {free}"
                ) from error
            number += 1
        except OSError as error:
            raise RefusalError(f"The folder {free} cannot be made: {error}.") from error


def place(out: Path, name: str) -> Path:
    """The folder of a run, which lies inside `out`; ValueError where its name leads elsewhere."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(
            f"--name {name} leads out of {out}: a name has no '..' in it and does not begin with "
            "'/'. The folder that runs are kept in is given by --out."
        )
    return out / name


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from training in this folder; the system forgets it when we end.

    Raises:
        TakenError: where another process has it.
        ValueError: where the folder cannot be written to.
    """
    try:
        file = (path / ".lock").open("a+")
        if not os.access(path, os.W_OK):  # although the files in it may be
            file.close()
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(cannot_write(path, error)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            who = f" ({who})" if (who := file.read().strip()) else ""
            raise TakenError(f"{path} is being trained by another process{who}.") from error
        except OSError as error:
            raise ValueError(
                f"{path} cannot be locked ({error}), so nothing keeps two processes from writing "
                "to it. Put it on another disk with --out."
            ) from error
        with suppress(OSError):  # of a full disk, that will be told by what needs room
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode())
        yield


def write_config(path: Path, config: Config, recipe: str | None, scan: str) -> None:
    """Write config.json, which makes a folder a run; `scan` is the body that it began with."""
    made = {"version": version(), "commit": machine.commit(), "machine": machine.describe()}
    form = made | {"recipe": recipe, "scan": scan, "config": asdict(config)}
    form = json.loads(json.dumps(form))  # as it will be read, keys that are numbers too
    write_json(path / CONFIG, {"sha256": _checksum(form)} | form)


def _checksum(form: dict[str, Any]) -> str:
    rest = {key: value for key, value in form.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_config(path: Path) -> tuple[Config, str | None]:
    """The config of a run, and the recipe it came from.

    A run that was told to use mamba-ssm goes on by the automatic choice: that is the same where it
    can run, and elsewhere the torch scan takes over.

    Raises:
        ValueError: where the folder is not a run, or its config is damaged or was changed.
    """
    if path.is_file():
        raise ValueError(f"{path} is a file: name the folder of a run, such as outputs/NAME.")
    if not path.is_dir():
        raise ValueError(f"There is no folder {path}.")
    if not (path / CONFIG).is_file():
        raise ValueError(f"{path} is not a run: it has no {CONFIG}.")
    try:
        form = json.loads((path / CONFIG).read_text())
        values, recipe = dict(form["config"]), form["recipe"]
        found = _checksum(form)
        told = form.get("sha256", found)  # earlier versions told none
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / CONFIG} is damaged or half written ({error!r}).") from error
    try:
        if values.get("scan") == "mamba-ssm":
            values["scan"] = "auto"
        config = from_dict(Config, values)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path / CONFIG}: {error}") from error
    if told != found:
        raise ValueError(
            f"{path / CONFIG} is not what was written: it was changed or damaged. Put it back; to "
            'go by it as it is now, remove its line "sha256".'
        )
    return config, recipe


def newest_checkpoint(path: Path) -> Path:
    """The newest complete checkpoint of a run; ValueError where it has none."""
    found = checkpoint.complete(path)
    if not found and list((path / checkpoint.FOLDER).glob("step-*")):
        raise ValueError(f"{path} has no complete checkpoint: those that are there lack `done`.")
    if not found:
        raise ValueError(
            f"{path} has no complete checkpoint: it was stopped before its first one. Begin anew: "
            f"clew train --resume {path}"
        )
    return found[-1]


def find_checkpoint(path: Path, which: str = "newest") -> Path:
    """A complete checkpoint of a run: newest, best, or that of a step.

    Raises:
        ValueError: where there is none, or none of that name.
    """
    newest, top = newest_checkpoint(path), checkpoint.best(path)
    named = {str(step_of(found)): found for found in checkpoint.complete(path)}
    named |= {"newest": newest} | ({"best": top} if top else {})
    if which not in named:
        raise ValueError(f"{path} has no checkpoint {which!r}. It has: {', '.join(named)}.")
    return named[which]


def step_of(found: Path) -> int:
    """Environment steps that a checkpoint had learned from."""
    return int(found.name.removeprefix("step-"))


def load_checkpoint(load: Callable[[Path], T], path: Path) -> T:
    """What `load` makes of a checkpoint.

    Raises:
        DamagedError: where its files are damaged, or do not fit.
        ValueError: where the system does not let them be read.
    """
    try:
        return load(path)
    except DamagedError:
        raise
    except (
        FileNotFoundError,
        SafetensorError,
        KeyError,
        RuntimeError,
        json.JSONDecodeError,
    ) as error:
        raise DamagedError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}: {error})."
        ) from error
    except OSError as error:
        raise ValueError(f"The checkpoint {path} cannot be read: {error}.") from error


def read_json(path: Path) -> Any:
    """What a JSON file of a run says; RefusalError where it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise RefusalError(f"{path} is damaged ({error}). Bring it back from a copy.") from error


def write_json(path: Path, form: dict[str, Any]) -> None:
    """Write a JSON file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(form, indent=1) + "\n")
    sync(partial)
    partial.replace(path)
    sync(path.parent)
