"""What clew makes of an environment: how it is read, how it is acted in, what is wrong with it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import gymnasium as gym
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from envs import make
from envs.check import check
from runs.config import Config
from worldmodel.actions import ActionCodec
from worldmodel.codec import ObservationCodec
from worldmodel.spaces import flatten_space, text_leaves

DROPPED = "not read: it is Text"
LINE = 60


def check_env(
    env_id: str,
    kwargs: Mapping[str, Any] | None = None,
    wrappers: tuple[str, ...] = (),
    steps: int = 1000,
    seed: int = 0,
    on_read: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """The report on an environment; `on_read` gets what is known of it before it is played.

    Raises:
        ValueError: where it cannot be made at all.
    """
    env = make(env_id, kwargs, wrappers, guard=False)
    try:
        observation, action, wrong = _read(env)
        about = {"env": env_id, "env_kwargs": dict(kwargs or {}), "wrappers": list(wrappers)}
        about |= {"observation": observation, "action": action}
        on_read(about)
        found = check(env, steps, seed)
    finally:
        env.close()
    found.notes = _maybe_turned(env.observation_space) + found.notes
    return about | asdict(found) | {"steps_per_second": found.speed, "wrong": wrong + found.wrong}


def _read(env: gym.Env) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """How each key is encoded and an action decoded, with the default sizes of the model."""
    sizes, observation, action, wrong = Config().model, {}, {}, []
    try:
        leaves = flatten_space(env.observation_space)
        codec = ObservationCodec(env.observation_space, sizes.codec, sizes.grid)
        parts = zip(codec.names, codec.about, strict=True)
        observation = {name: {"space": _short(leaves[name]), "read": read} for name, read in parts}
        texts = text_leaves(env.observation_space)
        observation |= {name: {"space": "Text", "read": DROPPED} for name in texts}
    except ValueError as error:
        wrong.append(str(error))
    action = {"space": _short(env.action_space), "acted": ""}
    try:
        action["acted"] = ActionCodec(env.action_space).about
    except ValueError as error:
        wrong.append(str(error))
    return observation, action, [text.rstrip(".") for text in wrong]


def _maybe_turned(space: gym.Space) -> list[str]:
    """Pictures whose channels seem to come first."""
    try:
        shapes = {name: leaf.shape or () for name, leaf in flatten_space(space).items()}
    except ValueError:
        return []
    return [
        f"{name!r} of shape {shape} is read as a picture of height x width x channels. If its "
        "channels come first, return observation.transpose(1, 2, 0), and declare that shape"
        for name, shape in shapes.items()
        if len(shape) == 3 and shape[0] <= 4 < min(shape[1:])
    ]


def show_spaces(report: Mapping[str, Any], console: Console, steps: int) -> None:
    """Print how each key is read, and how actions are chosen."""
    table = Table("", "space", "how", title=escape(report["env"]), title_justify="left")
    for name, part in report["observation"].items():
        table.add_row(escape(name), escape(part["space"]), escape(part["read"]))
    action = report["action"]
    table.add_row("action", escape(action["space"]), escape(action["acted"]))
    console.print(table)
    console.print(f"Playing {steps:,} steps of random actions. Ctrl-C ends it and tells the rest.")


def show_findings(report: Mapping[str, Any], console: Console) -> None:
    """Print what came of playing."""
    speed = f"{report['steps_per_second']:,.0f} steps/s"
    console.print(f"{report['steps']:,} steps, {report['episodes']:,} episodes ended, {speed}")
    for title, key in (("Worth knowing", "notes"), ("Wrong", "wrong")):
        for text in report[key]:
            console.print(f"{title}: {text}.", soft_wrap=True, markup=False)
    if not report["wrong"]:
        console.print("Nothing is wrong with it.")


def _short(space: gym.Space) -> str:
    """A space on a line: bounds and counts of many entries would fill pages."""
    line = " ".join(str(space).split())
    return line if len(line) <= LINE else f"{type(space).__name__}{space.shape}, {space.dtype}"
