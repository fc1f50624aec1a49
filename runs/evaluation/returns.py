"""The suite `return`: what the agent earns, between its floor and its ceiling.

The same new episodes are played greedily, by sampled actions, greedily with memory off, by random
actions, and by the environment's oracle where it has one.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from matplotlib.figure import Figure

from envs import Episode
from envs.contract import chance_fault, is_action
from envs.registry import make
from envs.stream import can
from runs.config import Config
from runs.evaluation.clips import film
from runs.evaluation.play import (
    OraclePlayer,
    Player,
    RandomPlayer,
    always,
    new_streams,
    play_new,
    player_of,
)
from runs.evaluation.statistics import (
    interval_of,
    mean_ci,
    rate_ci,
    surely_more,
    value_of,
    written,
)
from runs.evaluation.suite import Budget, Clip, Report, Sheet, Subject, Suite, Tell, needs_policy

NAMES = {
    "greedy": "greedy",
    "sampled": "sampled",
    "memory_off": "memory off, greedy",
    "random": "random",
    "oracle": "oracle",
}


def measure(subject: Subject, budget: Budget, tell: Tell) -> Report:
    """Return, success and length of every player."""
    of = budget.episodes, budget.seed, budget.max_steps
    played = {
        name: play_new(player, subject.config, *of, tell, NAMES[name])
        for name, player in players(subject, budget).items()
    }
    reported = says_success(*played.values())
    found = {name: summary(part, reported) | {"each": each(part)} for name, part in played.items()}
    return {"players": found, "chance": chance(subject.config)}


def chance(config: Config) -> float | None:
    """Success of whoever guesses instead of remembering; None where the environment says none."""
    env = make(config.known_env, config.env_kwargs, config.wrappers)
    env.close()
    return env.get_wrapper_attr("chance") if env.has_wrapper_attr("chance") else None


def missing(subject: Subject) -> str:
    """What a subject lacks, or what is wrong with what its environment says of itself."""
    return needs_policy(subject) or odd(subject.config)


def odd(config: Config) -> str:
    """What is wrong with the environment's `chance` or oracle; nothing where all is well."""
    env = make(config.known_env, config.env_kwargs, config.wrappers)
    with closing(env):
        if fault := chance_fault(env):
            return f"in {config.env}, {fault}"
        if not can(env, "oracle"):
            return ""
        env.reset(seed=0)
        try:
            action = env.unwrapped.oracle()  # pyright: ignore[reportAttributeAccessIssue]
        except Exception as error:  # whatever it raises, it is told
            return f"oracle() of {config.env} raised {type(error).__name__}: {error}"
    if is_action(env.action_space, action):
        return ""
    return f"oracle() of {config.env} returned {action!r}, which is no action of {env.action_space}"


def says_success(*played: Sequence[Episode]) -> bool:
    """Whether any episode of any player says how it went: some say it of successes alone."""
    return any(episode.success is not None for episodes in played for episode in episodes)


def each(episodes: Sequence[Episode]) -> dict[str, list[Any]]:
    """Every single episode, so that runs can be summed up together."""
    return {
        "return": [e.return_ for e in episodes],
        "success": [e.success for e in episodes],
        "length": [e.length for e in episodes],
    }


def players(subject: Subject, budget: Budget) -> dict[str, Player]:
    """Whoever plays, by the names in the report."""
    agent = subject.agent
    found: dict[str, Player] = {
        "greedy": player_of(agent),
        "sampled": player_of(agent, deterministic=False),
        "memory_off": player_of(agent, forget=always),
        "random": RandomPlayer(budget.seed),
    }
    with new_streams(subject.config, 1, budget.seed) as streams:
        if streams.has_oracle():
            found["oracle"] = OraclePlayer()
    return found


def summary(episodes: Sequence[Episode], reported: bool) -> dict[str, Any]:
    """Means and rates over episodes; success is None where none is `reported`."""
    successes = [bool(e.success) for e in episodes]
    return {
        "return": mean_ci([e.return_ for e in episodes]),
        "success": rate_ci(successes) if reported else None,
        "length": mean_ci([e.length for e in episodes]),
    }


def sheets(report: Report) -> list[Sheet]:
    """One table, a player a row."""
    keys = ("return", "success", "length")
    rows = [
        (NAMES[name], *(written(found[key]) for key in keys))
        for name, found in report["players"].items()
    ]
    return [Sheet("What it earns", ("", *keys), rows, verdict(report))]


def verdict(report: Report) -> str:
    """In a sentence: how well the agent does, and whether it does it by remembering."""
    on, off = report["players"]["greedy"], report["players"]["memory_off"]
    key, does = ("success", "succeeds in {} of new episodes, with memory off in {}")
    if not on["success"]:
        key, does = ("return", "reaches a mean return of {}, with memory off {}")
    guess = report.get("chance") if on["success"] else None
    if not surely_more(on[key], off[key]):
        means = "no clear difference in so many"
    elif guess is None or interval_of(on[key])[0] > guess:
        means = "it acts by what it remembers"
    else:
        means = f"memory is of use, but guessing succeeds in {guess:.0%} as well"
    return f"The agent {does.format(*map(_value, (on[key], off[key])))}: {means}."


def _value(measure: dict[str, Any]) -> str:
    return written({**measure, "ci95": None}, "{:.4g}")


def headline(report: Report) -> dict[str, str]:
    """What a comparison shows."""
    found = {}
    for name in ("greedy", "memory_off"):
        part = report["players"][name]
        for key in ("return", "success"):
            found[f"{key}, {NAMES[name]}"] = written(part[key])
    return found


def figures(report: Report) -> dict[str, Figure]:
    """Every player's return, or success where it is reported."""
    found = report["players"]
    key = "success" if found["greedy"]["success"] else "return"
    figure = Figure(figsize=(6, 0.5 * len(found) + 1), layout="constrained")
    axes = figure.subplots()
    for place, (name, part) in enumerate(reversed(found.items())):
        axes.barh(place, value_of(part[key]), color="0.7" if name in ("random", "oracle") else "C0")
        axes.plot(interval_of(part[key]), [place, place], color="black")
    axes.set_yticks(range(len(found)), [NAMES[name] for name in reversed(found)])
    axes.set_xlabel(key)
    return {key: figure}


def clips(subject: Subject, budget: Budget) -> dict[str, Clip]:
    """The first episode, greedily."""
    clip = film(player_of(subject.agent), subject.config, budget.seed)
    return {"greedy": clip} if clip else {}


SUITE = Suite(
    name="return",
    about="What the agent earns in new episodes, between its floor and its ceiling.",
    missing=missing,
    measure=measure,
    sheets=sheets,
    headline=headline,
    figures=figures,
    clips=clips,
)
