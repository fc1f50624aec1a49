"""Short videos of an agent at work, as the environment draws itself."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from envs.registry import make
from runs.config import Config
from runs.evaluation.play import Player, drawing, new_streams
from runs.evaluation.suite import Clip

logger = logging.getLogger(__name__)

LONGEST = 300  # frames


def film(player: Player, config: Config, seed: int, longest: int = LONGEST) -> Clip:
    """The first episode of `seed`, or its beginning; empty where nothing can be drawn.

    Drawn by `render_mode="rgb_array"` where the environment has it, else what the agent sees where
    that is a picture.
    """
    try:
        return _film(player, config, seed, longest)
    except Exception as error:  # whatever a window system may raise: a film is worth no report
        logger.warning("%s cannot be filmed (%s: %s)", config.env, type(error).__name__, error)
        return []


def _film(player: Player, config: Config, seed: int, longest: int) -> Clip:
    renders = "rgb_array" in _render_modes(config)
    if renders:
        config = replace(config, env_kwargs=config.env_kwargs | {"render_mode": "rgb_array"})
    clip: Clip = []
    with new_streams(config, 1, seed) as streams, drawing(seed):
        record = streams.reset()
        player.begin(streams)
        while len(clip) < longest:
            picture = streams.render()[0] if renders else _picture(record.observation)
            if picture is None:
                return []
            clip.append(_checked(picture))
            if record.is_last[0]:
                break
            record = streams.step(player.act(record))
    return clip


def _checked(picture: Any) -> np.ndarray:
    """A copy of what a video can be made of; else a ValueError."""
    frame = np.array(picture)
    if frame.dtype != np.uint8 or frame.shape[2:] != (3,):
        found = f"{frame.dtype} of shape {frame.shape}"
        raise ValueError(f"its picture is {found}, and should be uint8 (height, width, 3)")
    return frame


def _render_modes(config: Config) -> list[str]:
    env = make(config.known_env, config.env_kwargs, config.wrappers)
    env.close()
    return env.metadata.get("render_modes", [])


def _picture(observation: Any) -> np.ndarray | None:
    """The only environment's observation, or a part of it, that is a picture."""
    parts = observation.values() if isinstance(observation, Mapping) else (observation,)
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype == np.uint8 and part.shape[3:] == (3,):
            return part[0]
    return None
