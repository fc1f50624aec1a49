"""From an id in a config to an environment, with errors that say what to type instead.

An id exists for Gymnasium once the package that registers it was imported. `make` imports ours and
MiniGrid's, and asks installed packages for theirs; for others write "module:Id", "module:Class" or
"path/to/file.py:Class".
"""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.wrappers import TimeLimit

from envs import loading, minigrid
from envs.contract import Guard, require_spaces

_OURS = {
    "clew/ActiveTMaze-v0": "envs.active_tmaze:ActiveTMaze",
    "clew/Hallway-v0": "envs.hallway:Hallway",
    "clew/MemoryLength-v0": "envs.memory_length:MemoryLength",
    "clew/TMaze-v0": "envs.tmaze:TMaze",
}
_MAZES = ("7x7", "9x9", "11x11", "13x13", "15x15")


def register_envs() -> None:
    """Register our environments with Gymnasium; calling it again changes nothing."""
    for env_id, entry_point in _OURS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=entry_point)
    for size in _MAZES:
        _register_maze(size)


def _register_maze(size: str) -> None:
    """Our Memory Maze, alone, as a vector and led, and the original, which has no 7x7."""
    led = f"clew/LedMaze-{size}-v0"
    env_id, original = f"clew/MemoryMaze-{size}-v0", f"clew/MuJoCoMemoryMaze-{size}-v0"
    if env_id not in gym.registry:
        gym.register(
            env_id,
            entry_point="envs.memory_maze.env:MemoryMaze",
            vector_entry_point="envs.memory_maze.vector:MemoryMazeVector",
            kwargs={"size": size},
        )
    if led not in gym.registry:
        gym.register(led, entry_point="envs.memory_maze.led:LedMaze", kwargs={"size": size})
    if original not in gym.registry and size != "7x7":
        gym.register(
            original,
            entry_point="envs.mujoco_memory_maze:MuJoCoMemoryMaze",
            kwargs={"size": size},
        )


def make(
    env_id: str,
    kwargs: Mapping[str, Any] | None = None,
    wrappers: Iterable[str] = (),
    max_steps: int | None = None,
    guard: bool = True,
) -> gym.Env:
    """`gym.make(env_id, **kwargs)` inside `wrappers` ("module:Class", innermost first).

    `env_id` is an id, "module:Id", "module:Class", "path/to/file.py:Class" or "path/to/file.py:Id".
    Episodes are cut after `max_steps`. MiniGrid's environments also say `info["is_success"]`, and
    their symbols are categories. What breaks Gymnasium's contract is told, unless `guard` is off.

    Raises:
        ValueError: naming cause and cure, for an unknown id, argument or wrapper, and for a package
            that is not installed.
    """
    spec = find_spec(env_id)
    constructors = [(path, _find_wrapper(path)) for path in wrappers]
    env = _build(spec, dict(kwargs or {}))
    require_spaces(env, f"env {spec.id!r}")
    is_minigrid = spec.id.startswith(minigrid.PREFIXES)
    if is_minigrid:
        env = minigrid.Success(env)
    for path, constructor in constructors:
        env = _wrap(env, constructor, path)
    if is_minigrid and minigrid.has_symbols(env):
        env = minigrid.Symbols(env)
    if max_steps is not None:
        env = TimeLimit(env, max_steps)
    return Guard(env) if guard else env


def find_spec(env_id: str) -> EnvSpec:
    """What Gymnasium makes an environment from, once the code that has it was imported.

    Raises:
        ValueError: where there is nothing of this name.
    """
    register_envs()
    where, _, name = env_id.rpartition(":")
    if loading.is_file(env_id):
        where, name = env_id, ""
    module = None
    if loading.is_file(where):
        module = loading.load_file(where)
    elif where:
        module = loading.import_module(where, needed_by=f"env id {env_id!r}")
    if name.startswith(minigrid.PREFIXES):
        loading.import_module("minigrid", needed_by=f"env id {env_id!r}")
    if name not in gym.registry and not hasattr(module, name):
        loading.load_plugins()
    if name in gym.registry:
        return gym.registry[name]
    if module is not None:
        return EnvSpec(name, entry_point=_creator(module, where, name))
    raise ValueError(_unknown_id(name))


