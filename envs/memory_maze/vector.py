"""Many mazes in one call, behind Gymnasium's interface for vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.memory_maze.env import draw_seed
from envs.memory_maze.world import ACTIONS, VIEWS, World
from envs.window import check_render_mode


class MemoryMazeVector(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` Memory Mazes that are stepped and drawn together; see `MemoryMaze` for the task.

    Maze i is the single environment with seed + i, frame for frame. A maze whose episode has ended
    begins a new one in the next step, whose action it ignores (`AutoresetMode.NEXT_STEP`).
    Observations are new arrays, `copy=False` writes them into the same one again and again.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        size: str = "9x9",
        frame_size: int = 64,
        view: str = VIEWS[0],
        info: bool = True,
        copy: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}: ask for at least 1 maze")
        check_render_mode(self, render_mode)
        self._world = World(size, num_envs, frame_size, view)
        self.num_envs, self.render_mode, self._with_info = num_envs, render_mode, info
        self.single_observation_space = spaces.Box(0, 255, self._world.frame_shape, np.uint8)
        self.single_action_space = spaces.Discrete(len(ACTIONS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._frames = None if copy else np.empty(self.observation_space.shape or (), np.uint8)
        self._generators: list[np.random.Generator] = []
        self._over = np.zeros(num_envs, np.bool_)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """New mazes everywhere; maze i gets seed + i, or the i-th of several seeds."""
        self._seed(seed)
        self._begin(np.ones(self.num_envs, np.bool_))
        return self._world.frames(self._frames), self._info()

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Act in every maze, or begin it anew where its episode has ended."""
        if not self._generators:
            raise ValueError("there are no episodes to step in: call reset() first")
        actions = np.asarray(actions)
        if not self.action_space.contains(actions.astype(np.int64)):
            raise ValueError(
                f"actions are {actions!r}: give {self.num_envs} numbers from 0 to 5 "
                f"({', '.join(ACTIONS)})"
            )
        again = self._over
        rewards = self._world.step(actions.astype(np.int64), ~again)
        self._begin(again)
        self._over = self._world.is_over()
        terminated = np.zeros(self.num_envs, np.bool_)
        observations = self._world.frames(self._frames)
        return observations, rewards, terminated, self._over.copy(), self._info()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """What each agent sees, large."""
        if self.render_mode is None:
            return None
        large = np.empty((self.num_envs, 256, 256, 3), np.uint8)
        self._world.look(large)
        return tuple(large)

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        if seed is None and self._generators:
            return
        seeds = [seed] * self.num_envs if seed is None else seed
        if isinstance(seeds, int | np.integer):
            seeds = [int(seeds) + i for i in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"there are {len(seeds)} seeds for {self.num_envs} mazes")
        old = self._generators or [None] * self.num_envs
        self._generators = [
            generator if one is None and generator is not None else np_random(one)[0]
            for one, generator in zip(seeds, old, strict=True)
        ]

    def _begin(self, where: np.ndarray) -> None:
        for index in np.flatnonzero(where).tolist():
            self._world.reset(index, draw_seed(self._generators[index]))

    def _info(self) -> dict[str, Any]:
        if not self._with_info:
            return {}
        info, everywhere = self._world.info(), np.ones(self.num_envs, np.bool_)
        return info | {f"_{name}": everywhere for name in info}
