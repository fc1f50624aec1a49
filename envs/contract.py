"""Gymnasium's contract: what an environment may return, and what to say where it returns else.

Unusual: faults come in two kinds. Of some no model can make anything (another shape, a category
that does not exist), so they end a run; others can be read all the same (beyond the bounds, another
dtype), so they are told once and put right.
"""

import copy
import inspect
import logging
import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

logger = logging.getLogger(__name__)

TOLD: set[tuple[str, str]] = set()  # by all copies of an environment together
MOST = 100  # faults that are told: of one that names something new each time, no more
LARGEST = float(np.finfo(np.float32).max)  # of the numbers that models compute with
ROOT = "observation"  # the key of an observation that is not a Dict
STEP = "observation, reward, terminated, truncated, info"
SUCCESS = bool | np.bool_ | int | float | np.number | None  # of info["is_success"]
Category = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary


class ContractError(ValueError):
    """The environment breaks Gymnasium's contract; the message names the key, value and rule."""


class NotFiniteError(RuntimeError):
    """The environment returned NaN or infinity, or a number that is infinite to a model.

    It may do better when it begins anew.
    """


class Fault(NamedTuple):
    """What is wrong, and how much: `harmless` can be read, others end a run."""

    text: str
    harmless: bool = False
    finite: bool = True


def observation_faults(space: gym.Space, value: Any, key: str = ROOT) -> Iterator[Fault]:
    """What is wrong with an observation, leaf by leaf; nothing of Text, which no model reads."""
    if isinstance(space, spaces.Dict):
        yield from _dict_faults(space, value, key)
    elif isinstance(space, spaces.Tuple):
        yield from _tuple_faults(space, value, key)
    elif isinstance(space, spaces.Box | Category):
        yield from _leaf_faults(space, value, key)


