"""Gymnasium spaces: their leaves by name, and their JSON form, with which a model is saved."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of them"
ROOT = "observation"  # the key of an observation that is not a Dict


def flatten_space(space: gym.Space) -> dict[str, gym.Space]:
    """The leaves of a space by name ("a/b" inside nested Dicts), without Text.

    Raises:
        ValueError: for a leaf that cannot be encoded, and for keys that give no name, or two of
            one; names the key and the cure.
    """
    leaf_types = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    found = list(_leaf_spaces(space))
    for name, number in Counter(name for name, _ in found).items():
        if number > 1:
            raise ValueError(f"{number} parts of the observation are called {name!r}: rename one.")
    leaves = {name: leaf for name, leaf in found if not is_text(leaf)}
    for name, leaf in leaves.items():
        if not isinstance(leaf, leaf_types):
            raise ValueError(
                f"Observation {name!r} is {leaf}, which is not supported: {SUPPORTED} are. Turn it "
                "into one of these, in the environment or in a wrapper (--wrappers)."
            )
    return leaves


def text_leaves(space: gym.Space) -> list[str]:
    """The names of the leaves that `flatten_space` leaves out: Text."""
    return [name for name, leaf in _leaf_spaces(space) if is_text(leaf)]


def _leaf_spaces(space: gym.Space, name: str = "") -> Iterator[tuple[str, gym.Space]]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        is_dict = isinstance(space, spaces.Dict)
        for key, part in space.spaces.items() if is_dict else enumerate(space.spaces):
            if is_dict and not (isinstance(key, str) and key):
                raise ValueError(f"A key of the observation is {key!r}: give each a name, as text.")
            yield from _leaf_spaces(part, f"{name}/{key}" if name else str(key))
    else:
        yield name or ROOT, space


def flatten_observation(names: Iterable[str], observation: Any) -> dict[str, np.ndarray]:
    """The named leaves of a (batched) observation, as `flatten_space` names them."""
    return {name: np.asarray(_leaf(observation, name)) for name in names}


def _leaf(observation: Any, name: str) -> Any:
    if isinstance(observation, Mapping) and name in observation:
        return observation[name]
    if isinstance(observation, Mapping | tuple):
        head, _, rest = name.partition("/")
        key: Any = int(head) if isinstance(observation, tuple) else head
        return _leaf(observation[key], rest) if rest else observation[key]
    return observation


def is_text(space: gym.Space) -> bool:
    """Whether a space holds text, such as MiniGrid's missions; no model reads it."""
    return isinstance(space, spaces.Text) or (space.dtype is not None and space.dtype.kind == "U")


def space_to_json(space: gym.Space) -> dict[str, Any]:
    """A supported space as JSON; Text, which no model reads, is left out of Dict and Tuple."""
    if isinstance(space, spaces.Dict):
        parts = {k: space_to_json(v) for k, v in space.items() if not is_text(v)}
        return {"type": "Dict", "spaces": parts}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(part) for part in space]}
    form = {"type": type(space).__name__, "dtype": np.dtype(space.dtype).name}
    if isinstance(space, spaces.Box):
        return form | {
            "shape": list(space.shape),
            "low": _bound(space.low),
            "high": _bound(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return form | {"n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return form | {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n}
    return {"type": "Text"}


def space_from_json(form: Any) -> gym.Space:
    """The space that `space_to_json` wrote.

    Raises:
        ValueError: where it is none of them, or damaged.
    """
    if not isinstance(form, Mapping) or not isinstance(form.get("type"), str):
        raise ValueError(f"{form!r} describes no space: {SUPPORTED} are read.")
    try:
        return _space(form["type"], {k: v for k, v in form.items() if k != "type"})
    except (KeyError, TypeError, AttributeError, AssertionError, OverflowError) as error:
        raise ValueError(f"{form!r} describes no {form['type']} ({error!r}).") from error


def _space(kind: str, form: dict[str, Any]) -> gym.Space:
    """A space of a kind; what else it raises says that the form is damaged."""
    if kind == "Dict":
        # Pairs, not a dictionary, which Dict would sort: a model's parts are in the space's order.
        return spaces.Dict([(name, space_from_json(part)) for name, part in form["spaces"].items()])
    if kind == "Tuple":
        return spaces.Tuple([space_from_json(part) for part in form["spaces"]])
    if kind == "Box":
        low, high = (np.array(form[k], dtype=form["dtype"]) for k in ("low", "high"))
        shape = tuple(form["shape"])
        bounds = (np.broadcast_to(bound, shape) for bound in (low, high))
        return spaces.Box(*bounds, shape, np.dtype(form["dtype"]).type)  # pyright: ignore
    simple = {"Discrete": spaces.Discrete, "MultiDiscrete": spaces.MultiDiscrete}
    if kind in simple:
        return simple[kind](**form | {"dtype": np.dtype(form["dtype"]).type})
    if kind == "MultiBinary":
        return spaces.MultiBinary(form["n"])
    if kind == "Text":
        return spaces.Text(1)
    raise ValueError(f"{kind!r} is no space that was saved here: {SUPPORTED} are.")


def _bound(bound: np.ndarray) -> Any:
    """One number where all are the same; infinities as words, which JSON can hold."""
    uniform = bound.size > 0 and (bound == bound.flat[0]).all()
    value = (bound.flat[0] if uniform else bound).tolist()
    return value if np.isfinite(bound).all() else _words(value)


def _words(value: Any) -> Any:
    if isinstance(value, list):
        return [_words(item) for item in value]
    return value if math.isfinite(value) else str(value)
