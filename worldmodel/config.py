"""Typed, frozen, strict configuration: dataclasses from plain dictionaries, and nothing else."""

import difflib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

C = TypeVar("C")


def from_dict(kind: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """The dataclass `kind` from a dictionary, as `dataclasses.asdict` and JSON write it.

    Raises:
        ValueError: for an unknown key (naming the nearest ones) or a value of a wrong type.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, cutoff=0.4) or names
            raise ValueError(f"There is no setting {prefix}{key}. Nearest: {', '.join(near)}.")
    return kind(**{k: _convert(hints[k], v, f"{prefix}{k}") for k, v in values.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    """The value as a `kind`; lists become tuples, whole numbers floats."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(value, Mapping):
        return from_dict(kind, value, where)  # pyright: ignore[reportArgumentType]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return dict(value)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        isinstance(kind, type)
        and isinstance(value, kind)
        and (kind is bool) == isinstance(value, bool)
    ):
        return value
    raise ValueError(
        f"The setting {where} = {value!r} must be of type {getattr(kind, '__name__', kind)}."
    )


def _convert_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    return _convert(next(kind for kind in kinds if kind is not type(None)), value, where)
