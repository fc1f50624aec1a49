"""Where the agent lives: memory mazes, and the door for any Gymnasium environment.

Importing this package registers our ids with Gymnasium (strings in a table, nothing is loaded):
Gymnasium no longer reads plugin entry points, and so `gym.make("envs:clew/TMaze-v0")` works.
"""

from .active_tmaze import ActiveTMaze
from .contract import ContractError
from .hallway import Hallway
from .memory_length import MemoryLength
from .registry import make, register_envs
from .stream import Episode, episode_seed
from .tmaze import TMaze, TMazeOracle
from .vector import EnvFailedError, EnvStreams, Record

__all__ = [
    "ActiveTMaze",
    "ContractError",
    "EnvFailedError",
    "EnvStreams",
    "Episode",
    "Hallway",
    "MemoryLength",
    "Record",
    "TMaze",
    "TMazeOracle",
    "episode_seed",
    "make",
    "register_envs",
]

register_envs()
