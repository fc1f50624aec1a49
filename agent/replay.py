"""Replay: one ring of records per environment on disk, read back as whole streams in order.

Unusual: a row of the batch goes on where its last window ended, so that a model's state can be
carried from batch to batch; `continues` says where it does. Positions count a stream's records
since its first one and never wrap; only the slot in the file does. Of a ring's records the newest
`capacity` are visible; the `slack` records more keep what the last checkpoint saw from being
overwritten, and a mark beside the files tells whether that still holds. Every record has a checksum
over its place and its bytes, which `load_state` compares: a few seconds for gigabytes. All space is
taken at once, since a disk that fills up under a memory map would kill the process.
"""

import os
import shutil
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.lib.format import open_memmap

from agent.sealed import DamagedError, sync

Fields = Mapping[str, tuple[np.dtype, tuple[int, ...]]]

MARK = "written.mark"
SUMS = "records.crc"
CURE = "Bring it back from a copy: without it a run can be evaluated, but not gone on with."
SUM_BYTES = 4
AT_ONCE = 1024  # records that are checked together


@dataclass(frozen=True)
class ReplayConfig:
    """How much is remembered on disk, and how it is read back."""

    capacity: int = 200_000
    """Records kept, over all environments together."""
    batch: int = 16
    """Rows in a batch."""
    context: int = 128
    """Frames a row reads per batch."""
    stream: int = 2048
    """Frames a row reads in order, its state carried, before it jumps to another place."""

    def __post_init__(self) -> None:
        for name in ("capacity", "batch", "context", "stream"):
            if getattr(self, name) < 1:
                raise ValueError(f"replay.{name} = {getattr(self, name)} must be at least 1.")
        if self.stream % self.context:
            raise ValueError(
                f"replay.stream = {self.stream} must be a multiple of "
                f"replay.context = {self.context}."
            )


@dataclass
class Row:
    """Where a row of the batch reads next, and how many frames it may still read in order."""

    stream: int
    at: int
    left: int


