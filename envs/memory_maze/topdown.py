"""Mazes from above, north up: walls in their colours, rooms, objects, and where the body looks."""

import numpy as np

from envs.memory_maze.raycast import BALL, BORDER_SHADE, COLOURS, border_width
from envs.memory_maze.textures import FLOOR_COLOURS, WALL_COLOURS

BODY = np.array((240, 240, 240))
DARK = 0.6  # of the floor


def picture(
    walls: np.ndarray,
    rooms: np.ndarray,
    paint: np.ndarray,
    targets: np.ndarray,
    asked: int,
    position: np.ndarray,
    heading: float,
    pixels: int,
) -> np.ndarray:
    """A square picture of one maze, with the border in the colour of the object asked for."""
    cells = len(walls)
    place = (np.arange(pixels) + 0.5) * (cells / pixels)
    column, row = place.astype(int), (cells - place).astype(int)
    colours = np.where(
        walls[..., None] > 0, WALL_COLOURS[paint], DARK * FLOOR_COLOURS[(rooms > 0).astype(int)]
    )
    image = colours[row[:, None], column[None]]
    x, y = place[None] - 1, (cells - place)[:, None] - 1
    for k, (tx, ty) in enumerate(targets):
        image[np.hypot(x - tx, y - ty) < BALL] = COLOURS[k]
    _draw_body(image, x - position[0], y - position[1], heading)
    width = border_width(pixels)
    shade = COLOURS[asked] * BORDER_SHADE
    image[:width], image[-width:], image[:, :width], image[:, -width:] = (shade,) * 4
    return image.astype(np.uint8)


def _draw_body(image: np.ndarray, dx: np.ndarray, dy: np.ndarray, heading: float) -> None:
    """A drop with its tip ahead."""
    ahead = dx * np.cos(heading) + dy * np.sin(heading)
    aside = -dx * np.sin(heading) + dy * np.cos(heading)
    tip = (ahead > 0) & (ahead < 0.6) & (np.abs(aside) < 0.25 * (1 - ahead / 0.6))
    image[(np.hypot(ahead, aside) < 0.25) | tip] = BODY
