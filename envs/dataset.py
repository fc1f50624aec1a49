"""Recorded episodes, as Minari keeps them: found, checked, and played as endless streams.

Unusual: all streams take their episodes from one queue, shuffled anew for every pass, so a pass
plays each episode once, however long it is. Minari is imported where a dataset is opened, not
before.
"""

import difflib
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from envs.contract import ROOT, ContractError, is_held
from envs.stream import Episode
from envs.vector import Record

PIP = "pip install 'minari[hdf5]>=0.5.4'"
ABOUT = "clew"  # the key of Minari's metadata under which `collect` says how a dataset was made
PLAY = 0x706C6179  # tells the seeds of shuffling from others
HDF5 = "main_data.hdf5"

Tree = Any


class DatasetError(ContractError):
    """An episode of a dataset is not what its spaces promise; names dataset, episode and key."""


class Origin(NamedTuple):
    """The environment that a dataset was recorded in, as `make` takes it."""

    env: str
    env_kwargs: dict[str, Any]
    wrappers: tuple[str, ...]


def import_minari() -> Any:
    """The package minari, with what it needs to read and write.

    Raises:
        ValueError: where it is not installed, or Python is too old for it.
    """
    if sys.version_info < (3, 11):
        has = ".".join(map(str, sys.version_info[:2]))
        raise ValueError(f"datasets need Minari, which needs Python 3.11 or newer; this is {has}.")
    try:
        import h5py  # noqa: F401
        import minari
    except ImportError as error:
        raise ValueError(f"datasets need Minari and h5py ({error}): {PIP}") from error
    return minari


def data_folder(dataset: str) -> Path | None:
    """Where the data lie, if `dataset` is the path of a dataset; None where it is none."""
    for path in (Path(dataset).expanduser() / "data", Path(dataset).expanduser()):
        if dataset and (path / "metadata.json").is_file():
            return path
    return None


def absolute(dataset: str) -> str:
    """An id or path of a dataset that means the same in every folder."""
    return dataset if data_folder(dataset) is None else str(Path(dataset).expanduser().resolve())


def open_dataset(dataset: str) -> Any:
    """The `minari.MinariDataset` of an id or path.

    Raises:
        ValueError: where there is none, or it cannot be read.
    """
    minari = import_minari()
    path = data_folder(dataset)
    if path is None:
        known = local_ids()
        if dataset not in known:
            raise ValueError(_unknown(dataset, known))
        path = minari.storage.get_dataset_path(dataset) / "data"
    try:
        return minari.MinariDataset(path)
    except Exception as error:  # of Minari's: anything, where a file is damaged
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the dataset {dataset} in {path} cannot be read ({reason})") from error


