"""Room for a run, in memory and on disk, and why a folder cannot be written to any more."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CAUSES = {
    errno.ENOSPC: "its disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space, or have it raised",
    errno.EFBIG: "a file would be larger than the system allows: raise the limit (ulimit -f)",
    errno.EROFS: "it can only be read: mount it for writing, or take a copy elsewhere",
    errno.EACCES: "it may not be written to: change its permissions, or take a copy elsewhere",
    errno.EPERM: "it may not be written to: change its permissions, or take a copy elsewhere",
    errno.ENOENT: "it has vanished: bring it back to where it was",
    errno.EIO: "its disk fails: take a copy elsewhere",
}


class StorageError(Exception):
    """Something could not be written; the message says why, and what to do."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what the system says of writing into a StorageError with cause and cure."""
    try:
        yield
    except OSError as error:
        raise StorageError(cannot_write(folder, error)) from error


def cannot_write(folder: Path, error: OSError) -> str:
    """Why a folder cannot be written to, and what to do."""
    cause = CAUSES.get(error.errno or 0, f"{error}: put it elsewhere")
    where = f" ({error.filename})" if error.filename else ""
    return f"{folder} cannot be written to{where}; {cause}."


def check_room(folder: Path, parts: dict[str, int]) -> None:
    """See that a folder's disk has room for so many bytes.

    Raises:
        ValueError: where it has not.
    """
    disk = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    needed, free = sum(parts.values()), shutil.disk_usage(disk).free
    if needed > free:
        each = ", ".join(f"{size / 1e6:,.1f} MB {name}" for name, size in parts.items())
        raise ValueError(
            f"{folder} takes {needed / 1e6:,.1f} MB ({each}), and its disk has "
            f"{free / 1e6:,.1f} MB free. Free some space, lower --replay.capacity or --keep, or "
            "put the run elsewhere with --out."
        )


def check_memory(needed: int, what: str, cure: str) -> None:
    """See that this machine has memory for so many bytes, which is known before they are taken.

    Raises:
        ValueError: where it has not.
    """
    there = _memory()
    if there and needed > there:
        raise ValueError(
            f"{what} takes at least {needed / 1e9:,.1f} GB of memory, and there are "
            f"{there / 1e9:,.1f} GB: {cure}."
        )


def _memory() -> int:
    """Bytes that this process may have; 0 where the system does not say."""
    if not hasattr(os, "sysconf"):
        return 0
    import resource

    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    return physical if allowed == resource.RLIM_INFINITY else min(physical, allowed)
