"""Replay: every record carries its stream and position, so a window checks itself."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.replay import MARK, SUMS, Replay, ReplayConfig, replay_bytes
from agent.sealed import DamagedError

FIELDS = {
    "obs/image": (np.dtype(np.uint8), (2, 3)),
    "reward": (np.dtype(np.float32), ()),
    "is_first": (np.dtype(bool), ()),
    "stream": (np.dtype(np.int64), ()),
    "position": (np.dtype(np.int64), ()),
}
SMALL = ReplayConfig(capacity=200, batch=4, context=8, stream=32)


class Source:
    """Endless records of several streams, always the same, in episodes of random lengths."""

    def __init__(self, streams: int, lengths: tuple[int, int] = (2, 40)) -> None:
        self.rng = np.random.default_rng(0)
        self.streams, self.lengths = streams, lengths
        self.position, self.left = 0, np.zeros(streams, np.int64)

    def __call__(self) -> dict[str, np.ndarray]:
        first = self.left == 0
        length = self.rng.integers(*self.lengths, self.streams, endpoint=True)
        self.left = np.where(first, length, self.left) - 1
        position = np.full(self.streams, self.position)
        self.position += 1
        image = np.broadcast_to(position[:, None, None] % 256, (self.streams, 2, 3))
        return {
            "obs/image": image.astype(np.uint8),
            "reward": position.astype(np.float32) / 2,
            "is_first": first,
            "stream": np.arange(self.streams),
            "position": position,
        }


def fill(replay: Replay, source: Source, count: int) -> None:
    for _ in range(count):
        replay.add(source())


def make(folder: Path, config: ReplayConfig = SMALL, streams: int = 2, **kwargs: Any) -> Replay:
    return Replay(folder, FIELDS, streams, config, seed=kwargs.pop("seed", 0), **kwargs)


def assert_whole(batch: dict[str, np.ndarray]) -> None:
    """Each window is one stream's consecutive records, all fields of the same record."""
    stream, position = batch["stream"], batch["position"]
    assert (stream == stream[:, :1]).all()
    assert (np.diff(position, axis=1) == 1).all()
    assert (batch["reward"] == position / 2).all()
    assert (batch["obs/image"] == (position % 256)[:, :, None, None]).all()


def test_windows_hold_what_was_written(tmp_path: Path) -> None:
    replay, written, source = make(tmp_path), [], Source(2)
    for _ in range(90):
        written.append(source())
        replay.add(written[-1])
    for _ in range(50):
        batch, _ = replay.sample()
        assert_whole(batch)
        for name, (dtype, shape) in FIELDS.items():
            assert batch[name].dtype == dtype
            assert batch[name].shape == (4, 8, *shape)
        for row in range(4):
            expected = [
                written[p]["is_first"][s]
                for s, p in zip(batch["stream"][row], batch["position"][row], strict=True)
            ]
            np.testing.assert_array_equal(batch["is_first"][row], expected)


def test_samples_are_copies(tmp_path: Path) -> None:
    replay, source = make(tmp_path), Source(2)
    fill(replay, source, 60)
    for value in replay.sample()[0].values():
        value[:] = 0
    for _ in range(50):
        assert_whole(replay.sample()[0])


def test_rows_continue_exactly_or_say_so(tmp_path: Path) -> None:
    """Also while records arrive and the ring overwrites itself several times over."""
    replay, source = make(tmp_path), Source(2)
    fill(replay, source, 50)
    end, run = np.full((4, 2), -1), np.zeros(4, int)
    jumps, goes_on = [], 0
    for step in range(600):
        batch, continues = replay.sample()
        assert_whole(batch)
        assert batch["position"].min() >= source.position - 100
        now = np.stack([batch["stream"][:, 0], batch["position"][:, 0]], axis=1)
        assert (now[continues] == end[continues]).all()
        run = np.where(continues, run + 8, 8)
        assert run.max() <= SMALL.stream
        end = now + np.array([0, 8])
        assert continues.dtype == bool
        assert step or not continues.any()
        jumps.append(int((~continues).sum()))
        goes_on += int(continues.sum())
        if step % 2:
            fill(replay, source, 1)
    assert goes_on > 600  # of 2400; with streams of 4 windows at most 1800 could
    assert np.mean(np.array(jumps[1:]) == 4) < 0.1  # rarely all at once


def test_overwritten_rows_jump(tmp_path: Path) -> None:
    config = ReplayConfig(capacity=64, batch=8, context=8, stream=512)
    replay, source = make(tmp_path, config, streams=1), Source(1)
    fill(replay, source, 64)
    replay.sample()
    fill(replay, source, 65)
    batch, continues = replay.sample()
    assert_whole(batch)
    assert not continues.any()
    assert batch["position"].min() >= 65


def test_slack_is_never_seen(tmp_path: Path) -> None:
    replay, source = make(tmp_path, slack=7), Source(2)
    fill(replay, source, 331)
    assert len(replay) == 200
    for _ in range(200):
        batch, _ = replay.sample()
        assert_whole(batch)
        assert batch["position"].min() >= 331 - 100


