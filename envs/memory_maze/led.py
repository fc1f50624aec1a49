"""Memory Maze for world models that are told where they are: one is led from cell to cell.

Actions name places, so nothing has to be found out from movements: what remains to be learned is
what each place looked like. (The models of Po et al. 2025, arXiv 2505.20171, were told positions.)
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.memory_maze import guide
from envs.memory_maze.env import draw_seed
from envs.memory_maze.motion import CELL, HEADING, X, Y
from envs.memory_maze.world import World


class LedMaze(gym.Env[np.ndarray, np.ndarray]):
    """Memory Maze from cell to cell, for world models alone: every action says where one is next.

    ## Description
    The mazes and the pictures of `clew/MemoryMaze`. One stands in the middle of a cell, facing +x,
    +y, -x or -y, and is put wherever the action says. What a place looked like when it was seen is
    what it looks like when it is seen again, so a model that remembers can draw it.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`: what is seen from there, 80° wide, with the border.

    ## Action Space
    `Box(-1, 1, (96,))`: the code of the place of the next picture, and that of the one after it,
    which is only announced. A place is a cell and a heading; near places have codes whose product
    is large (`guide.place_codes`). Other numbers mean the place with the nearest code. One who is
    sent into a wall stays where he is.

    ## Rewards
    None.

    ## Termination
    Never; truncated after as many steps as Memory Maze has.

    ## Info
    As in `clew/MemoryMaze`.

    ## Floor
    There is nothing to earn. `explore()` leads from cell to cell, to places drawn at random and at
    times back the way it came; after `retrace(watched)` it turns back after so many pictures.

    ## Arguments
    * `size`: "7x7" to "15x15"; set by the id.
    * `frame_size`: pixels along a side.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, size: str = "9x9", frame_size: int = 64) -> None:
        self._world = World(size, 1, frame_size)
        cells = self._world.size.cells
        self.observation_space = spaces.Box(0, 255, self._world.frame_shape, np.uint8)
        self.action_space = spaces.Box(-1, 1, (2 * guide.CODE,), np.float32)
        self._codes = guide.place_codes(cells)
        self._walk: list[guide.Place] = []
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new maze, and a new walk through it."""
        super().reset(seed=seed, options=options)
        world = self._world
        world.reset(0, draw_seed(self.np_random))
        x, y = (int(part) for part in world.bodies[0, [X, Y]] / CELL)
        start = (x, y, int(self.np_random.integers(4)))
        length = world.size.steps + 1
        self._walk = guide.walk(self._layout(avoid=True), start, length, self.np_random)
        self._steps = 0
        self._put(start)
        return world.frames()[0], self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Be put where the action says."""
        if self._over():
            raise ValueError("there is no episode to step in: call reset() first")
        if not self.action_space.contains(np.asarray(action, np.float32)):
            raise ValueError(f"action is {action!r}: give one of {self.action_space}")
        x, y, heading = self._decode(action[: guide.CODE])
        if guide.is_open(self._layout(), (x, y)):
            self._put((x, y, heading))
        self._steps += 1
        return self._world.frames()[0], 0.0, False, self._over(), self._info()

    def explore(self, rng: np.random.Generator) -> np.ndarray:
        """Where the walk leads next, and after that."""
        ahead = self._walk[self._steps + 1 : self._steps + 3]
        return np.concatenate((self._codes[ahead[0]], self._codes[ahead[-1]]))

    def retrace(self, watched: int, rng: np.random.Generator) -> None:
        """Lead back, after so many pictures of this episode, through all of them."""
        there = self._walk[:watched]
        back = guide.there_and_back(there)
        again = (there[1:] + back) * (len(self._walk) // (2 * watched) + 1)
        self._walk = (there + back + again)[: len(self._walk)]

    def ask(self, action: np.ndarray) -> np.ndarray:
        """Two actions for each place, (y, x, heading, 2, 96): after them one is to see it.

        The first leads where `action` does and announces the place, the second leads there. To be
        imagined, not to be taken: places may be far off, or in a wall.
        """
        there = self._codes.swapaxes(0, 1)
        next_place = np.broadcast_to(action[: guide.CODE], there.shape)
        first, second = (next_place, there), (there, there)
        return np.stack([np.concatenate(pair, -1) for pair in (first, second)], -2)

    def _decode(self, code: np.ndarray) -> guide.Place:
        distance = np.square(self._codes - code).sum(-1)
        x, y, heading = np.unravel_index(distance.argmin(), distance.shape)
        return int(x), int(y), int(heading)

    def _over(self) -> bool:
        return not self._walk or self._steps >= self._world.size.steps

    def _layout(self, avoid: bool = False) -> np.ndarray:
        """Where one can walk; without the cells of objects, if these are to be avoided."""
        layout = 1 - self._world.walls[0, 1:-1, 1:-1]
        if avoid:
            x, y = (self._world.targets[0] / CELL).astype(int).T
            layout[y, x] = 0
        return layout

    def _put(self, place: guide.Place) -> None:
        x, y, heading = place
        body = self._world.bodies[0]
        body[:] = 0
        body[X], body[Y], body[HEADING] = (x + 0.5) * CELL, (y + 0.5) * CELL, heading * np.pi / 2

    def _info(self) -> dict[str, Any]:
        info = {name: values[0] for name, values in self._world.info().items()}
        return info | {"target_index": int(info["target_index"])}
