"""N copies of any Gymnasium environment as N endless streams of records.

Unusual: episodes turn inside each stream, so the serial and the parallel case are one code. An
environment that fails is begun anew with its next episode; the record after the failure is the
first of that, and of the one that was cut short only the end is missing.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from envs.stream import Episode, MakeEnv, Moment, Stream, episode_seed, plain
from envs.workers import PATIENCE, EnvFailure, Here, Worker

logger = logging.getLogger(__name__)

RESTARTS = 10  # failures of its environments that a run survives, from start (or resume) on


class EnvFailedError(RuntimeError):
    """An environment failed once too often; the message has the traceback of its last failure."""


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
    infos: Sequence[Mapping[str, Any]] = ()


class EnvStreams:
    """`num_envs` endless streams of records from the environments that `make_env` builds.

    `parallel` runs each in a process of its own, which may take `timeout` seconds for a step or a
    reset: a script that asks for it needs the usual `if __name__ == "__main__":`. The streams
    survive `max_restarts` failures of environments, which are counted in `restarts`. Records bring
    the parts of each environment's info that `infos` names, where it has them.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        num_envs: int,
        seed: int = 0,
        parallel: bool = False,
        timeout: float | None = None,
        max_restarts: int = RESTARTS,
        infos: Sequence[str] = (),
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}: ask for at least 1 environment")
        if seed < 0:
            raise ValueError(f"seed is {seed}: give 0 or a positive number")
        self.num_envs, self.seed = num_envs, seed
        self.max_restarts, self.restarts = max_restarts, 0
        self._last: list[Moment] = []
        make_stream = partial(Stream, make_env, seed, infos=tuple(infos))
        first = make_stream(0)  # what is wrong with the environment is told here, not in a process
        spaces = first.env.observation_space, first.env.action_space
        self.observation_space, self.action_space = spaces
        makers = [partial(make_stream, index, spaces=spaces) for index in range(num_envs)]
        self._places: Sequence[Here | Worker]
        if parallel:
            first.close()
            self._places = [Worker(maker, timeout) for maker in makers]
        else:
            self._places = [Here(makers[0], first), *map(Here, makers[1:])]

    def reset(self) -> Record:
        """Begin the next episode of every stream: episode 0 on the first call."""
        return self._record(self._moments("reset", [()] * self.num_envs))

    def step(self, actions: Any) -> Record:
        """Act in every environment; one that ended ignores its action and begins anew.

        Raises:
            EnvFailedError: where environments failed more than `max_restarts` times.
        """
        self._require_started()
        # A copy: streams keep their rows.
        actions = np.array(actions, dtype=self.action_space.dtype)
        if actions.shape != (self.num_envs, *(self.action_space.shape or ())):
            raise ValueError(
                f"actions have shape {actions.shape}: give one for each of {self.num_envs} envs"
            )
        return self._record(self._moments("step", [(action,) for action in actions]))

    def explore(self) -> np.ndarray:
        """Actions of each environment's own `explore` policy; random ones where it has none."""
        self._require_started()
        # One that failed is reset by its next step, whatever the action.
        actions = self._answers("explore", [()] * self.num_envs, self._sample)
        return np.array(actions, dtype=self.action_space.dtype)

    def has_retrace(self) -> bool:
        """Whether the environments can lead back to what was seen."""
        return all(self._all("has_retrace"))

    def retrace(self, watched: int | np.ndarray) -> None:
        """Let `explore` come back, in these episodes, to what it shows in so many records."""
        self._require_started()
        each = np.broadcast_to(watched, self.num_envs)
        self._all("retrace", [(int(records),) for records in each])

    def has_ask(self) -> bool:
        """Whether the actions of the environments can name any place."""
        return all(self._all("has_ask"))

    def ask(self, actions: np.ndarray) -> np.ndarray:
        """Actions that would lead to each place, (N, rows, columns, headings, steps, ...)."""
        self._require_started()
        return np.array(self._all("ask", [(action,) for action in actions]))

    def has_oracle(self) -> bool:
        """Whether the environments have an oracle."""
        return all(self._all("has_oracle"))

    def oracle(self) -> np.ndarray:
        """Actions of each environment's own oracle."""
        self._require_started()
        actions = self._answers("oracle", [()] * self.num_envs, self._sample)
        return np.array(actions, dtype=self.action_space.dtype)

    def render(self) -> list[Any]:
        """Each environment's picture of itself, as its render_mode has it."""
        return self._all("render")

    def seeds(self) -> list[int]:
        """The seed of each stream's current episode, by which it can be played again."""
        numbers = enumerate(moment.number for moment in self._last)
        return [episode_seed(self.seed, index, number) for index, number in numbers]

    def state(self) -> dict[str, Any]:
        """Where every stream is, as plain numbers, strings and arrays; see `restore`."""
        self._require_started()
        streams = self._answers("snapshot", [()] * self.num_envs, self._lost)
        streams = [saved or self._lost(index) for index, saved in enumerate(streams)]
        return {"seed": self.seed, "streams": streams}

    def restore(self, state: Mapping[str, Any]) -> Record:
        """Go back to a `state` by playing its episodes again; returns the last record before it.

        That record lists no episodes: they were reported once already. An environment that plays
        differently this time is left with a warning: its episode ends here (`is_last`), unfinished.
        """
        saved = self._check(state)
        replayed = np.array(self._all("restore", [(stream,) for stream in saved]))
        self._last = [_moment_of(one) for one in saved]
        for index in np.flatnonzero(~replayed):
            logger.warning(
                "env %d (%s) did not play its episode again as recorded, so it starts a new one: "
                "reset(seed=...) and the same actions must lead to the same observations",
                index,
                self._all("name")[index],
            )
        record = self._record(self._last)
        return record._replace(is_last=record.is_last | ~replayed)

    def close(self) -> None:
        """Close the environments and their processes."""
        for place in self._places:
            place.send("close")
        deadline = time.monotonic() + PATIENCE
        for place in self._places:
            place.close(deadline)
        self._places = []

    def _all(self, name: str, arguments: Sequence[tuple[Any, ...]] | None = None) -> list[Any]:
        """The answers of all streams, none of which may fail."""
        for index, place in enumerate(self._places):
            place.send(name, *(arguments[index] if arguments else ()))
        try:
            return [place.receive() for place in self._places]
        except EnvFailure as failure:
            raise _at_once(failure) from failure.__cause__

    def _moments(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Moment]:
        """The next record of all streams."""
        if self._last:
            self._last = self._answers(name, arguments, self._begun_anew)
        else:  # what fails at once would fail again
            self._last = self._all(name, arguments)
        return self._last

    def _answers(
        self, name: str, arguments: Sequence[tuple[Any, ...]], instead: Callable[[int], Any]
    ) -> list[Any]:
        """The answers of all streams; `instead` of those whose environment failed."""
        for place, given in zip(self._places, arguments, strict=True):
            place.send(name, *given)
        return [self._answer(index, instead) for index in range(self.num_envs)]

    def _answer(self, index: int, instead: Callable[[int], Any]) -> Any:
        try:
            return self._places[index].receive()
        except EnvFailure as failure:
            self._count(index, failure)
            self._places[index].restart(self._last[index].number + 1)
            return instead(index)

    def _begun_anew(self, index: int) -> Moment:
        self._last[index] = self._last[index]._replace(number=self._last[index].number + 1)
        self._places[index].send("reset")
        return self._answer(index, self._begun_anew)

    def _sample(self, index: int) -> Any:
        return self.action_space.sample()

    def _lost(self, index: int) -> dict[str, Any]:
        """What is left to save of a stream whose environment died between two steps."""
        last = self._last[index]
        return {
            "episode": last.number,
            "actions": np.zeros((0, *(self.action_space.shape or ())), self.action_space.dtype),
            "pending_reset": True,
            "length": int(not last.is_first),
            "return": last.reward,
            "reward": last.reward,
            "is_terminal": last.is_terminal,
            "observation": plain(last.observation),
        }

    def _count(self, index: int, failure: EnvFailure) -> None:
        if self.restarts >= self.max_restarts:
            reason = f"{str(failure).rstrip('.')}. {self.max_restarts} restarts are allowed"
            text = f"env {index} failed in episode {self._last[index].number}: {reason}"
            raise EnvFailedError(f"{text} (--env-restarts).\n{failure.trace}".rstrip()) from failure
        self.restarts += 1
        logger.warning(
            "env %d failed in episode %d and is begun anew (%d of %d times): %s",
            index,
            self._last[index].number,
            self.restarts,
            self.max_restarts,
            failure,
        )

    def _check(self, state: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        saved, here = (len(state["streams"]), state["seed"]), (self.num_envs, self.seed)
        if saved != here:
            raise ValueError(
                f"the saved streams have num_envs, seed = {saved}, these have {here}: "
                "restore into streams with the saved settings"
            )
        return state["streams"]

    def _record(self, moments: Sequence[Moment]) -> Record:
        return Record(
            observation=self._stack([moment.observation for moment in moments]),
            reward=np.array([moment.reward for moment in moments], np.float32),
            is_first=np.array([moment.is_first for moment in moments]),
            is_terminal=np.array([moment.is_terminal for moment in moments]),
            is_last=np.array([moment.is_last for moment in moments]),
            episodes=[moment.episode for moment in moments if moment.episode is not None],
            infos=[moment.info for moment in moments],
        )

    def _stack(self, observations: Sequence[Any]) -> Any:
        """Observations side by side, in arrays of their own."""
        space = self.observation_space
        return concatenate(space, observations, create_empty_array(space, self.num_envs))

    def _require_started(self) -> None:
        if not self._last:
            raise ValueError("the streams have not begun: call reset() or restore() first")


def _moment_of(saved: Mapping[str, Any]) -> Moment:
    """The last record of a stream that was saved."""
    return Moment(
        saved["observation"],
        saved["reward"],
        is_first=saved["length"] == 0,
        is_terminal=saved["is_terminal"],
        is_last=saved["pending_reset"],
        episode=None,
        number=saved["episode"],
    )


def _at_once(failure: EnvFailure) -> Exception:
    """A failure that no restart is tried for: the environment's own error, where it is known."""
    if isinstance(failure.__cause__, Exception) and failure.trace:
        return failure.__cause__
    return EnvFailedError(f"an environment failed as it began: {failure}\n{failure.trace}".rstrip())
