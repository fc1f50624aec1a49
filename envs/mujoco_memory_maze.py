"""The original Memory Maze, drawn and moved by MuJoCo, behind the same interface as ours.

Unusual: the package `memory_maze` imports the dead `gym` on its own import. Its tasks do not need
it, so they are imported past it: a bare module with the package's path stands in its place.
"""

import importlib
import importlib.util
import os
import sys
import types
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.memory_maze.oracle import Oracle, wander
from envs.memory_maze.world import ACTIONS, SIZES, VIEWS, check_arguments
from envs.window import Window, check_render_mode

PACKAGES = ("memory_maze", "dm_control", "labmaze", "mujoco")
INSTALL = "pip install 'clew[mujoco]'"
STEPS_A_SECOND = 4
MAZE = (
    *("height", "width", "max_rooms", "max_variations", "room_min_size", "room_max_size"),
    *("spawns_per_room", "objects_per_room"),
)  # what a generator of mazes tells of its arguments; `simplify` it keeps to itself


class MuJoCoMemoryMaze(gym.Env[np.ndarray, np.int64]):
    """The original Memory Maze: the task of `clew/MemoryMaze-*`, some hundred times slower.

    ## Description
    See `MemoryMaze`, which is modelled on it: the same observations, actions, rewards, ends and
    info, so that agents and policies move between the two. Sizes 9x9, 11x11, 13x13 and 15x15.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`: what the agent sees, 80° wide, with the border.

    ## Action Space
    `Discrete(6)`: 0 noop, 1 forward, 2 left, 3 right, 4 forward and left, 5 forward and right.

    ## Rewards
    1 for touching the ball asked for.

    ## Termination
    Never; truncated after 1000, 2000, 3000 or 4000 steps.

    ## Floor
    That of `MemoryMaze`, whose policies play here, too: `python -m runs.bench.maze original`.

    ## Arguments
    * `size`: "9x9" to "15x15"; set by the id.
    * `frame_size`: pixels along a side.
    * `view`: "first-person", or "top-down" to look at the maze from above.
    * `info`: whether to fill `info`.
    * `render_mode`: None, "rgb_array" or "human".

    A reset takes seconds, with a seed or without: MuJoCo compiles every new maze. It
    draws by EGL unless the environment variable MUJOCO_GL says otherwise (osmesa works, too).

    ## Source
    Pasukonis et al. 2022, "Evaluating Long-Term Memory in 3D Mazes"; package memory-maze.
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
        sizes = [known for known in SIZES if known != "7x7"]
        check_arguments("MuJoCoMemoryMaze", sizes, size, frame_size, view)
        check_render_mode(self, render_mode)
        self._build = getattr(load_tasks(), f"memory_maze_{size}")
        self._top, self._frame_size = view != VIEWS[0], frame_size
        self._with_info, self.render_mode = info, render_mode
        self.observation_space = spaces.Box(0, 255, (frame_size, frame_size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self._env: Any = None
        self._seen: dict[str, np.ndarray] = {}
        self._oracle, self._window, self._turned, self._playing = Oracle(), None, 0.0, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new maze, with the agent at rest in one of its rooms."""
        super().reset(seed=seed, options=options)
        if self._env is None:
            self._env = self._built(self._draw_seed())
        elif seed is not None:
            self._reseed(self._draw_seed())
        self._turned, self._playing = 0.0, True
        self._look(self._env.reset().observation)
        return self._image(), self._info()

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act for a quarter of a second."""
        if not self._playing:
            raise ValueError("there is no episode to step in: call reset() first")
        if not self.action_space.contains(np.int64(action)):
            raise ValueError(f"action is {action!r}: give 0 to 5 ({', '.join(ACTIONS)})")
        before = self._heading()
        step = self._env.step(int(action))
        self._look(step.observation)
        self._turned = STEPS_A_SECOND * float(np.angle(np.exp(1j * (self._heading() - before))))
        self._playing = not step.last()
        return self._image(), float(step.reward), False, bool(step.last()), self._info()

    def oracle(self) -> int:
        """The action of one that knows everything: the shortest way to the object asked for."""
        seen = self._seen
        return self._oracle.act(
            seen["maze_layout"], seen["agent_pos"], seen["agent_dir"], seen["target_pos"]
        )

    def explore(self, rng: np.random.Generator) -> int:
        """An action that needs no memory: straight on, but before walls and at times it turns."""
        layout, position = self._seen["maze_layout"], self._seen["agent_pos"]
        return wander(layout, position, self._heading(), self._turned, rng)

    def render(self) -> Any:
        """What the agent sees."""
        return self._image() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free what MuJoCo holds, and close the window, if there is one."""
        if self._env is not None:
            self._env.close()
            self._env, self._playing = None, False
        if self._window is not None:
            self._window.close()
            self._window = None

    def _draw_seed(self) -> int:
        return int(self.np_random.integers(1, 2**31))

    def _reseed(self, seed: int) -> None:
        """What building it with this seed would do, without compiling a maze that nobody sees."""
        self._env.random_state.seed(seed)
        arena = self._env.task._maze_arena
        own_seed = self._env.random_state.randint(2**31)
        kept = {name: getattr(arena.maze, name) for name in MAZE}
        arena._maze = type(arena.maze)(simplify=True, random_seed=own_seed, **kept)

    def _built(self, seed: int) -> Any:
        return self._build(
            seed=seed,
            global_observables=True,
            top_camera=self._top,
            camera_resolution=self._frame_size,
        )

    def _look(self, seen: dict[str, np.ndarray]) -> None:
        self._seen = seen
        if self.render_mode == "human":
            self._window = self._window or Window(type(self).__name__, self.metadata["render_fps"])
            self._window.show(self._image().repeat(4, axis=0).repeat(4, axis=1))

    def _image(self) -> np.ndarray:
        return np.array(self._seen["image"], np.uint8)

    def _heading(self) -> float:
        x, y = self._seen["agent_dir"]
        return float(np.arctan2(y, x))

    def _info(self) -> dict[str, Any]:
        if not self._with_info:
            return {}
        names = ("maze_layout", "agent_pos", "agent_dir", "targets_pos")
        info: dict[str, Any] = {name: np.array(self._seen[name]) for name in names}
        targets = np.abs(info["targets_pos"] - self._seen["target_pos"]).sum(axis=1)
        return info | {"target_index": int(targets.argmin())}


def load_tasks() -> Any:
    """`memory_maze.tasks`, without running the package's own `__init__`."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise gym.error.DependencyNotInstalled(
            f"MuJoCoMemoryMaze needs {', '.join(missing)}: {INSTALL} (Python 3.10 to 3.12)"
        )
    os.environ.setdefault("MUJOCO_GL", "egl")  # dm_control reads it when it is imported
    if "memory_maze" not in sys.modules:
        spec = importlib.util.find_spec("memory_maze")
        package = types.ModuleType("memory_maze")
        package.__spec__ = spec
        package.__path__ = list((spec and spec.submodule_search_locations) or [])
        sys.modules["memory_maze"] = package
    return importlib.import_module("memory_maze.tasks")
