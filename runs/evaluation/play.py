"""Episodes by whoever acts: an agent with memory or without, an oracle, dice.

Memory off is the same agent with its state cleared before a record: what it does then, it does from
that frame on. Every environment plays a fixed share of the episodes, so that short ones, which end
sooner, are not counted more often. All players meet the same episodes.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

from agent.agent import Agent
from envs import EnvStreams, Episode
from envs.vector import Record
from runs.config import Config
from runs.evaluation.suite import Tell, quiet
from runs.train import make_streams
from worldmodel.types import tree_where

logger = logging.getLogger(__name__)

ENVS = 32
STREAM = 0x65766173  # tells the seeds of evaluation from those of training

Forget = Callable[[np.ndarray], np.ndarray]  # of steps since each episode began: which to clear


class Player(Protocol):
    """Whoever acts, in all environments at once."""

    def begin(self, streams: EnvStreams) -> None:
        """Get ready for these environments."""
        ...

    def act(self, record: Record) -> np.ndarray:
        """Actions on the newest records."""
        ...


def never(steps: np.ndarray) -> np.ndarray:
    """Memory on."""
    return np.zeros(len(steps), np.bool_)


def always(steps: np.ndarray) -> np.ndarray:
    """Memory off: cleared before every record."""
    return np.ones(len(steps), np.bool_)


class AgentPlayer:
    """An agent, greedy or sampled; `forget` says when its memory is cleared."""

    def __init__(self, agent: Agent, deterministic: bool = True, forget: Forget = never) -> None:
        self.agent, self.deterministic, self.forget = agent, deterministic, forget

    def begin(self, streams: EnvStreams) -> None:
        """Know nothing."""
        self.state = self.blank = self.agent.initial(streams.num_envs)
        self.steps = np.zeros(streams.num_envs, np.int64)

    def act(self, record: Record) -> np.ndarray:
        """Take in the records and act on them."""
        self.steps = np.where(record.is_first, 0, self.steps + 1)
        cleared = torch.as_tensor(self.forget(self.steps), device=self.agent.device)
        is_first = torch.as_tensor(record.is_first, device=self.agent.device) | cleared
        state = tree_where(cleared, self.blank, self.state)
        observation = self.agent.to_tensors(record.observation)
        action, self.state = self.agent.act(observation, state, is_first, self.deterministic)
        return action.cpu().numpy()


def player_of(agent: Any, deterministic: bool = True, forget: Forget = never) -> Player:
    """An agent as a player; one that is a player already has no memory to be cleared."""
    if isinstance(agent, RandomPlayer | OraclePlayer):
        return agent
    return AgentPlayer(agent, deterministic, forget)


class RandomPlayer:
    """Uniformly random actions."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def begin(self, streams: EnvStreams) -> None:
        """Seed the dice."""
        self.space, self.count = streams.action_space, streams.num_envs
        self.space.seed(self.seed)

    def act(self, record: Record) -> np.ndarray:
        """Throw them."""
        return np.array([self.space.sample() for _ in range(self.count)])


class OraclePlayer:
    """The environment's own oracle, which knows everything."""

    def begin(self, streams: EnvStreams) -> None:
        """Get to know the environments."""
        self.streams = streams

    def act(self, record: Record) -> np.ndarray:
        """Ask it."""
        return self.streams.oracle()


def play(
    player: Player,
    streams: EnvStreams,
    episodes: int,
    tell: Tell = quiet,
    what: str = "",
    watch: Callable[[Record, np.ndarray], None] = lambda record, action: None,
) -> list[Episode]:
    """Play so many episodes; each environment its share, the first ones one more.

    `watch` sees every record with the actions taken on it.
    """
    n = streams.num_envs
    left = np.array([episodes // n + (i < episodes % n) for i in range(n)])
    found: list[Episode] = []
    record = streams.reset()
    player.begin(streams)
    while left.any():
        action = player.act(record)
        watch(record, action)
        record = streams.step(action)
        for episode in record.episodes:
            if left[episode.env_index]:
                left[episode.env_index] -= 1
                found.append(episode)
                tell(what, len(found), episodes)
    return found


def play_new(
    player: Player,
    config: Config,
    episodes: int,
    seed: int,
    max_steps: int,
    tell: Tell = quiet,
    what: str = "",
) -> list[Episode]:
    """New episodes, the same for the same seed; cut, with a warning, after `max_steps`."""
    with new_streams(config, episodes, seed, max_steps) as streams, drawing(seed):
        found = play(player, streams, episodes, tell, what)
    if cut := sum(episode.length >= max_steps for episode in found):
        logger.warning("%d of %d episodes were cut after %d steps", cut, episodes, max_steps)
    return found


@contextmanager
def new_streams(
    config: Config,
    episodes: int,
    seed: int,
    max_steps: int | None = None,
    infos: Sequence[str] = (),
) -> Iterator[EnvStreams]:
    """Environments for so many episodes that no training run has played.

    Records bring the parts of each environment's info that `infos` names.
    """
    num_envs = min(episodes, ENVS)
    streams = make_streams(config, num_envs, evaluation_seed(seed), max_steps, infos)
    try:
        yield streams
    finally:
        streams.close()


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Random numbers of torch that `seed` decides; afterwards its state is as it was."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def evaluation_seed(seed: int) -> int:
    """A seed for streams of episodes that no training run has."""
    return int(np.random.SeedSequence([STREAM, seed]).generate_state(1, np.uint64)[0])
