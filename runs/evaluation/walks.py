"""Films of new episodes, and where each of their pictures was taken.

The suites `recall` and `dream` let a model watch the beginning of a film and compare what it dreams
after that with the rest.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agent.agent import Agent
from envs import EnvStreams
from envs.vector import Record
from runs.config import Config
from runs.evaluation.play import AgentPlayer, drawing, new_streams
from runs.evaluation.suite import Tell

POSE = ("agent_pos", "agent_dir")  # what an info must say
NEAR, ALIKE = 0.25, 15.0  # cells and degrees within which two pictures show the same


class Walks(NamedTuple):
    """Films of N episodes side by side, from their first records on."""

    frames: Tensor
    """(N, T, height, width, channels), in the units of the space."""
    prev_action: Tensor
    """(N, T, ...): what led to each."""
    counts: Bool[Tensor, "N T"]
    """False from where an episode has ended."""
    places: Float[Tensor, "N T 4"] | None
    """Position in cells and direction of view; None where the environment does not say."""


def walk(
    agent: Agent,
    config: Config,
    rows: int,
    length: int,
    seed: int,
    watched: int | None = None,
    tell: Tell | None = None,
) -> Walks:
    """New episodes, acted in as in training; the same for the same seed.

    With `watched`, the environment's explorer comes back to what it showed in so many records.
    """
    with new_streams(config, rows, seed, infos=POSE) as streams, drawing(seed):
        record, kept = streams.reset(), []
        guide = _Explorer(agent) if watched or config.model_only else _Actor(agent)
        guide.begin(streams)
        if watched:
            streams.retrace(watched)
        for step in range(length):
            kept.append((record, guide.prev_action))
            if tell:
                tell("walking", step + 1, length)
            record = streams.step(guide.act(record))
    return _film(agent, kept)


class _Explorer:
    """Acts by the environment's own explorer."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def begin(self, streams: EnvStreams) -> None:
        self.streams = streams
        self.prev_action = self.agent.initial(streams.num_envs).prev_action.cpu()

    def act(self, record: Record) -> np.ndarray:
        action = self.streams.explore()
        self.prev_action = torch.as_tensor(action)
        return action


class _Actor(AgentPlayer):
    """The agent, by sampled actions."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent, deterministic=False)

    @property
    def prev_action(self) -> Tensor:
        return self.state.prev_action.cpu()


def _film(agent: Agent, kept: list[tuple[Record, Tensor]]) -> Walks:
    records, actions = zip(*kept, strict=True)
    frames = [agent.to_tensors(r.observation)[agent.model.codec.names[0]].cpu() for r in records]
    first = torch.stack([torch.as_tensor(r.is_first) for r in records], 1)
    counts = first.cumsum(1) == 1
    told = [[_place(info) for info in record.infos] for record in records]
    places = None
    if all(place is not None for row in told for place in row):
        places = torch.as_tensor(np.array(told)).movedim(0, 1)
    return Walks(torch.stack(frames, 1), torch.stack(actions, 1), counts, places)


def _place(info: Mapping[str, Any]) -> list[float] | None:
    if not info.keys() >= set(POSE):
        return None
    return [float(part) for name in POSE for part in info[name]]


def ages(places: Float[Tensor, "N T 4"], watched: int) -> Int[Tensor, "N G"]:
    """How long ago each later frame's view was last watched, in frames; 0 where it never was."""
    later, seen = places[:, watched:, None], places[:, None, :watched]
    near = (later - seen)[..., :2].norm(dim=-1) <= NEAR
    alike = (later * seen)[..., 2:].sum(-1) >= np.cos(np.radians(ALIKE))
    age = torch.arange(watched, places.shape[1])[:, None] - torch.arange(watched)
    never = torch.full_like(age, places.shape[1] + 1)
    found = torch.where(near & alike, age, never).amin(-1)
    return torch.where(found > places.shape[1], 0, found)
