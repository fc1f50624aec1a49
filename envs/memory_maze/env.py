"""Memory Maze for one agent: the card, the rules of Gymnasium, rendering, oracle and explorer."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.memory_maze.motion import CELL, HEADING, TURN, X, Y
from envs.memory_maze.oracle import Oracle, wander
from envs.memory_maze.tour import Tour
from envs.memory_maze.world import ACTIONS, VIEWS, World
from envs.window import Window, check_render_mode

PICTURE = 256  # pixels of each half of a rendered picture


class MemoryMaze(gym.Env[np.ndarray, np.int64]):
    """Memory Maze: find coloured objects again and again, and remember where they are.

    ## Description
    A random maze of rooms and corridors with coloured balls in some of the rooms. The border of the
    picture has the colour of the ball to touch next. Touching it earns 1, and another colour is
    asked for. Maze and balls stay as they are until the episode ends, so whoever remembers them
    walks straight to what is asked for. Sizes 7x7, 9x9, 11x11, 13x13 and 15x15 have 2, 3, 4, 5 and
    6 balls. The walls of each of 3 × 3 blocks have a colour of their own.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`: what the agent sees, 80° wide, with the border.

    ## Action Space
    `Discrete(6)`: 0 noop, 1 forward, 2 left, 3 right, 4 forward and left, 5 forward and right.
    Four actions a second. A ball rolls: at full speed half a metre (a quarter of a cell) an action,
    and 18° where it turns, with some run-up and run-out. Who pushes against a wall sticks to it and
    is turned to face it.

    ## Rewards
    1 for touching the ball asked for. Then one of the others is drawn, all with the same chance.

    ## Termination
    Never; truncated after 500, 1000, 2000, 3000 or 4000 steps.

    ## Info
    `maze_layout[y, x]` is 1 where one can walk; in its cells, from the lower left corner, are
    `agent_pos` and `targets_pos`; `agent_dir` is the direction of forward; `target_index` is the
    object asked for. None of it is for an agent that is to remember.

    ## Floor
    A random policy earns 0.2 an episode, whatever the size, for it mostly pushes against walls;
    `explore()` earns 1.4 to 2.1. `oracle()`, which knows everything and takes the shortest way,
    earns 17, 30, 51, 67 and 79 on average. Better steering is possible: the best means published
    are 34.8, 58.0, 74.5 and 87.7 from 9x9 on.

    ## Arguments
    * `size`: "7x7" to "15x15"; set by the id.
    * `frame_size`: pixels along a side.
    * `view`: "first-person", or "top-down" to look at the maze from above.
    * `info`: whether to fill `info`.
    * `render_mode`: None, "rgb_array" or "human": what the agent sees, large, beside the map.

    ## Source
    Pasukonis et al. 2022, "Evaluating Long-Term Memory in 3D Mazes". Different here: drawn by a
    raycaster, with textures of our own; the 7x7 maze is ours. `clew/MuJoCoMemoryMaze-*` is theirs.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 4}

    def __init__(
        self,
        size: str = "9x9",
        frame_size: int = 64,
        view: str = VIEWS[0],
        info: bool = True,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(self, render_mode)
        self._world = World(size, 1, frame_size, view)
        self._with_info, self.render_mode = info, render_mode
        self.observation_space = spaces.Box(0, 255, self._world.frame_shape, np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self._oracle, self._window = Oracle(), None
        self._tour: Tour | None = None
        self._playing = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new maze, with the agent at rest in one of its rooms."""
        super().reset(seed=seed, options=options)
        self._world.reset(0, draw_seed(self.np_random))
        self._playing, self._tour = True, None
        self._show()
        return self._world.frames()[0], self._info()

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act for a quarter of a second."""
        if not self._playing:
            raise ValueError("there is no episode to step in: call reset() first")
        if not self.action_space.contains(np.int64(action)):
            raise ValueError(f"action is {action!r}: give 0 to 5 ({', '.join(ACTIONS)})")
        reward = self._world.step(np.array([action]), np.array([True]))[0]
        truncated = bool(self._world.is_over()[0])
        self._playing = not truncated
        self._show()
        return self._world.frames()[0], float(reward), False, truncated, self._info()

    def oracle(self) -> int:
        """The action of one that knows everything: the shortest way to the object asked for."""
        world = self._world
        heading = world.bodies[0, HEADING]
        return self._oracle.act(
            1 - world.walls[0, 1:-1, 1:-1],
            world.bodies[0, [X, Y]] / CELL,
            np.array((np.cos(heading), np.sin(heading))),
            world.targets[0, world.asked[0]] / CELL,
        )

    def explore(self, rng: np.random.Generator) -> int:
        """An action that needs no memory: straight on, but before walls and at times it turns.

        After `retrace` it goes round and round instead.
        """
        body = self._world.bodies[0]
        if self._tour is not None:
            direction = np.array((np.cos(body[HEADING]), np.sin(body[HEADING])))
            return self._tour.act(body[[X, Y]] / CELL, direction)
        layout = 1 - self._world.walls[0, 1:-1, 1:-1]
        return wander(layout, body[[X, Y]] / CELL, body[HEADING], body[TURN], rng)

    def retrace(self, watched: int, rng: np.random.Generator) -> None:
        """Let `explore` walk a round of at most about so many steps, again and again."""
        layout = 1 - self._world.walls[0, 1:-1, 1:-1]
        position = self._world.bodies[0, [X, Y]] / CELL
        for x, y in (self._world.targets[0] / CELL).astype(int):
            layout[y, x] = (x, y) == (int(position[0]), int(position[1]))
        self._tour = Tour(layout, position, watched, rng)

    def render(self) -> Any:
        """What the agent sees, large, and the maze from above beside it."""
        if self.render_mode == "rgb_array":
            return self._picture()
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _picture(self) -> np.ndarray:
        picture = np.empty((2, 1, PICTURE, PICTURE, 3), np.uint8)
        self._world.look(picture[0])
        self._world.overlook(picture[1])
        return np.concatenate(picture[:, 0], axis=1)

    def _show(self) -> None:
        if self.render_mode == "human":
            self._window = self._window or Window(type(self).__name__, self.metadata["render_fps"])
            self._window.show(self._picture())

    def _info(self) -> dict[str, Any]:
        if not self._with_info:
            return {}
        info = {name: values[0] for name, values in self._world.info().items()}
        return info | {"target_index": int(info["target_index"])}


def draw_seed(rng: np.random.Generator) -> int:
    """What decides an episode."""
    return int(rng.integers(2**63))
