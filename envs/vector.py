"""N copies of any Gymnasium environment as N endless streams of records.

Unusual: episodes turn inside each copy, not in the vector environment around them. A copy whose
last record ended an episode spends its next step on a reset, with a seed of that episode's own, and
Gymnasium never sees an end. So the serial and the parallel case are one code, any episode can be
played again by itself, and a restart needs its number and the actions taken in it, nothing else.
"""

import logging
import math
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

logger = logging.getLogger(__name__)

EXPLORE = 0x6578706C  # tells the seeds of exploring from those of episodes


class Episode(NamedTuple):
    """A finished episode; `success` is its `info["is_success"]`, None where the env has none."""

    env_index: int
    length: int
    return_: float
    success: bool | None


class Record(NamedTuple):
    """What arrives together, for N environments: see reward as earned by the action before it.

    The record after one with `is_last` has `is_first`, reward 0, and ignored its action.
    `is_terminal` is true termination only: a truncated episode has `is_last` and not `is_terminal`.
    """

    observation: Any
    reward: np.ndarray
    is_first: np.ndarray
    is_terminal: np.ndarray
    is_last: np.ndarray
    episodes: list[Episode]


def episode_seed(seed: int, env_index: int, episode_index: int) -> int:
    """The seed that one episode of one stream is reset with."""
    return int(np.random.SeedSequence([seed, env_index, episode_index]).generate_state(1)[0])