def test_jumps_land_on_episode_starts_where_they_can(tmp_path: Path) -> None:
    config = ReplayConfig(capacity=4000, batch=8, context=8, stream=64)
    replay, source = make(tmp_path, config), Source(2)
    fill(replay, source, 2000)
    first = []
    for _ in range(400):
        batch, continues = replay.sample()
        first.append(batch["is_first"][~continues, 0])
    assert np.mean(np.concatenate(first)) > 0.9


def coverage(replay: Replay, records: int, batches: int) -> np.ndarray:
    counts = np.zeros((2, records), int)
    for _ in range(batches):
        batch, _ = replay.sample()
        np.add.at(counts, (batch["stream"], batch["position"]), 1)
    return counts


@pytest.mark.parametrize("lengths", [(2, 2), (2, 40), (66, 66), (2, 200), (9999, 9999)])
def test_every_record_is_read_and_none_much_more_than_others(
    tmp_path: Path, lengths: tuple[int, int]
) -> None:
    """Once away from both ends by a stream's length, all within 1/3 and 3 times their mean.

    Episodes a little longer than a stream (66 here) once lost their ends: read from their starts
    only, the allowance ran out just before.
    """
    config = ReplayConfig(capacity=1200, batch=8, context=8, stream=64)
    replay = make(tmp_path, config)
    fill(replay, Source(2, lengths), 603)
    counts = coverage(replay, 603, 4000)[:, 3:]  # three were overwritten
    assert counts.min() > 0
    middle = counts[:, 64:-64]
    assert middle.min() > middle.mean() / 3
    assert middle.max() < middle.mean() * 3


def test_newest_record_is_read_when_barely_ready(tmp_path: Path) -> None:
    replay, source = make(tmp_path), Source(2, (99, 99))
    fill(replay, source, 7)
    assert not replay.ready()
    with pytest.raises(ValueError, match="fewer than context"):
        replay.sample()
    fill(replay, source, 4)
    assert replay.ready()
    assert coverage(replay, 11, 200).min() > 0


@pytest.mark.parametrize("reopen", [False, True])
def test_resumed_sampling_is_identical(tmp_path: Path, reopen: bool) -> None:
    replay, source = make(tmp_path, slack=20), Source(2)
    fill(replay, source, 250)
    for _ in range(9):
        replay.sample()
    state = json.loads(json.dumps(replay.state()))
    replay.flush()

    def go_on(replay: Replay, source: Source) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
        drawn = []
        for _ in range(20):
            drawn += [replay.sample(), replay.sample()]
            fill(replay, source, 1)
        return drawn

    expected = go_on(replay, source)  # writes 20 records more: what the slack is for
    if reopen:
        replay = make(tmp_path, slack=20, seed=99)
    replay.load_state(state)
    again = Source(2)
    for _ in range(250):
        again()
    for (batch, continues), (batch2, continues2) in zip(
        expected, go_on(replay, again), strict=True
    ):
        np.testing.assert_array_equal(continues, continues2)
        for name in FIELDS:
            np.testing.assert_array_equal(batch[name], batch2[name])


def test_resuming_over_lost_records_is_refused(tmp_path: Path) -> None:
    replay, source = make(tmp_path / "a", slack=20), Source(2)
    fill(replay, source, 250)
    state = replay.state()
    fill(replay, source, 20)
    make(tmp_path / "a", slack=20).load_state(state)
    fill(replay, source, 1)
    with pytest.raises(ValueError, match="slack 20"):
        make(tmp_path / "a", slack=20).load_state(state)
    with pytest.raises(ValueError, match="restore the replay folder"):
        make(tmp_path / "b", slack=20).load_state(state)
    other = ReplayConfig(capacity=200, batch=5, context=8, stream=32)
    with pytest.raises(ValueError, match="batch it was saved with"):
        make(tmp_path / "a", other, slack=20).load_state(state)


def damage(path: Path, byte: int) -> None:
    """Flip a bit."""
    with path.open("r+b") as file:
        file.seek(byte)
        flipped = file.read(1)[0] ^ 4
        file.seek(byte)
        file.write(bytes([flipped]))


def test_a_flipped_bit_is_found_where_it_can_be_seen(tmp_path: Path) -> None:
    """Fails where a damaged record is learned from, or one that is never read stops a run."""
    replay = make(tmp_path, slack=20)
    fill(replay, Source(2), 250)
    replay.flush()
    state, image = replay.state(), tmp_path / "obs%2Fimage.npy"
    unseen, seen = 250 % 120, 240 % 120  # slots of record 130, overwritten next, and of 240
    damage(image, 128 + 6 * unseen)
    make(tmp_path, slack=20).load_state(state)
    damage(image, 128 + 6 * (120 + seen) + 5)
    with pytest.raises(DamagedError, match="record 240 of stream 1 is not what was written"):
        make(tmp_path, slack=20).load_state(state)
    damage(image, 128 + 6 * (120 + seen) + 5)
    make(tmp_path, slack=20).load_state(state)
    damage(tmp_path / SUMS, 128 + 4 * seen)
    with pytest.raises(DamagedError, match="record 240 of stream 0"):
        make(tmp_path, slack=20).load_state(state)


