"""How well a world model remembers while it dreams: `clew bench memory RUN`.

Tasks with a corridor show a cue and ask for it at the end. The model sees the first record, then
crosses in imagination, its own frames being all it sees, and is given an answer at the end: is the
reward that it predicts the one the environment would give? Unusual: the dream decides itself when
the end is reached (`free`), since a model that is not told its position cannot know it for sure.
Beside it: the same crossing cut after the true number of steps, where the real last frame is shown
(`led`); and one in which all frames are real and only the answer's reward is imagined (`seen`).
Each with memory and with memory off. A free dream that never arrives counts as wrong, and one that
arrives too soon has had less to keep: how many arrive, and after how many steps, stands beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agent.agent import Agent
from envs.corridor import FORWARD, Corridor
from envs.registry import make
from runs import folder
from runs.config import Config
from runs.evaluate import evaluation_seed, load_run, mean_ci, rate_ci
from worldmodel.types import Carry, tree_where

LONGEST = 3  # a dream that has not reached its end after so many times the true length is wrong
HELD = 2**16  # frames that are observed at a time
WAYS = {
    "seen": "all frames real, the answer's reward imagined",
    "led": "crossed in imagination, the real end shown",
    "free": "crossed in imagination, to the end it dreams",
}


def measure_run(
    run: Path,
    crossings: int = 1000,
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    ways: Sequence[str] = tuple(WAYS),
) -> dict[str, Any]:
    """Measure a run's newest model; the report, which is also evaluation/memory-LENGTH.json.

    `env_kwargs` change the task, for example its length beyond that of training.

    Raises:
        RefusalError: where the folder is not a run, or its task has no corridor.
    """
    with folder.refusing():
        agent, config = load_run(run, "cpu")
        config = replace(config, env_kwargs=config.env_kwargs | (env_kwargs or {}))
        report = measure(agent, config, crossings, seed, ways)
    path = run / "evaluation" / f"memory-{'-'.join(_marks(report, env_kwargs or {}))}.json"
    folder.write_json(path, report)
    return report | {"written": str(path)}


def _marks(report: dict[str, Any], env_kwargs: dict[str, Any]) -> list[str]:
    """What tells a report from others: its length, other changes to the task, ways left out.

    Not how many crossings: more of them are the better report.
    """
    length = report["length"]
    changes = [f"{k}={v}" for k, v in sorted(env_kwargs.items()) if v != length]
    ways = list(report["memory"])
    return [str(length), *changes, *(ways if len(ways) < len(WAYS) else [])]


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


def measure(
    agent: Agent,
    config: Config,
    crossings: int,
    seed: int = 0,
    ways: Sequence[str] = tuple(WAYS),
) -> dict[str, Any]:
    """Share of right predictions in so many crossings, with memory and with memory off.

    Raises:
        ValueError: where the environment is none with a corridor, or a way is not one of WAYS.
    """
    if unknown := set(ways) - WAYS.keys():
        raise ValueError(f"There is no way {min(unknown)!r} to cross. Ways: {', '.join(WAYS)}.")
    if not ways:
        raise ValueError(f"ways is empty: name one or more of {', '.join(WAYS)}.")
    task, walks = _walk(config, crossings, seed)
    report: dict[str, Any] = {"env": config.env, "crossings": crossings, "seed": seed}
    report |= {"env_kwargs": config.env_kwargs, "length": task.length}
    for name, forget in (("memory", False), ("memory_off", True)):
        probe = _Probe(agent, task, walks, forget)
        report[name] = {way: probe.cross(way, seed) for way in ways}
    return report


def _walk(config: Config, crossings: int, seed: int) -> tuple[Task, Crossings]:
    """Corridors of new episodes, walked through without a slip."""
    # All as long as the longest, where a task draws lengths of its own.
    fixed = {"shortest": None} if "shortest" in config.env_kwargs else {}
    env = make(config.known_env, config.env_kwargs | fixed, config.wrappers)
    corridor = env.unwrapped
    if not isinstance(corridor, Corridor):
        raise ValueError(
            f"{config.env} has no corridor to cross: memory is measured on clew/TMaze-v0 and "
            "clew/Hallway-v0."
        )
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
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
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
        for _ in range(LONGEST * self.task.length):
            imagined, after = self._imagine(carry, self.forward)
            carry = tree_where(arrived, carry, after)
            steps += ~arrived
            arrived |= self.model.decode(imagined.latents)[self.name][:, self.task.end] > 0.5
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
        """Whether the predicted rewards of both answers say which one is right.

        The answer tried is drawn at random; its reward is right on the same side of 1/2.
        """
        tried = torch.tensor(self.task.answers)[torch.randint(0, 2, (self.rows,))]
        imagined, _ = self._imagine(carry, self._encode(tried))
        return (imagined.reward > 0.5) == (tried == self.walks.answer)

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


def show(report: dict[str, Any], console: Console) -> None:
    """Print a report as a table."""
    title = f"{report['env']}, {report['length']} steps: {report['crossings']} crossings"
    table = Table("predicted reward is right", "with memory", "memory off", title=title)
    for way, what in WAYS.items():
        if way not in report["memory"]:
            continue
        cells = []
        for kind in ("memory", "memory_off"):
            found = report[kind][way]
            low, high = found["ci95"]
            arrived = f", {found['arrived']:.0%} arrived" if "arrived" in found else ""
            cells.append(f"{found['rate']:.3f} [{low:.3f}, {high:.3f}]{arrived}")
        table.add_row(f"{way}: {what}", *cells)
    console.print(table)
