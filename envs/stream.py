"""One environment that never ends: episode after episode, each with a seed of its own.

Unusual: a stream whose last record ended an episode spends its next step on a reset. So any episode
can be played again by itself, and a restart needs its number and the actions taken in it, nothing
else.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from envs.contract import ContractError, name_of

EXPLORE = 0x6578706C  # tells the seeds of exploring from those of episodes

MakeEnv = Callable[[], gym.Env]
Spaces = tuple[gym.Space, gym.Space]  # of what is seen, and of what can be done


class Episode(NamedTuple):
    """A finished episode; `success` is its `info["is_success"]`, None where the env has none."""

    env_index: int
    length: int
    return_: float
    success: bool | None


class Moment(NamedTuple):
    """One record of one stream, in the `number`th of its episodes; `episode` where it ended one."""

    observation: Any
    reward: float
    is_first: bool
    is_terminal: bool
    is_last: bool
    episode: Episode | None
    number: int
    info: Mapping[str, Any] = MappingProxyType({})


def episode_seed(seed: int, env_index: int, episode_index: int) -> int:
    """The seed that one episode of one stream is reset with."""
    return int(np.random.SeedSequence([seed, env_index, episode_index]).generate_state(1)[0])


class Stream:
    """The endless stream of one environment; its next episode is number `first`.

    `infos` names the parts of the environment's info that its records bring along. `spaces` are
    those of the environments beside it.

    Raises:
        ContractError: where the environment has other spaces than these.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        seed: int,
        index: int,
        first: int = 0,
        infos: Sequence[str] = (),
        spaces: Spaces | None = None,
    ) -> None:
        self.env, self._infos = make_env(), infos
        _check_spaces(self.env, spaces)
        self._seed, self._index, self._episode = seed, index, first - 1
        self._begin(None)
        self._pending_reset = True

    def _begin(self, observation: Any) -> None:
        self._observation, self._reward = observation, 0.0
        self._actions: list[Any] = []
        self._return = 0.0
        self._is_terminal = self._pending_reset = False

    def reset(self) -> Moment:
        """Begin the next episode."""
        self._episode += 1
        own_seed = episode_seed(self._seed, self._index, self._episode)
        observation, info = self.env.reset(seed=own_seed)
        self._begin(observation)
        return self._moment(info)

    def step(self, action: Any) -> Moment:
        """One record further."""
        if self._pending_reset:
            return self.reset()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._actions.append(action)
        self._observation, self._reward = observation, float(reward)
        self._return += self._reward
        self._is_terminal, self._pending_reset = bool(terminated), bool(terminated or truncated)
        return self._moment(info)

    def _moment(self, info: Mapping[str, Any]) -> Moment:
        return Moment(
            self._observation,
            self._reward,
            is_first=not self._actions,
            is_terminal=self._is_terminal,
            is_last=self._pending_reset,
            episode=self._summary(info) if self._pending_reset else None,
            number=self._episode,
            info={name: info[name] for name in self._infos if name in info},
        )

    def _summary(self, info: Mapping[str, Any]) -> Episode:
        told = info.get("is_success")
        success = None if told is None else bool(told)
        return Episode(self._index, len(self._actions), self._return, success)

    def explore(self) -> Any:
        """An action for data: drawn by stream, episode and step, so that a restart repeats it."""
        where = (EXPLORE, self._seed, self._index, self._episode, len(self._actions))
        rng = np.random.default_rng(where)
        if can(self.env, "explore"):
            return self.env.unwrapped.explore(rng)  # pyright: ignore[reportAttributeAccessIssue]
        self.env.action_space.seed(int(rng.integers(2**31)))
        return self.env.action_space.sample()

    def has_retrace(self) -> bool:
        """Whether the environment's explorer can be asked to come back to what it saw."""
        return can(self.env, "retrace")

    def retrace(self, watched: int) -> None:
        """Let it come back, in this episode, to what `explore` leads to in so many records."""
        where = (EXPLORE, self._seed, self._index, self._episode, watched)
        self.env.unwrapped.retrace(watched, np.random.default_rng(where))  # pyright: ignore[reportAttributeAccessIssue]

    def has_ask(self) -> bool:
        """Whether the environment's actions can name any place."""
        return can(self.env, "ask")

    def ask(self, action: Any) -> np.ndarray:
        """Actions that, taken instead of this one, would lead to each place."""
        return self.env.unwrapped.ask(action)  # pyright: ignore[reportAttributeAccessIssue]

    def has_oracle(self) -> bool:
        """Whether the environment can say what one that knows everything would do."""
        return can(self.env, "oracle")

    def oracle(self) -> Any:
        """What the environment's own oracle would do now."""
        return self.env.unwrapped.oracle()  # pyright: ignore[reportAttributeAccessIssue]

    def render(self) -> Any:
        """The environment's picture of itself."""
        return self.env.render()

    def name(self) -> str:
        """The env's id where it has one."""
        return name_of(self.env)

    def snapshot(self) -> dict[str, Any] | None:
        """All that `restore` needs, and the last observation to check it by; None before any."""
        if self._observation is None:
            return None
        return {
            "episode": self._episode,
            "actions": np.array(self._actions, dtype=self.env.action_space.dtype),
            "pending_reset": self._pending_reset,
            "length": len(self._actions),
            "return": self._return,
            "reward": self._reward,
            "is_terminal": self._is_terminal,
            "observation": plain(self._observation),
        }

    def restore(self, saved: Mapping[str, Any]) -> bool:
        """Play the saved episode again; False (and a new episode next) if it went another way."""
        self._episode = saved["episode"] - 1
        self.reset()
        for action in np.asarray(saved["actions"], dtype=self.env.action_space.dtype):
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
            and same(plain(self._observation), saved["observation"])
        )

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def can(env: gym.Env, what: str) -> bool:
    """Whether the bare environment has this method, and no wrapper gives actions other meanings."""
    bare, outer = env.unwrapped, env
    while isinstance(outer, gym.Wrapper):
        if isinstance(outer, gym.ActionWrapper):
            return False
        outer = outer.env
    return hasattr(bare, what) and env.action_space == bare.action_space


def _check_spaces(env: gym.Env, spaces: Spaces | None) -> None:
    for of, space in zip(("observation", "action"), spaces or (), strict=False):
        own = getattr(env, f"{of}_space")
        if own != space:
            env.close()
            raise ContractError(
                f"{name_of(env)}: its {of} space is {own}, and was {space} when it was made before:"
                " every copy must have the same, so draw none of it at random."
            )


def plain(observation: Any) -> Any:
    """A copy of one observation made of dicts, lists, strings and arrays."""
    if isinstance(observation, Mapping):
        return {key: plain(value) for key, value in observation.items()}
    if isinstance(observation, tuple | list):
        return [plain(value) for value in observation]
    return observation if isinstance(observation, str) else np.array(observation)


def same(one: Any, other: Any) -> bool:
    """Whether two observations in the form of `plain` are equal, up to rounding."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, str):
        return one == other
    if np.asarray(one).dtype.kind not in "biufc" or np.asarray(other).dtype.kind not in "biufc":
        return np.array_equal(one, other)
    return np.shape(one) == np.shape(other) and np.allclose(one, other, equal_nan=True)