def local_ids() -> list[str]:
    """The ids of the datasets in Minari's own folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of datasets that nobody asked for
        return list(import_minari().list_local_datasets())


def _unknown(dataset: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(dataset, known, n=5, cutoff=0.4) or known[:5]
    has = f"nearest ids here: {', '.join(nearest)}" if nearest else "there is none here yet"
    got = "" if Path(dataset).is_absolute() else f", or get Minari's: minari download {dataset}"
    return (
        f"there is no dataset {dataset!r}, neither in Minari's folder nor as a path; {has}. "
        f"Record one by clew collect{got}"
    )


def origin(dataset: Any) -> Origin | None:
    """Where a dataset was recorded, as far as it says so."""
    about = dataset.storage.metadata.get(ABOUT)
    if about:
        return Origin(about["env"], about["env_kwargs"], tuple(about["wrappers"]))
    spec = dataset.env_spec
    if spec is None or spec.additional_wrappers:
        return None
    kwargs = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}
    limit = {"max_episode_steps": spec.max_episode_steps} if spec.max_episode_steps else {}
    return Origin(spec.id, kwargs | limit, ())


def check_episodes(dataset: Any) -> None:
    """See that there are episodes, none of them empty and none without an end.

    Raises:
        ValueError: naming the first that is wrong.
    """
    name = f"dataset {dataset.id}"
    if not len(dataset):
        raise ValueError(f"{name} has no episodes: there is nothing to learn from")
    for number, steps, ends in _outlines(dataset):
        if not steps:
            raise ValueError(f"{name}: episode {number} has no steps: make it without that one")
        if not ends:
            raise ValueError(
                f"{name}: episode {number} ends neither by termination nor by truncation: where it "
                "was cut, its last `truncations` must be True"
            )


def _outlines(dataset: Any) -> Iterator[tuple[int, int, bool]]:
    """Number, steps and whether the last one ends it, of all episodes."""
    if dataset.storage.FORMAT != "hdf5":
        for episode in dataset:
            ends = len(episode) and (episode.terminations[-1] or episode.truncations[-1])
            yield episode.id, len(episode), bool(ends)
        return
    import h5py  # so that the observations need not be read

    path = dataset.storage.data_path / HDF5
    try:
        with h5py.File(path, "r") as file:
            for number in dataset.episode_indices.tolist():
                episode: Any = file[f"episode_{number}"]
                steps = len(episode["rewards"])
                ends = steps and (episode["terminations"][-1] or episode["truncations"][-1])
                yield number, steps, bool(ends)
    except (OSError, KeyError) as error:
        raise ValueError(f"dataset {dataset.id}: {path} cannot be read ({error})") from error


@dataclass
class Playing:
    """An episode and the record in it that a stream is at."""

    number: int
    observations: Tree
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    at: int = 0

    @property
    def over(self) -> bool:
        """Whether this is its last record."""
        return self.at == len(self.actions)

    @property
    def action(self) -> Any:
        """What was done after this record; anything at all after the last one."""
        return self.actions[min(self.at, len(self.actions) - 1)]


class DatasetStreams:
    """`num_envs` endless streams of records, as those of `EnvStreams`, from a Minari dataset.

    `explore` gives the actions that were recorded, and `step` takes no others. The episodes come
    in an order drawn from `seed`, and again in another one when all have been played. One episode
    of each stream is held in memory.

    Raises:
        ValueError: where the dataset cannot be found or read, or has an empty or endless episode.
    """

    def __init__(self, dataset: str, num_envs: int, seed: int = 0) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}: ask for at least 1 stream")
        if seed < 0:
            raise ValueError(f"seed is {seed}: give 0 or a positive number")
        self.dataset = open_dataset(dataset)
        check_episodes(self.dataset)
        self.observation_space: gym.Space = self.dataset.observation_space
        self.action_space: gym.Space = self.dataset.action_space
        self.num_envs, self.seed, self.restarts = num_envs, seed, 0
        self._begun = 0
        self._coming: Iterator[Mapping[str, Any]] | None = None
        self._playing: list[Playing] = []

    def reset(self) -> Record:
        """Begin another episode in every stream."""
        self._playing = [self._next() for _ in range(self.num_envs)]
        return self._record()

    def step(self, actions: Any) -> Record:
        """Go on to the next record of every stream; where an episode is over, to another's first.

        Raises:
            ValueError: where other actions are given than those that were recorded.
            DatasetError: where the next episode is not what the spaces promise.
        """
        recorded = self.explore()
        if not np.array_equal(np.asarray(actions), recorded):
            raise ValueError("a dataset plays its own actions only: step(explore())")
        for index, playing in enumerate(self._playing):
            if playing.over:
                self._playing[index] = self._next()
            else:
                playing.at += 1
        return self._record()

    def explore(self) -> np.ndarray:
        """The actions that were recorded."""
        self._require_started()
        actions = [playing.action for playing in self._playing]
        return np.array(actions, dtype=self.action_space.dtype)

    def state(self) -> dict[str, Any]:
        """Where every stream is, in plain numbers; see `restore`."""
        self._require_started()
        streams = [{"episode": playing.number, "at": playing.at} for playing in self._playing]
        return {"seed": self.seed, **self._mark(), "begun": self._begun, "streams": streams}

    def restore(self, state: Mapping[str, Any]) -> Record:
        """Go back to a `state`; returns the last record before it, which lists no episodes."""
        streams = state["streams"]
        asked = {"seed": self.seed, **self._mark(), "streams": self.num_envs}
        if {**{name: state[name] for name in asked}, "streams": len(streams)} != asked:
            raise ValueError(
                "the saved streams played another dataset, or with another seed or num_envs: "
                f"now {asked}; use what they were saved with"
            )
        self._begun, self._coming = state["begun"], None
        episodes = self._read(np.array([stream["episode"] for stream in streams]))
        self._playing = [self._checked(episode) for episode in episodes]
        for playing, stream in zip(self._playing, streams, strict=True):
            playing.at = stream["at"]
        return self._record()._replace(episodes=[])

    def close(self) -> None:
        """Close the files."""
        self._coming = None
        self._playing = []

    def _mark(self) -> dict[str, Any]:
        """What tells this dataset from another."""
        sizes = {"episodes": len(self.dataset), "steps": self.dataset.total_steps}
        return {"dataset": {"id": self.dataset.id, **sizes}}

    def _next(self) -> Playing:
        """The next episode of the queue."""
        number, at = divmod(self._begun, len(self.dataset))
        if at == 0 or self._coming is None:
            rng = np.random.default_rng([PLAY, self.seed, number])
            order = rng.permutation(self.dataset.episode_indices)
            self._coming = iter(self._read(order[at:]))
        self._begun += 1
        return self._checked(next(self._coming))

    def _read(self, numbers: np.ndarray) -> Iterable[Mapping[str, Any]]:
        """Episodes as Minari's storage has them, which it opens once for all of them."""
        return self.dataset.storage.get_episodes(numbers.tolist())

    def _checked(self, episode: Mapping[str, Any]) -> Playing:
        steps, observations = len(episode["rewards"]), episode["observations"]
        wrong = list(_faults(self.observation_space, observations, steps + 1))
        wrong += _faults(self.action_space, episode["actions"], steps, "action")
        if not is_held(np.asarray(episode["rewards"])).all():
            wrong.append("a reward is not finite")
        ends = np.asarray(episode["terminations"]) | np.asarray(episode["truncations"])
        if ends[:-1].any():
            wrong.append("it goes on after its end")
        if wrong:
            raise DatasetError(
                f"dataset {self.dataset.id}, episode {episode['id']}: {wrong[0]}: make the dataset "
                "without that episode, or put it right"
            )
        return Playing(
            int(episode["id"]),
            observations,
            np.asarray(episode["actions"]),
            np.asarray(episode["rewards"], np.float32),
            bool(episode["terminations"][-1]),
        )

    def _record(self) -> Record:
        """What the streams are at."""
        now, space = self._playing, self.observation_space
        rows = [_at(space, playing.observations, playing.at) for playing in now]
        over = np.array([playing.over for playing in now])
        return Record(
            observation=concatenate(space, rows, create_empty_array(space, self.num_envs)),
            reward=np.array([p.rewards[p.at - 1] if p.at else 0.0 for p in now], np.float32),
            is_first=np.array([playing.at == 0 for playing in now]),
            is_terminal=over & [playing.terminated for playing in now],
            is_last=over,
            episodes=[
                Episode(index, playing.at, float(playing.rewards.sum()), None)
                for index, playing in enumerate(now)
                if playing.over
            ],
        )

    def _require_started(self) -> None:
        if not self._playing:
            raise ValueError("the streams have not begun: call reset() or restore() first")