class EnvStreams:
    """`num_envs` endless streams of records from the environments that `make_env` builds.

    `parallel` runs each in a process of its own: a script that asks for it needs the usual
    `if __name__ == "__main__":`.
    """

    def __init__(
        self,
        make_env: Callable[[], gym.Env],
        num_envs: int,
        seed: int = 0,
        parallel: bool = False,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}: ask for at least 1 environment")
        if seed < 0:
            raise ValueError(f"seed is {seed}: give 0 or a positive number")
        self.num_envs, self.seed = num_envs, seed
        self._started = False
        self._vector = _vectorise(
            [partial(_Stream, make_env, seed, i) for i in range(num_envs)], parallel
        )
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space

    def reset(self) -> Record:
        """Begin the next episode of every stream: episode 0 on the first call."""
        observation, infos = self._vector.reset()
        self._started = True
        return _record(observation, np.zeros(self.num_envs), infos)

    def step(self, actions: Any) -> Record:
        """Act in every environment; one that ended ignores its action and begins anew."""
        self._require_started()
        # A copy: streams keep their rows.
        actions = np.array(actions, dtype=self.action_space.dtype)
        if actions.shape != (self.num_envs, *(self.action_space.shape or ())):
            raise ValueError(
                f"actions have shape {actions.shape}: give one for each of {self.num_envs} envs"
            )
        observation, reward, _, _, infos = self._vector.step(actions)
        return _record(observation, reward, infos)

    def explore(self) -> np.ndarray:
        """Actions of each environment's own `explore` policy; random ones where it has none."""
        self._require_started()
        return np.array(self._vector.call("explore"), dtype=self.action_space.dtype)

    def state(self) -> dict[str, Any]:
        """Where every stream is, as plain numbers, strings and arrays; see `restore`."""
        self._require_started()
        return {"seed": self.seed, "streams": list(self._vector.call("snapshot"))}

    def restore(self, state: Mapping[str, Any]) -> Record:
        """Go back to a `state` by playing its episodes again; returns the last record before it.

        That record lists no episodes: they were reported once already. An environment that plays
        differently this time is left with a warning: its episode ends here (`is_last`), unfinished.
        """
        saved = self._check(state)
        replayed = self._vector.call("restore", saved)
        self._started = True
        for index in np.flatnonzero(~np.array(replayed)):
            name = self._vector.call("name")[index]
            logger.warning(
                "env %d (%s) did not play its episode again as recorded, so it starts a new one: "
                "reset(seed=...) and the same actions must lead to the same observations",
                index,
                name,
            )
        return self._last_record(saved, np.array(replayed))

    def close(self) -> None:
        """Close the environments and their processes."""
        self._vector.close()

    def _check(self, state: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        saved, here = (len(state["streams"]), state["seed"]), (self.num_envs, self.seed)
        if saved != here:
            raise ValueError(
                f"the saved streams have num_envs, seed = {saved}, these have {here}: "
                "restore into streams with the saved settings"
            )
        return state["streams"]

    def _last_record(self, saved: Sequence[Mapping[str, Any]], replayed: np.ndarray) -> Record:
        space = self.observation_space
        empty = create_empty_array(space, self.num_envs)
        return Record(
            observation=concatenate(space, [stream["observation"] for stream in saved], empty),
            reward=np.array([stream["reward"] for stream in saved], np.float32),
            is_first=np.array([stream["length"] == 0 for stream in saved]),
            is_terminal=np.array([stream["is_terminal"] for stream in saved]),
            is_last=np.array([stream["pending_reset"] for stream in saved]) | ~replayed,
            episodes=[],
        )

    def _require_started(self) -> None:
        if not self._started:
            raise ValueError("the streams have not begun: call reset() or restore() first")


class _Stream(gym.Wrapper):
    """One environment that never ends: episode after episode, each with a seed of its own."""

    def __init__(self, make_env: Callable[[], gym.Env], seed: int, index: int) -> None:
        super().__init__(make_env())
        self._seed, self._index, self._episode = seed, index, -1
        self._begin(None)

    def _begin(self, observation: Any) -> None:
        self._observation, self._reward = observation, 0.0
        self._actions: list[Any] = []
        self._return = 0.0
        self._is_terminal = self._pending_reset = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode; the seed is the stream's, whatever is asked for."""
        self._episode += 1
        own_seed = episode_seed(self._seed, self._index, self._episode)
        observation, _ = self.env.reset(seed=own_seed, options=options)
        self._begin(observation)
        return observation, self._flags()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One record further; the ends of episodes are told in the info alone."""
        if self._pending_reset:
            observation, flags = self.reset()
            return observation, 0.0, False, False, flags
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._actions.append(action)
        self._observation, self._reward = observation, float(reward)
        self._return += self._reward
        self._is_terminal, self._pending_reset = bool(terminated), bool(terminated or truncated)
        return observation, self._reward, False, False, self._flags() | self._summary(info)

    def _flags(self) -> dict[str, Any]:
        return {
            "is_first": not self._actions,
            "is_terminal": self._is_terminal,
            "is_last": self._pending_reset,
        }

    def _summary(self, info: Mapping[str, Any]) -> dict[str, Any]:
        if not self._pending_reset:
            return {}
        success = bool(info["is_success"]) if "is_success" in info else None
        return {"episode": Episode(self._index, len(self._actions), self._return, success)}

    def explore(self) -> Any:
        """An action for data: drawn by stream, episode and step, so that a restart repeats it."""
        where = (EXPLORE, self._seed, self._index, self._episode, len(self._actions))
        rng = np.random.default_rng(where)
        # Its actions are those of the bare environment; a wrapper may have others.
        same = self.action_space == self.unwrapped.action_space
        if same and hasattr(self.unwrapped, "explore"):
            return self.unwrapped.explore(rng)  # pyright: ignore[reportAttributeAccessIssue]
        self.action_space.seed(int(rng.integers(2**31)))
        return self.action_space.sample()

    def name(self) -> str:
        """The env's id where it has one."""
        spec = self.unwrapped.spec
        return spec.id if spec is not None else type(self.unwrapped).__name__

    def snapshot(self) -> dict[str, Any]:
        """All that `restore` needs, and the last observation to check it by."""
        return {
            "episode": self._episode,
            "actions": np.array(self._actions, dtype=self.action_space.dtype),
            "pending_reset": self._pending_reset,
            "length": len(self._actions),
            "return": self._return,
            "reward": self._reward,
            "is_terminal": self._is_terminal,
            "observation": _plain(self._observation),
        }

    def restore(self, snapshots: Sequence[Mapping[str, Any]]) -> bool:
        """Play the saved episode again; False (and a new episode next) if it went another way."""
        saved = snapshots[self._index]
        self._episode = saved["episode"] - 1
        self.reset()
        for action in np.asarray(saved["actions"], dtype=self.action_space.dtype):
            if self._pending_reset:
                break
            self.step(action)
        replayed = self._agrees_with(saved)
        self._pending_reset = saved["pending_reset"] or not replayed
        return replayed

    def _agrees_with(self, saved: Mapping[str, Any]) -> bool:
        return (
            len(self._actions) == saved["length"]
            and self._is_terminal == saved["is_terminal"]
            and math.isclose(self._return, saved["return"], rel_tol=1e-5, abs_tol=1e-8)
            and _same(_plain(self._observation), saved["observation"])
        )


def _vectorise(
    streams: list[Callable[[], gym.Env]], parallel: bool
) -> SyncVectorEnv | AsyncVectorEnv:
    if not parallel:
        return SyncVectorEnv(streams, autoreset_mode=AutoresetMode.DISABLED)
    # Not fork: with torch's threads it can hang. No shared memory: it cannot hold spaces of others'
    # making, such as MiniGrid's mission.
    forkserver = "forkserver" in multiprocessing.get_all_start_methods()
    return AsyncVectorEnv(
        streams,
        shared_memory=False,
        context="forkserver" if forkserver else "spawn",
        autoreset_mode=AutoresetMode.DISABLED,
    )


def _record(observation: Any, reward: np.ndarray, infos: Mapping[str, Any]) -> Record:
    return Record(
        observation=observation,
        reward=reward.astype(np.float32),
        is_first=infos["is_first"],
        is_terminal=infos["is_terminal"],
        is_last=infos["is_last"],
        episodes=[episode for episode in infos.get("episode", ()) if episode is not None],
    )


def _plain(observation: Any) -> Any:
    """A copy of one observation made of dicts, lists, strings and arrays."""
    if isinstance(observation, Mapping):
        return {key: _plain(value) for key, value in observation.items()}
    if isinstance(observation, tuple | list):
        return [_plain(value) for value in observation]
    return observation if isinstance(observation, str) else np.array(observation)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, str):
        return one == other
    return np.shape(one) == np.shape(other) and np.allclose(one, other, equal_nan=True)