def reset_faults(space: gym.Space, result: Any) -> Iterator[Fault]:
    """What is wrong with what `reset` returned."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
        returned = _kinds(result) if isinstance(result, tuple) else type(result).__name__
        if isinstance(space, spaces.Tuple) and isinstance(result, tuple):
            returned += " (is that the observation alone?)"
        yield Fault(
            f"reset() returned {returned} without info: Gymnasium's rule is "
            "`return observation, info`, with info a dict (`return observation, {}`)"
        )
    else:
        yield from observation_faults(space, result[0])


def step_faults(space: gym.Space, result: Any) -> Iterator[Fault]:
    """What is wrong with what `step` returned."""
    if not isinstance(result, tuple) or len(result) != 5:
        returned = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        yield Fault(f"step() returned {returned}: Gymnasium's rule is `return {STEP}`")
        return
    observation, reward, terminated, truncated, info = result
    yield from observation_faults(space, observation)
    yield from _reward_faults(reward)
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            yield Fault(f"{name} = {flag!r} is no bool: return True or False", harmless=True)
    if not isinstance(info, Mapping):
        yield Fault(f"info is of type {type(info).__name__}: return a dict, empty if need be")
    elif not isinstance(success := info.get("is_success"), SUCCESS):
        yield Fault(f"info['is_success'] = {success!r} is no bool: return True or False")


def is_action(space: gym.Space, action: Any) -> bool:
    """Whether an action is one of a space, in whatever type it comes."""
    try:
        return bool(space.contains(np.asarray(action, space.dtype)))
    except (TypeError, ValueError):
        return False


def chance_fault(env: gym.Env) -> str:
    """What is wrong with `chance`, the success of whoever guesses; nothing where it is right."""
    chance = env.get_wrapper_attr("chance") if env.has_wrapper_attr("chance") else None
    number = isinstance(chance, int | float) and not isinstance(chance, bool)
    if chance is None or (number and 0 <= chance <= 1):
        return ""
    return f"chance = {chance!r} is no share: success by guessing, from 0 to 1, such as 0.5"


def delay_fault(env: gym.Env) -> str:
    """What is wrong with `delay`, the name of an argument; nothing where it is right."""
    bare = env.unwrapped
    delay, known = getattr(bare, "delay", None), inspect.signature(type(bare)).parameters
    open_ended = any(part.kind is part.VAR_KEYWORD for part in known.values())
    if not isinstance(delay, str) or not delay or delay in known or open_ended:
        return ""
    has = ", ".join(known) or "none"
    return f"delay = {delay!r} names no argument of {type(bare).__name__}; it has: {has}"


def _dict_faults(space: spaces.Dict, value: Any, key: str) -> Iterator[Fault]:
    if not isinstance(value, Mapping):
        kind = type(value).__name__
        yield Fault(f"{_name(key)} is of type {kind}: its space is a Dict, so return a dict")
        return
    if missing := [name for name in space if name not in value]:
        yield Fault(
            f"{_name(key)} lacks {', '.join(map(repr, missing))}, which its space has: return "
            "every key in every observation, or leave it out of the space"
        )
    if extra := [name for name in value if name not in space.spaces]:
        names = ", ".join(map(repr, extra))
        yield Fault(f"{_name(key)} has {names}, which its space lacks: it is ignored", True)
    for name, part in space.items():
        if name in value:
            yield from observation_faults(part, value[name], _inside(key, name))


def _tuple_faults(space: spaces.Tuple, value: Any, key: str) -> Iterator[Fault]:
    if not isinstance(value, tuple) or len(value) != len(space.spaces):
        yield Fault(
            f"{_name(key)} is {_kinds(value)}: its space is a Tuple of {len(space.spaces)}, so "
            "return a tuple with as many parts"
        )
        return
    for index, (part, one) in enumerate(zip(space.spaces, value, strict=True)):
        yield from observation_faults(part, one, _inside(key, str(index)))


def _leaf_faults(space: spaces.Box | Category, value: Any, key: str) -> Iterator[Fault]:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        yield Fault(f"{_name(key)} is of type {type(value).__name__}: return numbers, as {space}")
    elif array.shape != (space.shape or ()):
        yield Fault(
            f"{_name(key)} has shape {array.shape}, and its space says {space.shape}: return "
            "arrays of one shape, padded where they differ, and declare that shape"
        )
    elif not (held := is_held(array)).all():
        where, found = _first(~held, array)
        yield Fault(
            f"{_name(key)}{where} = {found} is not finite in float32: return numbers, such as a "
            "value beyond the range that means 'none'",
            finite=False,
        )
    else:
        yield from _dtype_faults(space, array, key)
        yield from _range_faults(space, array, key)


def is_held(array: np.ndarray) -> np.ndarray:
    """Where numbers are finite in float32, in which models compute."""
    if array.dtype.kind != "f":
        return np.ones(array.shape, bool)
    return np.isfinite(array) if array.dtype.itemsize <= 4 else np.abs(array) <= np.float64(LARGEST)


def _dtype_faults(space: spaces.Box | Category, array: np.ndarray, key: str) -> Iterator[Fault]:
    declared = np.dtype(space.dtype)
    same = array.dtype == declared if isinstance(space, spaces.Box) else array.dtype.kind in "biu"
    if same:
        return
    kept = np.can_cast(array.dtype, declared, "same_kind")
    kept = kept or np.array_equal(array.astype(declared), array)
    cure = (
        f"return it with .astype(np.{declared}), or declare the space with dtype=np.{array.dtype}"
    )
    yield Fault(
        f"{_name(key)} is of dtype {array.dtype}, and its space says {declared}: "
        + (cure if isinstance(space, spaces.Box) else "return whole numbers"),
        harmless=kept,
    )


def _range_faults(space: spaces.Box | Category, array: np.ndarray, key: str) -> Iterator[Fault]:
    low, high = _limits(space)
    outside = (array < low) | (array > high)
    if not outside.any():
        return
    where, found = _first(outside, array)
    _, least = _first(outside, np.broadcast_to(low, array.shape))
    _, most = _first(outside, np.broadcast_to(high, array.shape))
    is_box = isinstance(space, spaces.Box)
    what = "the bounds" if is_box else "the categories"
    yield Fault(
        f"{_name(key)}{where} = {found} lies outside {what} of its space, {least} to {most}: "
        "declare what it can be, or clip it",
        harmless=is_box,
    )


def _limits(space: spaces.Box | Category) -> tuple[Any, Any]:
    """The least and the largest value of each entry."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.MultiBinary):
        return 0, 1
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    return space.start, space.start + space.nvec - 1


