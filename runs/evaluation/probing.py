"""A small network that reads walls, objects and the place from features.

Unusual: it does not say what is in a cell of the maze, but draws maps around the agent and around
the start, and what it says of a cell is what the two have there. Where a cell lies in them is
given, as Memory Maze's own probes are given where the agent is: measured is whether the maze is
known, not whether a small network can turn pictures. What can be said from the poses alone is a
floor of its own, the probe of no features. The maps are sums of a few smooth ones, so that some
dozens of mazes are enough to learn from. Walls, objects and place are read by networks that share
nothing.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runs.evaluation.known import ROUND, Guess, Moments, prior

RATE, DECAY, BATCH = 2e-3, 0.1, 128
EPOCHS, PATIENCE = 60, 6
COMPONENTS = 512  # principal ones of the features that are read
FAR, RARE = 5.0, 0.05  # a feature counts up to so many deviations, and is not taken to vary less
WAVES = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # cells; half of the lengths that maps are made of
RANKS = {"walls": 48, "objects": 12}  # maps that are summed up
TASKS = ("walls", "objects", "place")


class Choice(NamedTuple):
    """What may be chosen of a network, by its loss on the validation episodes."""

    hidden: int  # units of its hidden layer; 0: it is linear
    dropout: float


class Batch(NamedTuple):
    """Moments and their features as tensors."""

    features: Tensor
    around: Tensor
    from_start: Tensor
    walls: Tensor
    objects: Tensor
    moved: Tensor


def _body(inputs: int, outputs: int, choice: Choice) -> nn.Sequential:
    """From features to numbers that are 0 before it has learned anything."""
    drop = nn.Dropout(choice.dropout)
    layers = [nn.Linear(inputs, choice.hidden), nn.SiLU(), drop] if choice.hidden else []
    head = nn.Linear(choice.hidden or inputs, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(drop, *layers, head)


class Maps(nn.Module):
    """Maps of several kinds around the agent and around the start, read at the cells."""

    waves: Tensor

    def __init__(self, inputs: int, kinds: int, rank: int, choice: Choice) -> None:
        super().__init__()
        self.shape = (2, kinds, rank)
        self.body = _body(inputs, 2 * kinds * rank, choice)
        self.register_buffer("waves", _waves(), persistent=False)
        width = self.waves.shape[1]
        self.bases = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 96), nn.SiLU(), nn.Linear(96, rank)) for _ in range(2)
        )

    def forward(self, batch: Batch) -> Tensor:
        """What is added to the logits (M, kinds, cells)."""
        parts = self.body(batch.features).unflatten(-1, self.shape).unbind(1)
        places = batch.around, batch.from_start
        drawn = [part @ basis(self.waves).T for part, basis in zip(parts, self.bases, strict=True)]
        return _sample(drawn[0], places[0]) + _sample(drawn[1], places[1])


def _waves() -> Tensor:
    """Coordinates, their squares and waves at each point of a map, row by row."""
    line = (torch.arange(ROUND) - ROUND // 2).float()
    y, x = (part.flatten() for part in torch.meshgrid(line, line, indexing="ij"))
    half = ROUND // 2
    flat = torch.stack([x / half, y / half, (x / half) ** 2, (y / half) ** 2, x * y / half**2], -1)
    turns = torch.pi * torch.stack([x, y], -1)[:, None] / torch.tensor(WAVES)[:, None]
    return torch.cat([flat, turns.flatten(1).sin(), turns.flatten(1).cos()], -1)


def _sample(maps: Tensor, places: Tensor) -> Tensor:
    """Maps (M, kinds, points) around the origin, at places (M, cells, 2) between their points."""
    grid = places[:, :, None] / (ROUND // 2)
    maps = maps.unflatten(-1, (ROUND, ROUND))
    found = F.grid_sample(maps, grid, padding_mode="border", align_corners=True)
    return found.squeeze(-1)


class Reader:
    """A probe of some features (M, n): learns from episodes, stops and chooses by others."""

    tasks: ClassVar[Sequence[str]] = TASKS
    choices: ClassVar[Sequence[Choice]] = (Choice(0, 0.0), Choice(128, 0.3))
    components = COMPONENTS

    def __init__(self, features: np.ndarray, moments: Moments) -> None:
        self.prior, self.usual = prior(moments)
        self.reach = float(np.sqrt(np.square(moments.moved).sum(-1).mean())) + 1e-3
        self._learn_scale(features)
        self.train = self._batch(features, moments)
        self.objects = moments.objects.shape[1]
        self.best = {task: float("inf") for task in self.tasks}
        self.chosen: dict[str, tuple[Choice, nn.Module]] = {}

    def _learn_scale(self, features: np.ndarray) -> None:
        """What is usual, and the principal axes of features that are many."""
        features = features.astype(np.float32)
        self.mean, self.scale = features.mean(0), np.maximum(features.std(0), RARE)
        self.axes = None
        if features.shape[1] > self.components:
            with torch.random.fork_rng([]):
                torch.manual_seed(0)
                count = min(self.components, len(features))
                self.axes = torch.svd_lowrank(self._standard(features), count)[2]

    def _prepared(self, features: np.ndarray) -> Tensor:
        """As networks take them in."""
        return self._standard(features)

    def _standard(self, features: np.ndarray) -> Tensor:
        """Along the axes, in units of what is usual; features are the last dimension."""
        standard = ((features.astype(np.float32) - self.mean) / self.scale).clip(-FAR, FAR)
        read = torch.as_tensor(standard, dtype=torch.float32)
        return read if self.axes is None else read @ self.axes

    def _batch(self, features: np.ndarray, moments: Moments) -> Batch:
        parts = (moments.around, moments.from_start, moments.walls)
        around, from_start, walls = (torch.as_tensor(part, dtype=torch.float32) for part in parts)
        moved = torch.as_tensor(moments.moved / self.reach, dtype=torch.float32)
        objects = torch.as_tensor(moments.objects)
        return Batch(self._prepared(features), around, from_start, walls, objects, moved)

    def fit(self, features: np.ndarray, moments: Moments, seed: int = 0) -> None:
        """Learn, with each choice; keep what is best on these other episodes."""
        valid = self._batch(features, moments)
        for choice in self.choices:
            with torch.random.fork_rng([]):
                torch.manual_seed(seed)
                for task in self.tasks:
                    self._learn(task, choice, valid)

    def _learn(self, task: str, choice: Choice, valid: Batch) -> None:
        part = self._network(task, choice)
        optimiser = torch.optim.AdamW(part.parameters(), RATE, weight_decay=DECAY)
        least, waited = float("inf"), 0
        for epoch in range(EPOCHS + 1):  # the first one is as it begins
            for rows in torch.randperm(len(self.train.features)).split(BATCH) if epoch else ():
                optimiser.zero_grad()
                batch = Batch(*(one[rows] for one in self.train))
                self._loss(task, part.train(), batch).backward()
                optimiser.step()
            with torch.no_grad():
                loss = float(self._loss(task, part.eval(), valid))
            waited = 0 if loss < least else waited + 1
            least = min(least, loss)
            if loss < self.best[task]:
                self.best[task] = loss
                kept = self._network(task, choice)
                kept.load_state_dict(part.state_dict())
                self.chosen[task] = choice, kept.eval()
            if waited == PATIENCE:
                return

    def _network(self, task: str, choice: Choice) -> nn.Module:
        inputs = self.train.features.shape[1]
        if task == "place":
            return _body(inputs, 2, choice)
        return Maps(inputs, self._kinds(task), RANKS[task], choice)

    def _kinds(self, task: str) -> int:
        return self.objects if task == "objects" else 1

    def _loss(self, task: str, part: nn.Module, batch: Batch) -> Tensor:
        if task == "place":
            return (part(batch.features) - batch.moved).square().sum(-1).mean()
        logits = self._logits(task, part, batch)
        if task == "objects":
            return F.cross_entropy(logits.flatten(0, 1), batch.objects.flatten())
        balance = torch.tensor(-self.usual).exp()  # as if there were as many walls as free cells
        return F.binary_cross_entropy_with_logits(logits[:, 0], batch.walls, pos_weight=balance)

    def _logits(self, task: str, part: nn.Module, batch: Batch) -> Tensor:
        before = self.prior[1:] if task == "objects" else self.prior[:1]
        return torch.as_tensor(before, dtype=torch.float32) + part(batch)

    @torch.no_grad()
    def guess(self, features: np.ndarray, moments: Moments) -> Guess:
        """What the best networks say of any moments."""
        batch = self._batch(features, moments)
        walls, objects = (
            self._logits(task, self.chosen[task][1], batch) for task in ("walls", "objects")
        )
        places = objects.double().softmax(-1).numpy() @ moments.centres
        walls = walls[:, 0].double().numpy()
        if "place" not in self.tasks:
            return Guess(walls, self.usual, places)
        moved = self.chosen["place"][1](batch.features).double().numpy() * self.reach
        return Guess(walls, self.usual, places, moved)
