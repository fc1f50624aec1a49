"""The suite `dreamed`: how well a world model remembers while it dreams.

Tasks with a corridor show a cue and ask for it at the end. The model sees the first record, then
crosses in imagination, its own frames being all it sees, and is given an answer at the end: is the
reward that it predicts the one the environment would give? Unusual: the dream decides itself when
the end is reached (`free`), since a model that is not told its position cannot know it for sure.
Beside it: the same crossing cut after the true number of steps, where the real last frame is shown
(`led`); and one in which all frames are real and only the answer's reward is imagined (`seen`).
Each with memory and with memory off. A free dream that never arrives counts as wrong, and one that
arrives too soon has had less to keep: how many arrive, and after how many steps, stands beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agent.agent import Agent
from envs import Hallway, TMaze
from envs.corridor import FORWARD, Corridor
from envs.registry import make
from envs.stream import can
from runs.config import Config
from runs.evaluation.play import drawing, evaluation_seed
from runs.evaluation.statistics import mean_ci, rate_ci, written
from runs.evaluation.suite import Budget, Report, Sheet, Subject, Suite, Tell, needs_model
from worldmodel.types import Carry, tree_where

LONGEST = 1.5  # a dream that has not reached its end after so many times the true length is wrong
HELD = 2**16  # frames that are observed at a time
WAYS = {
    "seen": "all frames real, the answer's reward imagined",
    "led": "crossed in imagination, the real end shown",
    "free": "crossed in imagination, to the end it dreams",
}


def missing(subject: Subject) -> str:
    """What a subject lacks that has no corridor to cross."""
    if lacks := needs_model(subject):
        return lacks
    if is_crossable(subject.config):
        return ""
    return f"{subject.config.env} has no corridor to cross, as clew/TMaze-v0 and clew/Hallway-v0"


def is_crossable(config: Config) -> bool:
    """Whether a straight walk leads from the cue to the answer."""
    env = make(config.known_env, config.env_kwargs, config.wrappers)
    env.close()
    bare = env.unwrapped
    seen = env.observation_space == bare.observation_space  # whose channels are known
    return type(bare) in (TMaze, Hallway) and seen and can(env, "oracle")


class Crossings(NamedTuple):
    """Corridors side by side: the records of a walk straight through, and the right answers."""

    observation: Float[Tensor, "n T ..."]
    answer: Int[Tensor, " n"]


@dataclass(frozen=True)
class Task:
    """What the probe has to know of a task."""

    length: int
    answers: tuple[int, int]
    end: int
    """Channel of the observation that is set at the end."""


def measure(subject: Subject, budget: Budget, tell: Tell) -> Report:
    """All ways, with memory and with memory off."""
    config, found = subject.config, cross(subject.agent, subject.config, budget, tuple(WAYS), tell)
    return {"length": _length(config)} | found


def cross(
    agent: Agent, config: Config, budget: Budget, ways: Sequence[str], tell: Tell
) -> dict[str, Any]:
    """Share of right predictions in so many corridors, with memory and with memory off."""
    task, walks = _walk(config, budget.episodes, budget.seed)
    names, report = {"memory": "with memory", "memory_off": "memory off"}, {}
    for done, name in enumerate(names):
        probe = _Probe(agent, task, walks, forget=name == "memory_off")
        report[name] = {}
        for way in ways:
            report[name][way] = probe.cross(way, budget.seed)
            tell("crossings", done * len(ways) + len(report[name]), 2 * len(ways))
    return report


def _length(config: Config) -> int:
    env = make(config.known_env, config.env_kwargs, config.wrappers)
    env.close()
    return getattr(env.unwrapped, "length")  # noqa: B009 (of a Corridor, which is_crossable)


def _walk(config: Config, crossings: int, seed: int) -> tuple[Task, Crossings]:
    """Corridors of new episodes, walked through without a slip."""
    # All as long as the longest, where a task draws lengths of its own.
    fixed = {"shortest": None} if "shortest" in config.env_kwargs else {}
    env = make(config.known_env, config.env_kwargs | fixed, config.wrappers)
    corridor = env.unwrapped
    assert isinstance(corridor, Corridor)
    first = evaluation_seed(seed)
    walks, answers = [], []
    for i in range(crossings):
        walk = [env.reset(seed=(first + i) % 2**32)[0]]
        walk += [env.step(FORWARD)[0] for _ in range(corridor.length)]
        walks.append(np.stack(walk))
        answers.append(corridor.oracle())
    task = Task(corridor.length, corridor.answers, corridor.end)
    return task, Crossings(torch.from_numpy(np.stack(walks)), torch.tensor(answers))


class _Probe:
    """One model in all corridors at once."""

    def __init__(self, agent: Agent, task: Task, walks: Crossings, forget: bool) -> None:
        self.agent, self.model, self.task, self.forget = agent, agent.model, task, forget
        self.walks, self.rows = walks, len(walks.answer)
        self.name = self.model.codec.names[0]
        self.forward = self._encode(torch.full((self.rows,), FORWARD))

    @torch.no_grad()
    def cross(self, way: str, seed: int) -> dict[str, Any]:
        """One of WAYS; the same numbers whichever others are asked for."""
        with drawing(seed):
            return getattr(self, way)()

    def seen(self) -> dict[str, Any]:
        """All frames are real; only what the answer earns is imagined."""
        carry, held = self.model.initial(self.rows), max(1, HELD // self.rows)
        for start in range(0, self.task.length + 1, held):
            carry = self._observe(carry, slice(start, start + held))
        return rate_ci(self._right(carry).tolist())

    def led(self) -> dict[str, Any]:
        """The true number of steps is imagined, then the real last frame is shown."""
        carry = self._observe(self.model.initial(self.rows), slice(0, 1))
        for _ in range(self.task.length - 1):
            _, carry = self._imagine(carry, self.forward)
        return rate_ci(self._right(self._observe(carry, slice(-1, None))).tolist())

    def free(self) -> dict[str, Any]:
        """The dream goes on until it shows the end, each in its own time."""
        carry = self._observe(self.model.initial(self.rows), slice(0, 1))
        steps = torch.zeros(self.rows, dtype=torch.long)
        arrived = torch.zeros(self.rows, dtype=torch.bool)
        for _ in range(math.ceil(LONGEST * self.task.length)):
            latents, after = self._imagine(carry, self.forward)
            carry = tree_where(arrived, carry, after)
            steps += ~arrived
            arrived |= self.model.decode(latents)[self.name][:, self.task.end] > 0.5
            if arrived.all():
                break
        right = (self._right(carry) & arrived).tolist()
        report = {**rate_ci(right), "arrived": float(arrived.float().mean())}
        report["right_of_arrived"] = sum(right) / max(1, int(arrived.sum()))
        lengths = steps[arrived].double()
        if len(lengths):
            quantiles = lengths.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.double))
            report["steps"] = {**mean_ci(lengths.tolist()), "quantiles": quantiles.tolist()}
        return report

    def _right(self, carry: Carry) -> Bool[Tensor, " n"]:
        """Whether the predicted reward of an answer, drawn at random, says if it is the right one.

        One that cannot tell is right half the time, whatever it predicts.
        """
        tried = torch.tensor(self.task.answers)[torch.randint(0, 2, (self.rows,))]
        _, after = self._imagine(carry, self._encode(tried))
        reward = self.model.outcome(after.features).reward
        return (reward > 0.5) == (tried == self.walks.answer)

    def _imagine(self, carry: Carry, action: Tensor):
        return self.model.imagine_step(carry, action, forget=self.forget)

    def _observe(self, carry: Carry, frames: slice) -> Carry:
        """Show these records of the walk; only the very first one begins an episode."""
        part = self.walks.observation[:, frames]
        first = torch.full(part.shape[:2], self.forget)
        first[:, 0] |= frames.start == 0
        action = torch.full(part.shape[:2], FORWARD)
        return self.model.observe({self.name: part}, action, first, carry)[1]

    def _encode(self, action: Tensor) -> Tensor:
        return self.model.actions.encode(action)


def sheets(report: Report) -> list[Sheet]:
    """One table, a way a row."""
    rows = [
        (f"{way}: {what}", *(_cell(report[kind][way]) for kind in ("memory", "memory_off")))
        for way, what in WAYS.items()
    ]
    title = f"Predicted reward is right at the end of {report['length']:,} steps"
    return [Sheet(title, ("", "with memory", "memory off"), rows)]


def headline(report: Report) -> dict[str, str]:
    """What a comparison shows."""
    name = f"dreamed past {report['length']:,} steps, the real end shown"
    return {
        name: written(report["memory"]["led"]),
        f"{name}, memory off": written(report["memory_off"]["led"]),
    }


def _cell(found: dict[str, Any]) -> str:
    """A rate; of a free dream also how many arrived, and after how many steps of their own."""
    arrived = f", {found['arrived']:.0%} arrived" if "arrived" in found else ""
    after = f", half of them after {found['steps']['quantiles'][1]:.0f}" if "steps" in found else ""
    return written(found) + arrived + after


SUITE = Suite(
    name="dreamed",
    about="Whether the world model still knows a cue at the end of a corridor that it dreams.",
    missing=missing,
    measure=measure,
    sheets=sheets,
    headline=headline,
)