def _reward_faults(reward: Any) -> Iterator[Fault]:
    number = isinstance(reward, numbers.Real | np.bool_)
    if not number and not (isinstance(reward, np.ndarray) and reward.size == 1):
        yield Fault(f"reward = {reward!r} is of type {type(reward).__name__}: return one float")
    elif not abs(np.asarray(reward).item()) <= LARGEST:
        yield Fault(f"reward = {reward} is not finite in float32: return a number", finite=False)
    elif not number:
        shape = np.shape(reward)
        yield Fault(f"reward = {reward!r} is an array of shape {shape}: return one float", True)


def _first(chosen: np.ndarray, array: np.ndarray) -> tuple[str, Any]:
    """Where the first chosen entry is, as an index to print, and the entry."""
    index = tuple(map(int, np.argwhere(chosen)[0]))
    return f"[{', '.join(map(str, index))}]" if index else "", array[index].item()


def _kinds(value: Any) -> str:
    if not isinstance(value, tuple):
        return f"of type {type(value).__name__}"
    return f"({', '.join(type(part).__name__ for part in value)})"


def _name(key: str) -> str:
    return "The observation" if key == ROOT else f"The observation {key!r}"


def _inside(key: str, name: str) -> str:
    return name if key == ROOT else f"{key}/{name}"


def signature_fault(env: gym.Env) -> str:
    """What the `reset` of the bare environment does not take; "" where it takes everything."""
    parameters = inspect.signature(env.unwrapped.reset).parameters
    lacks = [f"no {name}" for name in ("seed", "options") if name not in parameters]
    if not lacks or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return ""
    return (
        f"reset() takes {' and '.join(lacks)}: write `def reset(self, *, seed=None, options=None)`"
        ", call `super().reset(seed=seed)` in it, and draw from self.np_random"
    )


def require_spaces(env: gym.Env, who: str) -> None:
    """ContractError where an environment does not say what is seen in it, or what can be done."""
    for name in ("observation_space", "action_space"):
        found = getattr(env, name, None)
        if not isinstance(found, gym.Space):
            kind = f"{type(found).__module__}.{type(found).__name__}"
            has = "is not there" if found is None else f"is of type {kind}"
            raise ContractError(
                f"{who}: its {name} {has}: set self.{name} in __init__, to one of gymnasium.spaces"
            )


def tell(who: str, text: str) -> None:
    """Warn of a fault once for each key and rule: the first of many values is worth a line."""
    if (who, rule_of(text)) not in TOLD and len(TOLD) < MOST:
        TOLD.add((who, rule_of(text)))
        logger.warning("%s: %s.", who, text)


def rule_of(text: str) -> str:
    """The text of a fault without the value that broke a rule, and without its index."""
    return text.partition(" = ")[0].partition("[")[0]


def quick_test(space: gym.Space) -> Callable[[Any], bool]:
    """A test that passes nothing with a fault, much faster than to look for faults."""
    if isinstance(space, spaces.Dict):
        tests = {name: quick_test(part) for name, part in space.items()}
        return lambda seen: (
            isinstance(seen, Mapping)
            and seen.keys() == tests.keys()
            and all(test(seen[name]) for name, test in tests.items())
        )
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return _quick_array_test(space)
    return lambda seen: not any(True for _ in observation_faults(space, seen))


