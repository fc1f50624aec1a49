"""N mazes side by side: what a single environment and a vector of them both step and draw."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.memory_maze import layout, motion, raycast, topdown
from envs.memory_maze.motion import CELL, HEADING, X, Y
from envs.memory_maze.textures import WALL_COLOURS

ACTIONS = ("noop", "forward", "left", "right", "forward left", "forward right")
VIEWS = ("first-person", "top-down")


@dataclass(frozen=True)
class Size:
    """The rules that differ between mazes: cells along a side, objects, steps, rooms."""

    cells: int
    objects: int
    steps: int
    max_rooms: int = 6
    room_max: int = 5


SIZES = {
    "7x7": Size(7, 2, 500),
    "9x9": Size(9, 3, 1000),
    "11x11": Size(11, 4, 2000),
    "13x13": Size(13, 5, 3000),
    "15x15": Size(15, 6, 4000, max_rooms=9, room_max=3),
}


def check_arguments(name: str, sizes: Iterable[str], size: str, frame_size: int, view: str) -> None:
    """ValueError for what no maze of these sizes can be made with."""
    if size not in (sizes := list(sizes)):
        raise ValueError(f"{name} size is {size!r}: choose from {', '.join(sizes)}")
    if not 16 <= frame_size <= 1024:
        raise ValueError(f"{name} frame_size is {frame_size}: give 16 to 1024 pixels")
    if view not in VIEWS:
        raise ValueError(f"{name} view is {view!r}: choose from {', '.join(VIEWS)}")


class World:
    """`count` mazes of one size, each with its own random state; positions in metres."""

    def __init__(
        self, size: str, count: int = 1, frame_size: int = 64, view: str = VIEWS[0]
    ) -> None:
        check_arguments("MemoryMaze", SIZES, size, frame_size, view)
        self.size, self.count, self.view = SIZES[size], count, view
        self.frame_shape = (frame_size, frame_size, 3)
        cells, objects = self.size.cells + 2, self.size.objects
        self.walls = np.ones((count, cells, cells), np.uint8)
        self.rooms = np.zeros_like(self.walls)
        self.paint = np.zeros_like(self.walls)
        self.targets = np.zeros((count, objects, 2))
        self.asked = np.zeros(count, np.int64)
        self.steps = np.zeros(count, np.int64)
        self.bodies = np.zeros((count, motion.STATE))
        self._forces = np.zeros((count, 3, 6))
        self._touched = np.zeros((count, objects), np.bool_)
        self._random = np.zeros((count, 1), np.uint64)

    def reset(self, index: int, seed: int) -> None:
        """A new maze, decided by `seed` (below 2^64) alone; the body rests in one of its rooms."""
        random, size = self._random[index], self.size
        random[0] = seed
        while True:  # until there are rooms enough for the objects
            drawn = layout.generate(random, size.cells, size.max_rooms, room_max=size.room_max)
            if len(drawn.objects) >= size.objects:
                break
        self.walls[index], self.rooms[index] = drawn.walls, drawn.rooms > 0
        textures = np.array([self._below(index, len(WALL_COLOURS)) for _ in range(9)], np.uint8)
        self.paint[index] = textures[layout.blocks(size.cells + 2)]
        order = self._shuffle(index, len(drawn.objects))[: size.objects]
        self.targets[index] = (drawn.objects[order] - 0.5) * CELL
        self.asked[index] = self._below(index, size.objects)
        self._place(index, drawn.spawns[self._below(index, len(drawn.spawns))])

    def _place(self, index: int, cell: np.ndarray) -> None:
        body = self.bodies[index]
        body[:] = self._forces[index] = self.steps[index] = 0
        body[X], body[Y] = (cell - 0.5) * CELL
        body[HEADING] = 2 * np.pi * self._below(index, 2**31) / 2**31

    def step(self, actions: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Act in the active mazes; the rewards: 1 where the object asked for was touched."""
        motion.move(
            self.bodies, self.walls, self.targets, actions, active, self._forces, self._touched
        )
        self.steps += active
        found = self._touched[np.arange(self.count), self.asked]
        for index in np.flatnonzero(found).tolist():
            self._ask_for_another(index)
        return found.astype(np.float64)

    def _ask_for_another(self, index: int) -> None:
        others = np.flatnonzero(~self._touched[index])
        if len(others):
            self.asked[index] = others[self._below(index, len(others))]

    def is_over(self) -> np.ndarray:
        """Whose time is up."""
        return self.steps >= self.size.steps

    def frames(self, out: np.ndarray | None = None) -> np.ndarray:
        """What is to be seen, (count, height, width, 3) bytes; into `out` where it is given."""
        out = np.empty((self.count, *self.frame_shape), np.uint8) if out is None else out
        if self.view == VIEWS[0]:
            self.look(out)
        else:
            self.overlook(out)
        return out

    def look(self, out: np.ndarray) -> None:
        """Draw what the bodies see, in frames of any size."""
        poses = self.bodies[:, : HEADING + 1][:, [X, Y, HEADING]] / (CELL, CELL, 1)
        raycast.draw(
            poses, self.walls, self.paint, self.rooms, self.targets / CELL, self.asked, out
        )

    def overlook(self, out: np.ndarray) -> None:
        """Draw the mazes from above, in frames of any size."""
        for index in range(self.count):
            out[index] = topdown.picture(
                self.walls[index],
                self.rooms[index],
                self.paint[index],
                self.targets[index] / CELL,
                int(self.asked[index]),
                self.bodies[index, [X, Y]] / CELL,
                float(self.bodies[index, HEADING]),
                out.shape[1],
            )

    def info(self) -> dict[str, Any]:
        """For all mazes: layout (1 where one can walk) and positions in cells, as documented."""
        heading = self.bodies[:, HEADING]
        return {
            "maze_layout": 1 - self.walls[:, 1:-1, 1:-1],
            "agent_pos": self.bodies[:, [X, Y]] / CELL,
            "agent_dir": np.stack([np.cos(heading), np.sin(heading)], axis=1),
            "targets_pos": self.targets / CELL,
            "target_index": self.asked.copy(),
        }

    def _below(self, index: int, limit: int) -> int:
        return int(layout.below(self._random[index], limit))

    def _shuffle(self, index: int, count: int) -> list[int]:
        order = list(range(count))
        for k in range(count - 1, 0, -1):
            other = self._below(index, k + 1)
            order[k], order[other] = order[other], order[k]
        return order