def _creator(module: ModuleType, where: str, name: str) -> Any:
    """The class (or function) that makes environments, from a module of the user's."""
    found = getattr(module, name, None)
    if callable(found):
        return found
    classes = [n for n, value in vars(module).items() if _is_kind(value, gym.Env)]
    nearest = difflib.get_close_matches(name, classes, n=5) or sorted(classes)
    has = f"its environments: {', '.join(nearest)}" if nearest else "it has no gymnasium.Env at all"
    lacks = f"has no {name!r}, and registers no such id" if name else "wants a class, file.py:Class"
    advice = f"{where} {lacks}; {has}"
    hidden = "" if loading.is_file(where) else loading.hidden_by_us(where)
    raise ValueError(f"{advice}. {hidden}" if hidden else advice)


def _unknown_id(env_id: str) -> str:
    stem = env_id.rpartition("-v")[0] or env_id
    versions = [known for known in gym.registry if known.rpartition("-v")[0] == stem]
    lower = {known.lower(): known for known in gym.registry}
    close = [lower[match] for match in difflib.get_close_matches(env_id.lower(), lower, n=5)]
    nearest = list(dict.fromkeys([*sorted(versions), *close]))
    cure = f"nearest ids: {', '.join(nearest)}" if nearest else "no id comes near it"
    return (
        f"unknown env id {env_id!r}; {cure}. If another package registers it, write 'module:Id' "
        "and the module is imported first; for a class of your own, 'path/to/file.py:Class'"
    )


def _build(spec: EnvSpec, kwargs: dict[str, Any]) -> gym.Env:
    try:
        # Not Gymnasium's own checker: Guard says more, and stops what cannot be read.
        return gym.make(spec, **{"disable_env_checker": True} | kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(
            f"env {spec.id!r} needs a package that is not installed: {error}"
        ) from error
    except ImportError as error:
        advice = f"env {spec.id!r} cannot be imported ({error}): {loading.cure(error)}"
        raise ValueError(advice) from error
    except TypeError as error:
        if "gymnasium.Env" in str(error):
            raise ValueError(f"env {spec.id!r}: {error}") from error
        if not kwargs and not _misses_arguments(spec, kwargs):
            raise
        raise ValueError(_bad_kwargs(spec, kwargs, error)) from error


def _misses_arguments(spec: EnvSpec, kwargs: dict[str, Any]) -> bool:
    """Whether the constructor cannot even be called with these arguments."""
    try:
        inspect.signature(_entry(spec)).bind(**spec.kwargs | kwargs)
    except TypeError:
        return True
    return False


def _entry(spec: EnvSpec) -> Any:
    creator = spec.entry_point
    return load_env_creator(creator) if isinstance(creator, str) else creator


def _bad_kwargs(spec: EnvSpec, kwargs: dict[str, Any], error: TypeError) -> str:
    valid = sorted(_arguments(_entry(spec)))
    unknown = [name for name in kwargs if name not in valid]
    culprits = ", ".join(map(repr, unknown or kwargs)) or "arguments, as --env-kwargs name=value"
    verb = "does not know" if unknown else "rejected the value of" if kwargs else "needs"
    return f"env {spec.id!r} {verb} {culprits}; its arguments: {', '.join(valid)} ({error})"


def _arguments(creator: Any) -> set[str]:
    """What `gym.make` accepts: the constructor's names, and its bases' while it takes **kwargs."""
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
    if loading.is_file(module_name):
        module = loading.load_file(module_name)
    else:
        module = loading.import_module(module_name, needed_by=f"wrapper {path!r}")
    found = getattr(module, class_name, None)
    if not callable(found):
        raise ValueError(f"wrapper {path!r}: {_unknown_wrapper(module, class_name)}")
    return found


def _unknown_wrapper(module: ModuleType, class_name: str) -> str:
    names = [name for name, value in vars(module).items() if _is_kind(value, gym.Wrapper)]
    nearest = difflib.get_close_matches(class_name, names, n=3) or sorted(names)
    cure = f"did you mean {', '.join(nearest)}?" if nearest else "it has no wrappers at all"
    return f"module {module.__name__!r} has no {class_name!r}; {cure}"


def _is_kind(value: object, kind: type) -> bool:
    return inspect.isclass(value) and issubclass(value, kind)


def _wrap(env: gym.Env, constructor: Any, path: str) -> gym.Env:
    try:
        wrapped = constructor(env)
    except Exception as error:
        raise ValueError(f"wrapper {path!r} does not fit around {env}: {error!r}") from error
    if not isinstance(wrapped, gym.Env):
        raise ValueError(f"wrapper {path!r} made no gymnasium.Env but {type(wrapped).__name__}")
    return wrapped
