"""Episodes in mazes that say where things are: what suites about places measure.

What was seen is computed from geometry (`envs.memory_maze.sight`), so it is the same whoever looks,
and in our mazes the same as in the MuJoCo original. Lengths are cells.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from envs import EnvStreams
from envs.memory_maze import sight
from runs.config import Config
from runs.evaluation.play import Player, drawing, new_streams
from runs.evaluation.suite import Subject, Tell, quiet

NEEDED = ("maze_layout", "agent_pos", "agent_dir", "targets_pos", "target_index")


@dataclass(frozen=True)
class Walk:
    """One episode of T steps: where everything is, and where the agent was, T + 1 times."""

    layout: np.ndarray  # (rows, columns), 1 where one can walk
    targets: np.ndarray  # (objects, 2)
    positions: np.ndarray  # (T + 1, 2)
    directions: np.ndarray  # (T + 1, 2)
    asked: np.ndarray  # (T + 1): the object asked for
    rewards: np.ndarray  # (T + 1)
    actions: np.ndarray  # (T)
    env: int = 0  # which of the environments side by side

    @property
    def steps(self) -> int:
        """T."""
        return len(self.actions)

    @cached_property
    def objects_seen(self) -> np.ndarray:
        """Which objects are in sight, (T + 1, objects)."""
        return sight.objects_in_sight(self.layout, self.positions, self.directions, self.targets)

    @cached_property
    def cells_seen(self) -> np.ndarray:
        """Which cells are in sight, (T + 1, rows, columns)."""
        return sight.cells_in_sight(self.layout, self.positions, self.directions)


def needs_maze(subject: Subject) -> str:
    """What a subject's environment lacks that is no maze, or does not say where things are."""
    config = subject.config
    with new_streams(config, 1, seed=0, infos=NEEDED) as streams:
        lacks = [name for name in NEEDED if name not in streams.reset().infos[0]]
    if not lacks:
        return ""
    if config.env_kwargs.get("info") is False:
        return "its maze does not say where things are: evaluate it with --env-kwargs info=True"
    return f"{config.env} is no maze that says where things are: its info lacks {', '.join(lacks)}"


def walk(
    player: Player,
    config: Config,
    episodes: int,
    seed: int,
    max_steps: int,
    tell: Tell = quiet,
    what: str = "",
) -> list[Walk]:
    """New episodes by a player, environment by environment; all players walk the same mazes."""
    with new_streams(config, episodes, seed, max_steps, NEEDED) as streams, drawing(seed):
        return _walk(player, streams, episodes, tell, what)


def _walk(player: Player, streams: EnvStreams, episodes: int, tell: Tell, what: str) -> list[Walk]:
    n = streams.num_envs
    left = np.array([episodes // n + (i < episodes % n) for i in range(n)])
    found: list[list[Walk]] = [[] for _ in range(n)]
    moments: list[list[tuple[Any, ...]]] = [[] for _ in range(n)]
    record = streams.reset()
    player.begin(streams)
    while left.any():
        infos, action = record.infos, player.act(record)
        for i in np.flatnonzero(left).tolist():
            if record.is_first[i]:
                moments[i] = []
            moments[i].append((infos[i], record.reward[i], action[i]))
            if record.is_last[i]:
                found[i].append(_walk_of(moments[i], i))
                left[i] -= 1
                tell(what, episodes - int(left.sum()), episodes)
        if left.any():
            record = streams.step(action)
    return [walk for walks in found for walk in walks]


def _walk_of(moments: list[tuple[Any, ...]], env: int) -> Walk:
    infos, rewards, actions = zip(*moments, strict=True)
    first = infos[0]
    return Walk(
        layout=np.array(first["maze_layout"]),
        targets=np.array(first["targets_pos"], np.float64),
        positions=np.array([info["agent_pos"] for info in infos], np.float64),
        directions=np.array([info["agent_dir"] for info in infos], np.float64),
        asked=np.array([info["target_index"] for info in infos]),
        rewards=np.array(rewards),
        actions=np.array(actions[:-1]),
        env=env,
    )
