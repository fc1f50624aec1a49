"""The suite `horizon`: how long a delay between a cue and its use an agent still masters.

Tasks with an argument for the delay (an environment names it in its attribute `delay`) are played
at a quarter, half and all of the delay of training, then at twice as much again and again until
fewer than 90 % succeed (or half as much, until 90 % do), and last between the longest solved delay
and the next one. The memory horizon is the longest delay up to which all were solved. A delay whose
episodes had to be cut before their end (`max_steps`) counts as not tried, unless it is failed even
if all of those would have succeeded. A world model that learned alone is measured by what it dreams
(the suite `dreamed`, the real end shown).
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure

from envs.contract import delay_fault
from envs.registry import make
from runs.config import Config
from runs.evaluation import dreamed
from runs.evaluation.play import RandomPlayer, always, never, play_new, player_of
from runs.evaluation.returns import chance, odd
from runs.evaluation.statistics import rate_ci, surely_more, written
from runs.evaluation.suite import Budget, Report, Sheet, Subject, Suite, Tell

SOLVED = 0.9
PATIENCE = 2000  # steps of an episode that is played to see whether its success is reported
PRECISION = 1.25  # of the shortest delay that is not solved, by the longest that is


def missing(subject: Subject) -> str:
    """What a subject lacks whose task has no delay, or does not say whether it was solved."""
    config = subject.config
    if fault := odd(config) or _delay_fault(config):
        return fault
    if not delay_argument(config):
        return f"{config.env} has no attribute `delay` that names its argument for the delay"
    if config.model_only:
        crossable = dreamed.is_crossable(config)
        return "" if crossable else "a world model alone can only cross corridors, in its dreams"
    if not _says_success(config):
        return f"{config.env} does not report info['is_success'] at the end of an episode"
    return ""


def _delay_fault(config: Config) -> str:
    with closing(make(config.known_env, config.env_kwargs, config.wrappers)) as env:
        fault = delay_fault(env)
    return f"in {config.env}, {fault}" if fault else ""


def _says_success(config: Config) -> bool:
    """Whether an episode of random actions ends with a word on success, or does not end soon."""
    (episode,) = play_new(RandomPlayer(), config, 1, 0, PATIENCE)
    return episode.success is not None or episode.length >= PATIENCE


def delay_argument(config: Config) -> str:
    """The argument of a task that says for how many steps something must be kept; or nothing.

    Nothing as well where the environment's own `delay` is no name of an argument with a default.
    """
    env = make(config.known_env, config.env_kwargs, config.wrappers)
    env.close()
    name, parameters = getattr(env.unwrapped, "delay", ""), _parameters(env)
    known = isinstance(name, str) and name in parameters
    return name if known and (name in config.env_kwargs or _whole(parameters[name].default)) else ""


def _parameters(env: gym.Env) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(env.unwrapped)).parameters


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def measure(subject: Subject, budget: Budget, tell: Tell) -> Report:
    """Success by delay, with memory and with memory off, and the memory horizon."""
    argument = delay_argument(subject.config)
    trained = _trained(subject, argument)
    found: dict[int, dict[str, Any]] = {}

    def solves(delay: int) -> bool | None:
        config = with_delay(subject.config, argument, delay)
        point = _success(replace(subject, config=config), budget, delay, tell)
        solved = point["memory"]["rate"] >= SOLVED
        if not solved and point["memory"]["rate"] + point["cut"] >= SOLVED:
            return None
        found[delay] = point
        return solved

    horizon, failed = search(solves, trained, max(1, budget.max_steps - 1))
    by_delay = [{"delay": delay, **found[delay]} for delay in sorted(found)]
    return {
        "argument": argument,
        "predicted": subject.config.model_only,
        "trained": trained,
        "solved_at": SOLVED,
        "chance": chance(subject.config),
        "horizon": horizon,
        "failed": failed,
        "by_delay": by_delay,
    }


def search(
    solves: Callable[[int], bool | None], trained: int, longest: int
) -> tuple[int, int | None]:
    """The longest delay up to which all tried ones are solved, and the shortest that is not.

    None where the longest allowed one is solved, or the next could not be decided (`solves` says
    None); a horizon of 0 where not even a delay of one step is solved.
    """
    good, bad = 0, None
    while delay := _next(good, bad, trained, longest):
        solved = solves(delay)
        if solved is None:
            break
        good, bad = (delay, bad) if solved else (good, delay)
    return good, bad


def _next(good: int, bad: int | None, trained: int, longest: int) -> int:
    """The delay to try next; 0 where the horizon is known."""
    if bad is None:
        delays = (max(1, trained // 4), max(1, trained // 2), trained, 2 * good)
        delay = min(next(delay for delay in delays if delay > good), longest)
        return delay if delay > good else 0
    middle = (good + bad) // 2
    return middle if bad > PRECISION * good and middle > good else 0


def _trained(subject: Subject, argument: str) -> int:
    """The delay of training: the argument, or its default."""
    config = subject.config
    if subject.learned and subject.learned.env == config.env:
        config = subject.learned
    if argument in config.env_kwargs:
        return int(config.env_kwargs[argument])
    env = make(config.known_env, config.env_kwargs, config.wrappers)
    env.close()
    return _parameters(env)[argument].default


def with_delay(config: Config, argument: str, delay: int) -> Config:
    """The same task with another delay; where lengths are drawn, all as long as this one."""
    fixed = {"shortest": None} if "shortest" in config.env_kwargs else {}
    return replace(config, env_kwargs=config.env_kwargs | {argument: delay} | fixed)


def _success(subject: Subject, budget: Budget, delay: int, tell: Tell) -> dict[str, Any]:
    if subject.config.model_only:
        found = dreamed.cross(subject.agent, subject.config, budget, ("led",), tell)
        return {name: ways["led"] for name, ways in found.items()} | {"cut": 0.0}
    of = budget.episodes, budget.seed, budget.max_steps
    report: dict[str, Any] = {}
    for name, forget in (("memory", never), ("memory_off", always)):
        player, what = player_of(subject.agent, forget=forget), f"delay {delay:,}, {name}"
        episodes = play_new(player, subject.config, *of, tell, what)
        report[name] = rate_ci([bool(episode.success) for episode in episodes])
        cut = [not e.success and e.length >= budget.max_steps for e in episodes]
        report.setdefault("cut", sum(cut) / len(cut))
    return report


def sheets(report: Report) -> list[Sheet]:
    """One table, a delay a row."""
    rows = [
        (f"{point['delay']:,}", written(point["memory"]), written(point["memory_off"]))
        for point in report["by_delay"]
    ]
    what = "Rewards predicted right" if report.get("predicted") else "Success"
    title = f"{what} by delay ({report['argument']}), trained at {report['trained']:,}"
    if report.get("chance") is not None:
        title += f", guessing {report['chance']:.0%}"
    return [Sheet(title, ("delay", "with memory", "memory off"), rows, verdict(report))]


def headline(report: Report) -> dict[str, str]:
    """What a comparison shows; what a policy masters is never shown as what a model predicts."""
    name = "memory horizon, of predictions" if report.get("predicted") else "memory horizon"
    if not report["horizon"]:
        return {name: f"none (trained at {report['trained']:,})"}
    doubt = "" if _needs_memory(report) else "; no better than with memory off"
    return {name: f"{report['horizon']:,} steps (trained at {report['trained']:,}{doubt})"}


def _needs_memory(report: Report) -> bool:
    """Whether memory is surely of use at the horizon."""
    (at,) = (point for point in report["by_delay"] if point["delay"] == report["horizon"])
    return surely_more(at["memory"], at["memory_off"])


def verdict(report: Report) -> str:
    """The memory horizon, in a sentence."""
    horizon, failed, trained = report["horizon"], report["failed"], report["trained"]
    if not horizon and failed is None:
        return "No memory horizon: the episodes were cut before their end; raise --max-steps."
    if not horizon:
        return f"No memory horizon: not even a delay of {failed:,} is solved (90 %)."
    until = (
        "; longer ones take more than --max-steps"
        if failed is None
        else f", and {failed:,} is not solved"
    )
    share = f"{horizon / trained:.2g} times the delay of training"
    text = f"Memory horizon: {horizon:,} steps, {share}{until}."
    if _needs_memory(report):
        return text
    return f"{text} It is not surely better there than with memory off: that may need no memory."


def figures(report: Report) -> dict[str, Figure]:
    """Success by delay, with its intervals."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    delays = [point["delay"] for point in report["by_delay"]]
    for name, label in (("memory", "with memory"), ("memory_off", "memory off")):
        found = [point[name] for point in report["by_delay"]]
        axes.plot(delays, [part["rate"] for part in found], marker="o", label=label)
        low, high = np.reshape([part["ci95"] for part in found], (-1, 2)).T
        axes.fill_between(delays, low, high, alpha=0.2)
    axes.axvline(report["trained"], color="0.6", linestyle=":", label="trained at")
    if report.get("chance") is not None:
        axes.axhline(report["chance"], color="0.6", linestyle="--", label="guessing")
    axes.axhline(SOLVED, color="0.6", linewidth=0.8)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="delay, steps", ylabel="success")
    axes.set_xticks(delays, [f"{delay:,}" for delay in delays], rotation=45)
    axes.minorticks_off()
    axes.legend()
    return {"success": figure}


SUITE = Suite(
    name="horizon",
    about="The longest delay between a cue and its use that is still mastered.",
    missing=missing,
    measure=measure,
    sheets=sheets,
    headline=headline,
    figures=figures,
)
