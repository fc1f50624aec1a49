"""Arguments of commands into their dataclasses, by tyro; dictionaries are written name=value."""

import json
from typing import Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo


def parse(kind: Any, name: str, arguments: list[str], default: Any = None) -> Any:
    """The arguments of a command; tyro prints help and mistakes, and ends the program."""
    kwargs = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=f"clew {name}", args=arguments, registry=_registry(), **kwargs)


def _registry() -> ConstructorRegistry:
    """How dictionaries are written on the command line: name=value name=value."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def _pairs(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type != dict[str, Any]:
            return None
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar="[NAME=VALUE ...]",
            instance_from_str=parse_pairs,
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda pairs: [f"{k}={_written(v)}" for k, v in pairs.items()],
        )

    return registry


def parse_pairs(words: list[str]) -> dict[str, Any]:
    """name=value words as a dictionary; values are JSON where they can be, and else strings."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise ValueError(f"{word!r} is not of the form name=value, such as length=50")
        try:
            pairs[name] = json.loads(value)
        except json.JSONDecodeError:
            pairs[name] = value
    return pairs


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