def replay_bytes(fields: Fields, streams: int, config: ReplayConfig, slack: int = 0) -> int:
    """Bytes on disk that a Replay of these fields allocates, file headers aside."""
    record = sum(np.dtype(dtype).itemsize * prod(shape) for dtype, shape in fields.values())
    return (record + SUM_BYTES) * streams * (config.capacity // streams + slack)


class Replay:
    """Records of `streams` parallel environments; each `add` appends one record to every stream.

    `fields` gives the dtype and shape of one record's parts and must hold a scalar bool "is_first".
    A folder that already holds these fields is reused; `load_state` makes its records visible.
    """

    def __init__(
        self,
        folder: Path,
        fields: Fields,
        streams: int,
        config: ReplayConfig,
        seed: int,
        slack: int = 0,
    ) -> None:
        _check(fields, streams, config, slack)
        self.config, self.streams = config, streams
        self.fields = {k: (np.dtype(dtype), tuple(shape)) for k, (dtype, shape) in fields.items()}
        self._capacity = config.capacity // streams
        self._ring = self._capacity + slack
        self._slack = slack
        self._folder = folder
        self._arrays, self._sums, self._mark = _open(folder, self.fields, (streams, self._ring))
        self._written = 0
        self._most_written = 0
        self._context = config.context
        self._starts: list[list[int]] = [[] for _ in range(streams)]
        self._rng = np.random.default_rng(seed)
        # Different first allowances, so that the rows do not all jump in the same batch.
        windows = self._rng.integers(1, config.stream // config.context + 1, config.batch)
        self._rows = [Row(0, -1, int(n) * config.context) for n in windows]

    @property
    def nbytes(self) -> int:
        """Bytes allocated on disk, file headers aside."""
        return replay_bytes(self.fields, self.streams, self.config, self._slack)

    def __len__(self) -> int:
        """Visible records, over all streams together."""
        return (self._written - self._oldest) * self.streams

    def add(self, records: Mapping[str, np.ndarray]) -> None:
        """Append one record to every stream; each array is (streams, *shape)."""
        self._check_records(records)
        slot = self._written % self._ring
        for name, array in self._arrays.items():
            array[:, slot] = records[name]
        places = [(stream, self._written) for stream in range(self.streams)]
        self._sums[:, slot] = self._checksums((slice(None), slot), places)
        for stream in np.flatnonzero(records["is_first"]):
            self._starts[stream].append(self._written)
        self._written += 1
        for starts in self._starts:
            if starts and starts[0] < self._oldest:
                del starts[0]
        self._most_written = max(self._most_written, self._written)
        self._mark[0] = self._most_written

    def ready(self) -> bool:
        """Whether a batch can be drawn."""
        return self._written - self._oldest >= self.config.context

    def sample(self, context: int | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Copies of (batch, context, *shape), and (batch,) bool: the row goes on in order.

        `context` may be shorter than the config's, and differ from call to call.
        """
        self._context = context or self.config.context
        if not self.ready():
            raise ValueError(
                f"replay holds {self._written} records a stream, fewer than context "
                f"({self.config.context}): collect more before sampling"
            )
        continues = np.array([self._advance(row) for row in self._rows])
        batch = {name: self._read(array) for name, array in self._arrays.items()}
        for row in self._rows:
            row.at += self._context
            row.left -= self._context
        return batch, continues

    def state(self) -> dict[str, Any]:
        """All that decides future samples, JSON-able; the records themselves stay in the folder."""
        return {
            "written": self._written,
            "rows": [list(astuple(row)) for row in self._rows],
            "rng": self._rng.bit_generator.state,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on as if never interrupted since `state()`, over the same folder.

        Raises:
            DamagedError: where a visible record is not what was added.
            ValueError: where the folder is another one, or was written to since.
        """
        self._check_state(state)
        self._written = state["written"]
        self._most_written = int(self._mark[0])
        self._rows = [Row(*row) for row in state["rows"]]
        self._rng.bit_generator.state = state["rng"]
        visible = np.arange(self._oldest, self._written)
        self._check_records_of(visible)
        firsts = self._arrays["is_first"][:, visible % self._ring]
        self._starts = [visible[first].tolist() for first in firsts]

    def flush(self) -> None:
        """Write what the system still holds in memory to disk."""
        for array in (*self._arrays.values(), self._sums, self._mark):
            array.flush()

    def _checksums(self, index: Any, places: Iterable[tuple[int, int]]) -> list[int]:
        """Checksums of the records at an index of all arrays, given their streams and positions."""
        parts = [np.ascontiguousarray(array[index]) for array in self._arrays.values()]
        rows = [part.reshape(len(part), prod(part.shape[1:])).view(np.uint8) for part in parts]
        return [
            zlib.crc32(row, zlib.crc32(b"%d %d" % place))
            for row, place in zip(np.concatenate(rows, axis=1), places, strict=True)
        ]

    def _check_records_of(self, positions: np.ndarray) -> None:
        for stream in range(self.streams):
            for begin in range(0, len(positions), AT_ONCE):
                some = positions[begin : begin + AT_ONCE]
                index = stream, some % self._ring
                found = self._checksums(index, [(stream, int(at)) for at in some])
                wrong = some[self._sums[index] != np.array(found, np.uint32)]
                if len(wrong):
                    raise DamagedError(
                        f"The replay in {self._folder} is damaged: record {wrong[0]} of stream "
                        f"{stream} is not what was written. {CURE}"
                    )

    @property
    def _oldest(self) -> int:
        return max(0, self._written - self._capacity)

    def _advance(self, row: Row) -> bool:
        """Let the row go on if it can, else make it jump; returns whether it goes on."""
        context = self._context
        if row.left >= context and self._oldest <= row.at <= self._written - context:
            return True
        if row.at >= 0:
            row.left = self.config.stream
        row.stream = int(self._rng.integers(self.streams))
        row.at = self._place(row.stream, row.left)
        return False

    def _place(self, stream: int, reach: int) -> int:
        """A start from which a uniformly drawn record is read within `reach` frames.

        That is the start of its episode, always where the episode is no longer than `reach`. In a
        longer one, whose end would hardly ever be read from its start, it is the start as often as
        it lies within a random part of `reach`, and else a place between the two.
        """
        target = int(self._rng.integers(self._oldest, self._written))
        low = max(self._oldest, target - reach + 1)
        starts = self._starts[stream]
        after = bisect_right(starts, target)
        if after:
            start = starts[after - 1]
            stop = starts[after] if after < len(starts) else self._written
            if stop - start <= reach or target - start <= self._rng.integers(reach):
                at = self._at_or_before(start, target, reach)
                if at is not None:
                    return at
            low = max(low, start)
        return min(int(self._rng.integers(low, target + 1)), self._written - self._context)

    def _at_or_before(self, start: int, target: int, reach: int) -> int | None:
        """`start`, or so far before it that a window ends on the newest record; None if neither.

        The second serves where whole windows from `start` would stop short of `target`.
        """
        end, context = self._written, self._context
        for at in (start, start - (start - end) % context):
            stop = end - (end - at) % context
            if at >= self._oldest and target < stop and target - at < reach:
                return at
        return None

    def _read(self, array: np.memmap) -> np.ndarray:
        """The current window of every row, across the ring's seam where it lies there."""
        context = self._context
        windows = np.empty((len(self._rows), context, *array.shape[2:]), array.dtype)
        for window, row in zip(windows, self._rows, strict=True):
            slot = row.at % self._ring
            ahead = min(context, self._ring - slot)
            window[:ahead] = array[row.stream, slot : slot + ahead]
            window[ahead:] = array[row.stream, : context - ahead]
        return windows

    def _check_records(self, records: Mapping[str, np.ndarray]) -> None:
        if records.keys() != self.fields.keys():
            odd = sorted(records.keys() ^ self.fields.keys())
            raise ValueError(
                f"a record must have exactly the replay's fields; missing or new: {odd}"
            )
        for name, (dtype, shape) in self.fields.items():
            value, expected = records[name], (self.streams, *shape)
            if value.shape != expected or not np.can_cast(value.dtype, dtype, "same_kind"):
                raise ValueError(
                    f"record field {name!r} is {value.dtype}{value.shape}, "
                    f"but the replay keeps {dtype}{expected}: convert it before adding"
                )

    def _check_state(self, state: Mapping[str, Any]) -> None:
        written, on_disk, rows = state["written"], int(self._mark[0]), len(state["rows"])
        if rows != self.config.batch:
            raise ValueError(
                f"the saved replay has {rows} rows, but batch is {self.config.batch}: "
                "resume with the batch it was saved with"
            )
        if written > on_disk:
            raise ValueError(
                f"the replay's files hold {on_disk} records a stream, the checkpoint {written}: "
                "restore the replay folder that belongs to the checkpoint"
            )
        if on_disk - self._ring > max(0, written - self._capacity):
            raise ValueError(
                f"{on_disk - written} records a stream were added after the checkpoint, and they "
                f"overwrote some that it could see (slack {self._slack}): "
                "resume from a later checkpoint, or start anew"
            )


def _check(fields: Fields, streams: int, config: ReplayConfig, slack: int) -> None:
    if streams < 1 or slack < 0:
        raise ValueError(f"replay needs streams >= 1 and slack >= 0, not {streams} and {slack}")
    if config.capacity // streams < config.context:
        raise ValueError(
            f"replay capacity is {config.capacity}, which leaves {config.capacity // streams} "
            f"records to each of {streams} streams, fewer than context ({config.context}): "
            f"raise capacity to at least {streams * config.context} or lower context"
        )
    dtype, shape = fields.get("is_first", (None, None))
    if dtype != np.dtype(bool) or shape != ():
        raise ValueError('replay fields must hold "is_first", a bool of shape ()')


Layout = dict[str, tuple[np.dtype, tuple[int, ...]]]  # of files, by their names


def _open(
    folder: Path, fields: Fields, lead: tuple[int, int]
) -> tuple[dict[str, np.memmap], np.memmap, np.memmap]:
    """The memory maps of all fields, of their checksums and of the mark; made where none are."""
    layout: Layout = {_file(name): (dtype, lead + shape) for name, (dtype, shape) in fields.items()}
    layout |= {SUMS: (np.dtype(np.uint32), lead), MARK: (np.dtype(np.int64), (1,))}
    if not folder.is_dir() or not any(folder.iterdir()):
        _create(folder, layout)
    if {path.name for path in folder.glob("*.npy")} - layout.keys():
        raise ValueError(_mismatch(folder, "other fields"))
    maps = {name: _map(folder / name) for name in layout}
    for name, (dtype, shape) in layout.items():
        if (maps[name].dtype, maps[name].shape) != (dtype, shape):
            found = f"{name} as {maps[name].dtype}{maps[name].shape}"
            raise ValueError(_mismatch(folder, f"{found}, not {dtype}{shape}"))
    return {name: maps[_file(name)] for name in fields}, maps[SUMS], maps[MARK]


def _create(folder: Path, layout: Layout) -> None:
    """Make all files, with the space that they will need: there whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, (dtype, shape) in layout.items():
            open_memmap(partial / name, mode="w+", dtype=dtype, shape=shape)
            _take_space(partial / name)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(folder.parent)


def _take_space(path: Path) -> None:
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _map(path: Path) -> np.memmap:
    if not path.is_file():
        old = "Earlier versions wrote none: go on with them. " if path.name == SUMS else ""
        raise DamagedError(f"{path} is missing. {old}{CURE}")
    try:
        open_memmap(path, mode="r")  # the other mode makes a file longer that is too short
        return open_memmap(path, mode="r+")
    except (ValueError, EOFError, SyntaxError, TokenError) as error:
        raise DamagedError(f"{path} is damaged ({error}). {CURE}") from error


def _file(name: str) -> str:
    return f"{quote(name, safe='')}.npy"


def _mismatch(folder: Path, found: str) -> str:
    return (
        f"the replay in {folder} holds {found}: it was made for another environment, number of "
        "streams or capacity; use the settings it was made with, or another folder"
    )
