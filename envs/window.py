"""What can be watched, and a window that shows pictures, for `render_mode="human"`."""

import importlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv


def check_render_mode(env: gym.Env | VectorEnv, mode: str | None) -> None:
    """ValueError for a render mode that an environment does not have."""
    *others, last = (None, *env.metadata["render_modes"])
    if mode not in (*others, last):
        choice = f"{', '.join(map(repr, others))} or {last!r}"
        raise ValueError(f"{type(env).__name__} render_mode is {mode!r}: use {choice}")


class Window:
    """Opens with the first picture; `fps` pictures a second at most."""

    def __init__(self, title: str, fps: int) -> None:
        try:
            self._pygame: Any = importlib.import_module("pygame")
        except ImportError as error:
            raise gym.error.DependencyNotInstalled(
                'render_mode "human" needs pygame: pip install pygame-ce'
            ) from error
        self._title, self._fps = title, fps
        self._surface: Any = None

    def show(self, picture: np.ndarray) -> None:
        """Show a picture (height, width, RGB), and wait until it is time for the next."""
        pygame, size = self._pygame, (picture.shape[1], picture.shape[0])
        if self._surface is None:
            pygame.display.init()
            pygame.display.set_caption(self._title)
            self._surface = pygame.display.set_mode(size)
            self._clock = pygame.time.Clock()
        frame = pygame.image.frombuffer(np.ascontiguousarray(picture).tobytes(), size, "RGB")
        self._surface.blit(frame, (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close it; showing another picture opens it again."""
        if self._surface is not None:
            self._pygame.display.quit()
            self._surface = None