def test_records_of_another_place_are_not_taken_for_those_asked_for(tmp_path: Path) -> None:
    """Fails where a file with whole records of another time is read as if it were this one's."""
    replay, source = make(tmp_path, slack=20), Source(2)
    fill(replay, source, 150)
    early = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != MARK}
    fill(replay, source, 60)
    state = replay.state()
    for path, data in early.items():
        path.write_bytes(data)
    with pytest.raises(DamagedError, match="record 150 of stream 0 is not what was written"):
        make(tmp_path, slack=20).load_state(state)


@pytest.mark.parametrize("name", ["reward.npy", SUMS, MARK])
def test_a_file_that_is_no_array_any_more_is_named(tmp_path: Path, name: str) -> None:
    """Fails where it is unpickled, made anew over what the others hold, or not named."""
    fill(make(tmp_path), Source(2), 60)
    before = (tmp_path / "stream.npy").read_bytes()
    whole = (tmp_path / name).read_bytes()
    for wrong in (whole[: len(whole) // 2], whole[:90], b"", b"not an array at all" * 99):
        (tmp_path / name).write_bytes(wrong)
        with pytest.raises(DamagedError, match=f"{name} is damaged"):
            make(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DamagedError, match=f"{name} is missing"):
        make(tmp_path)
    assert (tmp_path / "stream.npy").read_bytes() == before


def test_files_that_were_never_all_made_are_made_anew(tmp_path: Path) -> None:
    """Fails where a process that was killed as it made them leaves a folder that none can use."""
    half = tmp_path / ".replay.partial"
    half.mkdir()
    (half / "reward.npy").write_bytes(b"half")
    fill(make(tmp_path / "replay"), Source(2), 60)
    assert {path.name for path in tmp_path.iterdir()} == {"replay"}


def test_an_old_folder_can_be_used_afresh(tmp_path: Path) -> None:
    fill(make(tmp_path), Source(2), 150)
    replay = make(tmp_path)
    assert not replay.ready()
    fill(replay, Source(2), 20)
    state = replay.state()
    make(tmp_path).load_state(state)
    for _ in range(20):
        assert_whole(replay.sample()[0])


def test_bytes_are_known_beforehand(tmp_path: Path) -> None:
    replay = make(tmp_path, slack=5)
    # (6 + 4 + 1 + 8 + 8) bytes a record and 4 of its checksum, 2 streams of 100 + 5 records
    assert replay_bytes(FIELDS, 2, SMALL, slack=5) == replay.nbytes == 31 * 2 * 105
    files = [*tmp_path.glob("*.npy"), tmp_path / SUMS]
    assert sum(path.stat().st_size for path in files) == replay.nbytes + 128 * len(files)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="as on macOS")
def test_the_space_is_taken_at_once(tmp_path: Path) -> None:
    """Fails where a disk that fills up later kills the process under its memory maps."""
    replay = make(tmp_path, ReplayConfig(capacity=20_000, batch=4, context=8, stream=32))
    assert sum(path.stat().st_blocks for path in tmp_path.iterdir()) * 512 >= replay.nbytes


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"capacity": 0}, "capacity"),
        ({"batch": 0}, "batch"),
        ({"context": 0}, "context"),
        ({"stream": 0}, "stream"),
        ({"stream": 4}, "replay.stream = 4"),
        ({"stream": 36}, "multiple of replay.context"),
    ],
)
def test_config_errors_name_the_setting(change: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ReplayConfig(**{"capacity": 200, "batch": 4, "context": 8, "stream": 32, **change})


def test_construction_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="raise capacity to at least 240"):
        make(tmp_path, streams=30)
    with pytest.raises(ValueError, match="is_first"):
        Replay(tmp_path, {"reward": FIELDS["reward"]}, 2, SMALL, 0)
    make(tmp_path)
    with pytest.raises(ValueError, match="use the settings it was made with"):
        make(tmp_path, slack=1)
    with pytest.raises(ValueError, match="other fields"):
        Replay(tmp_path, {"is_first": FIELDS["is_first"]}, 2, SMALL, 0)


def test_bad_records_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    replay, source = make(tmp_path), Source(2)
    good = source()
    bad = {
        r"missing or new: \['reward'\]": {k: v for k, v in good.items() if k != "reward"},
        r"missing or new: \['extra'\]": {**good, "extra": good["reward"]},
        "'reward' is float32": {**good, "reward": good["reward"][:1]},
        "'obs/image' is float64": {**good, "obs/image": good["obs/image"] / 255},
    }
    for match, records in bad.items():
        with pytest.raises(ValueError, match=match):
            replay.add(records)
    assert len(replay) == 0
