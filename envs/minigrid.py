"""MiniGrid's environments, saying how an episode went."""

from typing import Any

import gymnasium as gym


class Success(gym.Wrapper):
    """`info["is_success"]` at the end of an episode: it was terminated with a positive reward."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; MiniGrid pays for reaching a goal, and for nothing else."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            info = info | {"is_success": bool(terminated) and float(reward) > 0}
        return observation, reward, terminated, truncated, info
