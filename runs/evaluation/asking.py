"""What a world model expects to see at every place of a maze, asked from where it is.

For environments whose actions name places (`ask`). The model imagines one step on, is told there
that it goes to some place next, and what it then expects there is its answer: the latents, each
with its probability, embedded as its own backbone would see them. Nothing is learned for that; a
model that remembers no view answers with what views are like.
"""

import numpy as np
import torch
from torch import Tensor

from agent.agent import Agent
from envs.vector import Record
from runs.evaluation.remembering import Witness
from worldmodel.types import Carry, tree_map

AT_ONCE = 81  # places: every one is asked of a copy of all that is carried


class Asker(Witness):
    """A player whose notes are its agent's answers, (rows, columns, headings, features)."""

    def _due(self, record: Record) -> np.ndarray:
        """Not at the beginning, when nothing is remembered yet, but at the end of every episode."""
        return super()._due(record) & ~record.is_first | record.is_last

    def _known(self, carry: Carry, due: np.ndarray, action: np.ndarray) -> Tensor:
        questions = torch.as_tensor(self.streams.ask(action)[due], device=self.agent.device)
        return torch.stack(
            [
                answers(self.agent, tree_map(lambda leaf, k=k: leaf[k : k + 1], carry), asked)
                for k, asked in enumerate(questions)
            ]
        )


@torch.no_grad()
def answers(agent: Agent, carry: Carry, questions: Tensor) -> Tensor:
    """Of one carry, (..., steps, action) questions: (..., features) answers.

    All steps but the last are imagined, the likeliest way; what the last leads to is expected.
    """
    each = questions.flatten(0, -3)
    found = [_expected(agent, carry, part) for part in each.split(AT_ONCE)]
    return torch.cat(found).unflatten(0, questions.shape[:-2])


def _expected(agent: Agent, carry: Carry, questions: Tensor) -> Tensor:
    model = agent.model
    known = tree_map(lambda leaf: leaf.expand(len(questions), *leaf.shape[1:]), carry)
    *first, last = (model.actions.encode(action) for action in questions.unbind(1))
    for action in first:
        _, known = model.imagine_step(known, action, deterministic=True)
    expected = model.transition(known.features, last).exp()
    return model.from_latents(expected.flatten(-2)).flatten(1)
