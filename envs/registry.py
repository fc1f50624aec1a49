"""From an id in a config to an environment, with errors that say what to type instead.

Gymnasium ≥ 1.0 ignores the `gymnasium.envs` entry points it once had: an id exists once the package
that registers it was imported. `make` imports ours and MiniGrid's; for others write "module:Id".
"""

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from envs.minigrid import Success

_OURS = {
    "clew/Hallway-v0": "envs.hallway:Hallway",
    "clew/MemoryLength-v0": "envs.memory_length:MemoryLength",
    "clew/TMaze-v0": "envs.tmaze:TMaze",
}
_MAZES = ("7x7", "9x9", "11x11", "13x13", "15x15")
_MINIGRID = ("MiniGrid", "BabyAI")


def register_envs() -> None:
    """Register our environments with Gymnasium; calling it again changes nothing."""
    for env_id, entry_point in _OURS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=entry_point)
    for size in _MAZES:
        _register_maze(size)


def _register_maze(size: str) -> None:
    """Our Memory Maze, alone and as a vector, and the original, which has no 7x7."""
    env_id, original = f"clew/MemoryMaze-{size}-v0", f"clew/MuJoCoMemoryMaze-{size}-v0"
    if env_id not in gym.registry:
        gym.register(
            env_id,
            entry_point="envs.memory_maze.env:MemoryMaze",
            vector_entry_point="envs.memory_maze.vector:MemoryMazeVector",
            kwargs={"size": size},
        )
    if original not in gym.registry and size != "7x7":
        gym.register(
            original,
            entry_point="envs.mujoco_memory_maze:MuJoCoMemoryMaze",
            kwargs={"size": size},
        )


def make(
    env_id: str, kwargs: Mapping[str, Any] | None = None, wrappers: Iterable[str] = ()
) -> gym.Env:
    """`gym.make(env_id, **kwargs)` inside `wrappers` ("module:Class", innermost first).

    MiniGrid's environments also say `info["is_success"]`.

    Raises ValueError, naming cause and cure, for an unknown id, argument or wrapper, and for a
    package that is not installed.
    """
    known = _known_id(env_id)
    constructors = [(path, _find_wrapper(path)) for path in wrappers]
    env = _build(known, dict(kwargs or {}))
    if known.startswith(_MINIGRID):
        env = Success(env)
    for path, constructor in constructors:
        env = _wrap(env, constructor, path)
    return env


def _known_id(env_id: str) -> str:
    """The id as the registry has it, once the package that registers it is imported."""
    register_envs()
    module, _, name = env_id.rpartition(":")
    if module:
        _import(module, needed_by=f"env id {env_id!r}")
    if name.startswith(_MINIGRID):
        _import("minigrid", needed_by=f"env id {env_id!r}")
    if name not in gym.registry:
        raise ValueError(_unknown_id(name))
    return name


def _unknown_id(env_id: str) -> str:
    stem = env_id.rpartition("-v")[0] or env_id
    versions = [known for known in gym.registry if known.rpartition("-v")[0] == stem]
    lower = {known.lower(): known for known in gym.registry}
    close = [lower[match] for match in difflib.get_close_matches(env_id.lower(), lower, n=5)]
    nearest = list(dict.fromkeys([*sorted(versions), *close]))
    cure = f"nearest ids: {', '.join(nearest)}" if nearest else "no id comes near it"
    return (
        f"unknown env id {env_id!r}; {cure}. "
        "If another package registers it, write 'module:Id' and the module is imported first"
    )


def _build(env_id: str, kwargs: dict[str, Any]) -> gym.Env:
    try:
        return gym.make(env_id, **kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(
            f"env {env_id!r} needs a package that is not installed: {error}"
        ) from error
    except ImportError as error:
        raise ValueError(_missing(error, f"env {env_id!r}")) from error
    except TypeError as error:
        if not kwargs:
            raise
        raise ValueError(_bad_kwargs(env_id, kwargs, error)) from error


def _bad_kwargs(env_id: str, kwargs: dict[str, Any], error: TypeError) -> str:
    valid = sorted(_arguments(env_id))
    unknown = [name for name in kwargs if name not in valid]
    culprits = ", ".join(map(repr, unknown or kwargs))
    verb = "does not know" if unknown else "rejected the value of"
    return f"env {env_id!r} {verb} {culprits}; its arguments: {', '.join(valid)} ({error})"


def _arguments(env_id: str) -> set[str]:
    """What `gym.make` accepts: the constructor's names, and its bases' while it takes **kwargs."""
    creator: Any = gym.registry[env_id].entry_point
    if isinstance(creator, str):
        creator = load_env_creator(creator)
    names = {"max_episode_steps", "disable_env_checker"}
    classes = inspect.getmro(creator) if inspect.isclass(creator) else ()
    functions = [vars(c)["__init__"] for c in classes if "__init__" in vars(c)] or [creator]
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"}


def _find_wrapper(path: str) -> Any:
    """The class that "module:Class" names."""
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise ValueError(
            f"wrapper {path!r} is not of the form 'module:Class', "
            "for example 'minigrid.wrappers:RGBImgPartialObsWrapper'"
        )
    module = _import(module_name, needed_by=f"wrapper {path!r}")
    found = getattr(module, class_name, None)
    if not callable(found):
        raise ValueError(f"wrapper {path!r}: {_unknown_wrapper(module, class_name)}")
    return found


def _unknown_wrapper(module: ModuleType, class_name: str) -> str:
    names = [name for name, value in vars(module).items() if _is_wrapper(value)]
    nearest = difflib.get_close_matches(class_name, names, n=3) or sorted(names)
    cure = f"did you mean {', '.join(nearest)}?" if nearest else "it has no wrappers at all"
    return f"module {module.__name__!r} has no {class_name!r}; {cure}"


def _is_wrapper(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, gym.Wrapper)


def _wrap(env: gym.Env, constructor: Any, path: str) -> gym.Env:
    try:
        wrapped = constructor(env)
    except Exception as error:
        raise ValueError(f"wrapper {path!r} does not fit around {env}: {error!r}") from error
    if not isinstance(wrapped, gym.Env):
        raise ValueError(f"wrapper {path!r} made no gymnasium.Env but {type(wrapped).__name__}")
    return wrapped


def _import(module: str, needed_by: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(_missing(error, needed_by)) from error


def _missing(error: ImportError, needed_by: str) -> str:
    package = (error.name or "").partition(".")[0]
    cure = f"pip install {package}" if isinstance(error, ModuleNotFoundError) and package else ""
    cure = cure or "check that the package is installed and its version fits"
    return f"{needed_by} cannot be imported ({error}): {cure}"
