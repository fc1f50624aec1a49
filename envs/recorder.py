"""Episodes on their way from streams into a Minari dataset, which is there whole or not at all.

Unusual: every stream records a fixed share of the steps, and the episode it is in when it has them
is cut there, so that short episodes are not recorded more often than long ones. Pictures are kept
as they are; Minari alone would make JPEGs of them.
"""

import math
import os
import shutil
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from envs.contract import ContractError
from envs.dataset import ABOUT, import_minari
from envs.stream import Episode
from envs.vector import EnvStreams, Record

DATASET_BYTES = 3_000  # about what HDF5 takes for each array of an episode beside its data
LONGEST_TEXT = 10_000
FLAGS = (4, 1, 1)  # bytes of a reward and of whether it was the last, by each kind of end

Policy = Callable[[Record], np.ndarray]


@dataclass
class Running:
    """An episode that is being recorded; `infos` has a row for every observation."""

    seed: int
    stream: int
    observations: list[Any] = field(default_factory=list)
    infos: list[Mapping[str, np.ndarray]] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    end: Episode | None = None

    def about(self) -> dict[str, Any]:
        """What is told of it beside its data; `cut` where it had not ended."""
        about = {"return": math.fsum(self.rewards), "cut": self.end is None, "stream": self.stream}
        success = self.end.success if self.end else None
        return about if success is None else about | {"success": success}


@dataclass
class Recorder:
    """Records `frames` steps of streams under a policy; `told` gathers what became of episodes.

    `infos` are the parts of the environments' infos to keep, which all records must have.
    """

    streams: EnvStreams
    policy: Policy
    frames: int
    infos: Sequence[str] = ()
    on_progress: Callable[[int], None] = lambda frames: None
    told: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.space = plain_space(self.streams.observation_space)

    def episodes(self) -> Iterator[Any]:
        """Episodes as Minari takes them, in the order in which they end."""
        n = self.streams.num_envs
        left = [self.frames // n + (index < self.frames % n) for index in range(n)]
        running: dict[int, Running] = {}
        record, actions = self.streams.reset(), np.zeros(n)
        while True:
            for index in [index for index in range(n) if left[index]]:
                if record.is_first[index]:  # one that still runs lost its environment
                    yield from self._finished(running.pop(index, None))
                    running[index] = Running(self.streams.seeds()[index], index)
                else:
                    self._step(running[index], actions[index], record)
                    left[index] -= 1
                self._look(running[index], record)
                if record.is_last[index] or not left[index]:
                    yield from self._finished(running.pop(index))
            self.on_progress(self.frames - sum(left))
            if not any(left):
                return
            actions = self.policy(record)
            record = self.streams.step(actions)

    def _step(self, episode: Running, action: Any, record: Record) -> None:
        episode.actions.append(action)
        episode.rewards.append(float(record.reward[episode.stream]))
        episode.terminated = bool(record.is_terminal[episode.stream])
        ends = [end for end in record.episodes if end.env_index == episode.stream]
        episode.end = ends[0] if ends else None

    def _look(self, episode: Running, record: Record) -> None:
        index, space = episode.stream, self.space
        episode.observations.append(_row(space, record.observation, index))
        if missing := [name for name in self.infos if name not in record.infos[index]]:
            raise ContractError(
                f"The environment does not give the info {missing[0]!r} with every record: leave "
                "it out of --infos."
            )
        episode.infos.append({name: np.array(record.infos[index][name]) for name in self.infos})

    def _finished(self, episode: Running | None) -> Iterator[Any]:
        """The episode for Minari, unless nothing was done in it."""
        if episode is None or not episode.actions:
            return
        from minari.data_collector import EpisodeBuffer

        self.told.append(episode.about())
        last = np.arange(len(episode.actions)) == len(episode.actions) - 1
        parts: dict[str, Any] = {
            "observations": _stack(self.space, episode.observations),
            "actions": np.stack(episode.actions),
            "rewards": np.array(episode.rewards, np.float32),
            "terminations": last & episode.terminated,
            "truncations": last & (not episode.terminated),
            "infos": {name: np.stack([i[name] for i in episode.infos]) for name in self.infos},
        }
        yield EpisodeBuffer(seed=episode.seed, **parts)


def write_dataset(
    folder: Path,
    dataset_id: str,
    recorder: Recorder,
    about: Mapping[str, Any],
    spec: EnvSpec | None = None,
) -> None:
    """Record a dataset into a folder that is not there yet; where that fails, nothing is left.

    `about`, kept in its metadata, has a policy and a description, and env, env_kwargs and wrappers
    for whoever plays there anew. `spec` serves the same end for other users of Minari.
    """
    minari = import_minari()
    from minari.dataset.minari_storage import MinariStorage

    with _whole_or_absent(folder) as partial:
        storage = MinariStorage.new(
            partial / "data",
            recorder.space,
            recorder.streams.action_space,
            spec,
            "hdf5",
            jpeg_encoding=False,
        )
        own = {"dataset_id": dataset_id, "minari_version": minari.__version__, ABOUT: about}
        text = {"algorithm_name": about["policy"], "description": about["description"]}
        storage.update_metadata(own | text)
        storage.update_episodes(recorder.episodes())
        storage.update_episode_metadata(recorder.told)


@contextmanager
def _whole_or_absent(folder: Path) -> Iterator[Path]:
    """A folder beside the asked one, with another name until all is in it."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    created = [parent for parent in partial.parents if not parent.exists()]
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in created:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def disk_bytes(streams: EnvStreams, info: Mapping[str, Any], frames: int, episodes: float) -> int:
    """About what a dataset takes on disk, without Text; `info` is what is kept of a record's."""
    kept = [np.asarray(value).nbytes for value in info.values()]
    played = _sizes(plain_space(streams.observation_space)) + _sizes(streams.action_space)
    arrays = [*played, *kept, *FLAGS]
    return int(frames * sum(arrays) + episodes * len(arrays) * DATASET_BYTES)


def plain_space(space: gym.Space) -> gym.Space:
    """A space that Minari can write: text of all kinds, such as MiniGrid's missions, is Text."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(name, plain_space(part)) for name, part in space.items()])
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([plain_space(part) for part in space])
    is_text = space.dtype is not None and space.dtype.kind == "U"
    return spaces.Text(LONGEST_TEXT, charset=string.printable) if is_text else space


def _sizes(space: gym.Space) -> list[int]:
    """The bytes of each leaf."""
    if isinstance(space, spaces.Dict):
        return [size for part in space.values() for size in _sizes(part)]
    if isinstance(space, spaces.Tuple):
        return [size for part in space for size in _sizes(part)]
    if isinstance(space, spaces.Text):
        return [0]
    return [np.dtype(space.dtype).itemsize * math.prod(space.shape or ())]


def _row(space: gym.Space, batch: Any, index: int) -> Any:
    """A copy of one observation of a batch."""
    if isinstance(space, spaces.Dict):
        return {name: _row(part, batch[name], index) for name, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_row(part, values, index) for part, values in zip(space, batch, strict=True))
    return batch[index] if isinstance(space, spaces.Text) else np.array(batch[index])


def _stack(space: gym.Space, rows: Sequence[Any]) -> Any:
    """Observations of an episode, with a first axis of time in every leaf."""
    if isinstance(space, spaces.Dict):
        return {name: _stack(part, [row[name] for row in rows]) for name, part in space.items()}
    if isinstance(space, spaces.Tuple):
        parts = zip(space, zip(*rows, strict=True), strict=True)
        return tuple(_stack(part, values) for part, values in parts)
    return list(rows) if isinstance(space, spaces.Text) else np.stack(rows)