def _at(space: gym.Space, values: Tree, index: int) -> Tree:
    """One observation of many."""
    if isinstance(space, spaces.Dict):
        return {name: _at(part, values[name], index) for name, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_at(part, values[i], index) for i, part in enumerate(space))
    return values[index]


def _faults(space: gym.Space, values: Tree, count: int, key: str = ROOT) -> Iterator[str]:
    """What no model can read in so many observations or actions; nothing of Text."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        named = isinstance(space, spaces.Dict)
        for name, part in space.items() if named else enumerate(space):
            if named and name not in values:
                yield f"{key} lacks {name!r}, which its space has"
            else:
                inside = f"{key}/{name}" if key != ROOT else str(name)
                yield from _faults(part, values[name], count, inside)
    elif not isinstance(space, spaces.Text):
        yield from _array_faults(space, np.asarray(values), count, key)


def _array_faults(space: gym.Space, array: np.ndarray, count: int, key: str) -> Iterator[str]:
    shape = (count, *(space.shape or ()))
    if array.dtype.kind not in "biuf" or array.shape != shape:
        wanted = f"{count} times {space.shape}"
        yield f"{key} is {array.dtype} of shape {array.shape}, and should be {wanted}"
    elif not is_held(array).all():
        yield f"{key} is not finite"
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        low, high = _categories(space)
        if (array < low).any() or (array > high).any():
            yield f"{key} has values outside the categories of {space}"


def _categories(space: gym.Space) -> tuple[Any, Any]:
    """The least and the greatest category."""
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1


def about(dataset: Any) -> str:
    """A dataset in a few words."""
    return f"{dataset.id}, {len(dataset):,} episodes, {dataset.total_steps:,} steps"
