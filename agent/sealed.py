"""Folders whose files are known: forced to disk, with their checksums in `done`, written last.

An empty `done` is of a time before checksums: such a folder is complete, and taken as it is.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DONE = "done"


class DamagedError(ValueError):
    """A file is not what was written; the message names it."""


def seal(folder: Path, **about: Any) -> None:
    """Force a folder's files to disk, then write `done`: their checksums, and what else is said."""
    sums = {path.name: _checksum(path) for path in sorted(folder.iterdir())}
    for name in sums:
        sync(folder / name)
    partial = folder / f".{DONE}"
    partial.write_text(json.dumps({"sha256": sums, **about}, indent=1))
    sync(partial)
    partial.rename(folder / DONE)
    sync(folder)


def check(folder: Path, names: Iterable[str] = ()) -> None:
    """See that files of a sealed folder, by default all, are what was written.

    Raises:
        DamagedError: naming the first that is not.
    """
    if not (folder / DONE).read_bytes():
        return
    sums = about(folder).get("sha256")
    if not isinstance(sums, dict):
        raise DamagedError(f"{folder / DONE} is damaged.")
    for name in names or sums:
        path = folder / name
        if path.name != name or not path.is_file():
            raise DamagedError(f"{path} is missing.")
        if _checksum(path) != sums.get(name):
            raise DamagedError(f"{path} is not what was written: its checksum differs.")


def about(folder: Path) -> dict[str, Any]:
    """What `done` says; nothing where it is empty or damaged."""
    try:
        form = json.loads((folder / DONE).read_text())
    except (OSError, ValueError):
        return {}
    return form if isinstance(form, dict) else {}


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, from the system's memory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
