"""What an agent knows at moments of its episodes, as numbers that a probe can read.

The agent looks on at every step; who acts is the agent itself, or the environment's explorer where
it learned no policy. What it knows is its features and everything else that it carries: leaves of
up to `MOST` numbers as they are, larger ones, such as the caches of attention, folded to as many by
random signs. That is a random projection: what a linear probe can read stays about as readable.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from agent.agent import Agent
from envs import EnvStreams
from envs.vector import Record
from runs.evaluation.mazes import Walk
from runs.evaluation.play import AgentPlayer
from worldmodel.types import Carry, tree_leaves, tree_map

MOST = 512  # numbers of a leaf
SEED = 0  # of the signs
LARGEST = 6e4  # notes are kept in half precision, as there are many


class Witness:
    """A player that also notes what its agent knows, with memory and without, now and then."""

    def __init__(self, agent: Agent, explores: bool, every: int) -> None:
        self.agent, self.explores, self.every = agent, explores, every
        self.player = AgentPlayer(agent)

    def begin(self, streams: EnvStreams) -> None:
        """Know nothing yet."""
        self.streams = streams
        self.player.begin(streams)
        self.notes: list[list[dict[int, tuple[np.ndarray, np.ndarray]]]]
        self.notes = [[{}] for _ in range(streams.num_envs)]
        self.over = np.zeros(streams.num_envs, np.bool_)

    def act(self, record: Record) -> np.ndarray:
        """Look, note what is known where it is time, and act."""
        action = self.player.act(record)
        if self.explores:
            action = self.streams.explore()
            taken = torch.as_tensor(action, device=self.agent.device)
            self.player.state = self.player.state._replace(prev_action=taken)
        for i in np.flatnonzero(record.is_first).tolist():
            self.notes[i][len(self.notes[i]) - (not self.over[i]) :] = [{}]
        due = np.flatnonzero(self._due(record))
        if len(due):
            self._note(record, due, action)
        self.over = record.is_last
        return action

    def _note(self, record: Record, due: np.ndarray, action: np.ndarray) -> None:
        rows = torch.as_tensor(due, device=self.agent.device)
        on, off = (
            self._known(tree_map(lambda leaf: leaf[rows], carry), due, action)
            .clamp(-LARGEST, LARGEST)
            .half()
            .cpu()
            .numpy()
            for carry in (self.player.state.carry, self._of_one_frame(record))
        )
        for k, i in enumerate(due.tolist()):
            notes, step = self.notes[i][-1], int(self.player.steps[i])
            notes[step] = on[k], off[k]
            for early in [one for one in notes if one < step / 2]:
                del notes[early]  # of the first half, however long the episode will be

    def _due(self, record: Record) -> np.ndarray:
        """In which environments it is time for a note."""
        return self.player.steps % self.every == 0

    def _known(self, carry: Carry, due: np.ndarray, action: np.ndarray) -> Tensor:
        """Of the environments that are `due`, (due, ...) numbers; `action` is what all do next."""
        return flatten(carry)

    @torch.no_grad()
    def _of_one_frame(self, record: Record) -> Carry:
        """What is known of the newest records with memory off."""
        model, count = self.agent.model, len(record.is_first)
        frames = self.agent.to_tensors(record.observation)
        first = torch.ones(count, 1, dtype=torch.bool, device=self.agent.device)
        _, carry, _ = model.observe(
            {name: value[:, None] for name, value in frames.items()},
            self.player.state.prev_action[:, None],
            first,
            model.initial(count),
            deterministic=True,
        )
        return carry

    def known(
        self, walks: Sequence[Walk]
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Times in the second half of each of the episodes; what was known then, on and off."""
        episodes = [iter(notes) for notes in self.notes]
        found = []
        for one in walks:
            noted = next(episodes[one.env])
            times = [step for step in sorted(noted) if step >= one.steps / 2] or [max(noted)]
            on, off = (np.stack([noted[step][k] for step in times]) for k in (0, 1))
            found.append((np.array(times), on, off))
        times, on, off = zip(*found, strict=True)
        return list(times), list(on), list(off)


def features_in(agent: Agent) -> int:
    """How many of the numbers that `flatten` gives are the features."""
    return agent.model.sizes.tokens * agent.model.sizes.width


def flatten(carry: Carry) -> Tensor:
    """Rows of numbers: the features, then the leaves of everything else that is carried."""
    leaves = [leaf.flatten(1) for leaf in tree_leaves(carry.backbone) if leaf.is_floating_point()]
    folded = [_fold(leaf, k) for k, leaf in enumerate(leaves)]
    return torch.cat([carry.features.flatten(1).float(), *folded], -1)


def _fold(leaf: Tensor, index: int) -> Tensor:
    """At most `MOST` numbers of each row."""
    leaf = leaf.float()
    if leaf.shape[1] <= MOST:
        return leaf
    places, signs = (part.to(leaf.device) for part in _signs(index, leaf.shape[1]))
    return leaf.new_zeros(len(leaf), MOST).index_add(1, places, leaf * signs)


@cache
def _signs(index: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(SEED + index)
    places = torch.randint(MOST, (count,), generator=generator)
    return places, 2.0 * torch.randint(2, (count,), generator=generator) - 1