def _quick_array_test(space: spaces.Box | Category) -> Callable[[Any], bool]:
    dtype, shape, (low, high) = np.dtype(space.dtype), space.shape, _limits(space)
    if dtype.kind in "iu" and _is_whole_range(dtype, low, high):
        return lambda seen: type(seen) is np.ndarray and (seen.dtype, seen.shape) == (dtype, shape)

    def passes(seen: Any) -> bool:
        return (
            type(seen) is np.ndarray
            and seen.dtype == dtype
            and seen.shape == shape
            # So, and not the other way round: NaN is neither.
            and bool((seen >= low).all() and (seen <= high).all())
            and (bounded or bool(is_held(seen).all()))
        )

    bounded = all(bool(is_held(np.asarray(bound)).all()) for bound in (low, high))
    return passes


def _is_whole_range(dtype: np.dtype, low: Any, high: Any) -> bool:
    """Whether no value of a dtype lies outside, as of most pictures."""
    limits = np.iinfo(dtype.name)
    return bool(np.all(low == limits.min) and np.all(high == limits.max))


class Guard(gym.Wrapper):
    """Tells what breaks the contract as it happens, and hands on only what a model can read.

    Raises:
        ContractError: where nothing can be made of what the environment returned, and where it is
            stepped after the end of its episode.
        NotFiniteError: for NaN and infinity.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        if fault := signature_fault(env):
            raise ContractError(f"{self._who()}: {fault}.")
        # A copy: an environment that changes its space as it goes is held to the first one.
        self.observation_space = copy.deepcopy(env.observation_space)
        self._passes = quick_test(self.observation_space)
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        result = self.env.reset(seed=seed, options=options)
        changed = self._judge(reset_faults(self.observation_space, result))
        observation, info = result
        self._over = False
        return self._put_right(observation) if changed else observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step further."""
        if self._over:
            raise ContractError(
                f"{self._who()}: step() after the end of an episode: call reset() first."
            )
        result: Any = self.env.step(action)
        if self._is_fine(result):
            self._over = result[2] or result[3]
            return result
        changed = self._judge(step_faults(self.observation_space, result))
        observation, reward, terminated, truncated, info = result
        self._over = bool(terminated or truncated)
        if changed:
            observation, reward = self._put_right(observation), float(np.asarray(reward).item())
        return observation, reward, bool(terminated), bool(truncated), info

    def _is_fine(self, result: Any) -> bool:
        """What most steps are."""
        return (
            type(result) is tuple
            and len(result) == 5
            and type(result[1]) in (float, int)
            and -LARGEST <= result[1] <= LARGEST
            and type(result[2]) is type(result[3]) is bool
            and type(result[4]) is dict
            and self._passes(result[0])
        )

    def _judge(self, faults: Iterator[Fault]) -> bool:
        """Whether anything has to be put right."""
        found = list(faults)
        for fault in found:
            if not fault.finite:
                raise NotFiniteError(f"{self._who()}: {fault.text}.")
            if not fault.harmless:
                raise ContractError(f"{self._who()}: {fault.text}.")
            tell(self._who(), fault.text)
        return bool(found)

    def _put_right(self, observation: Any) -> Any:
        return as_declared(self.observation_space, observation)

    def _who(self) -> str:
        return name_of(self)


def as_declared(space: gym.Space, value: Any) -> Any:
    """An observation with the keys and dtypes of its space."""
    if isinstance(space, spaces.Dict):
        return {name: as_declared(part, value[name]) for name, part in space.items()}
    if isinstance(space, spaces.Tuple):
        pairs = zip(space.spaces, value, strict=True)
        return tuple(as_declared(part, one) for part, one in pairs)
    return np.asarray(value, space.dtype) if isinstance(space, spaces.Box | Category) else value


def name_of(env: gym.Env) -> str:
    """The id of an environment where it has one."""
    spec = env.unwrapped.spec
    return spec.id if spec is not None else type(env.unwrapped).__name__
