"""The suite `ablate-memory`: when was the memory used, and for how long back is it needed?

`once`: the memory is cleared a single time, a given number of steps into each episode. The return
falls where something seen before is still needed afterwards. `every`: the memory is cleared again
and again, so that it never reaches back further than so many steps.
"""

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from envs import Episode
from runs.evaluation.play import Forget, never, play_new, player_of
from runs.evaluation.returns import says_success, summary
from runs.evaluation.statistics import interval_of, surely_more, value_of, written
from runs.evaluation.suite import (
    Budget,
    Report,
    Sheet,
    Subject,
    Suite,
    Tell,
    needs_policy,
)

POINTS = 6  # moments at which the memory is cleared once
NOT_SHOWN = "not shown"
NAMES = {"once": "cleared once, after", "every": "cleared every"}


def once(at: int, steps: np.ndarray) -> np.ndarray:
    """Clear the memory before the record after `at` steps."""
    return steps == at


def every(span: int, steps: np.ndarray) -> np.ndarray:
    """Clear the memory again and again, before every `span`th record."""
    return steps % span == 0


def measure(subject: Subject, budget: Budget, tell: Tell) -> Report:
    """Return and success with memory whole, cleared once, and of limited reach."""
    whole = _played(subject, budget, never, tell, "memory whole")
    length = round(float(np.mean([episode.length for episode in whole])))
    played = {
        kind: {
            steps: _played(
                subject, budget, partial(way, steps), tell, f"{NAMES[kind]} {counted(steps)}"
            )
            for steps in choose(length)
        }
        for kind, way, choose in (("once", once, moments), ("every", every, spans))
    }
    reported = says_success(whole, *(part for parts in played.values() for part in parts.values()))
    found = {
        kind: [{"steps": steps, **summary(part, reported)} for steps, part in parts.items()]
        for kind, parts in played.items()
    }
    return {"whole": summary(whole, reported), **found}


def moments(length: int) -> list[int]:
    """From right after the first record to right before the last."""
    return sorted({max(1, round(m)) for m in np.linspace(1, max(1, length - 1), POINTS)})


def spans(length: int) -> list[int]:
    """1, 4, 16 and so on, up to the length of an episode."""
    return [4**power for power in range(20) if 4**power < length] or [1]


def counted(steps: int) -> str:
    """1 step, 2 steps."""
    return f"{steps:,} step{'s' if steps > 1 else ''}"


def _played(
    subject: Subject, budget: Budget, forget: Forget, tell: Tell, what: str
) -> list[Episode]:
    player = player_of(subject.agent, forget=forget)
    of = budget.episodes, budget.seed, budget.max_steps
    return play_new(player, subject.config, *of, tell, what)


def sheets(report: Report) -> list[Sheet]:
    """One table, a way of forgetting a row."""
    parts = [("memory whole", report["whole"])]
    parts += [
        (f"{words} {counted(found['steps'])}", found)
        for kind, words in NAMES.items()
        for found in report[kind]
    ]
    rows = [(name, written(found["return"]), written(found["success"])) for name, found in parts]
    return [Sheet("What forgetting costs", ("memory", "return", "success"), rows, verdict(report))]


def headline(report: Report) -> dict[str, str]:
    """What a comparison shows: the shortest reach of memory that keeps 90 % of what it earns.

    Not shown where so many episodes do not tell it from what is earned with memory off.
    """
    key = _key(report)
    off, on = report["every"][0][key], report["whole"][key]
    floor, whole = value_of(off), value_of(on)
    enough = (f for f in report["every"] if value_of(f[key]) >= floor + 0.9 * (whole - floor))
    least = next((counted(found["steps"]) for found in enough), "all of the episode")
    return {"memory needed": least if surely_more(on, off) else NOT_SHOWN}


def verdict(report: Report) -> str:
    """What was needed of the memory, and when, in a sentence."""
    key, (least,) = _key(report), headline(report).values()
    if least == NOT_SHOWN:
        return (
            f"That memory is needed is not shown: with memory off the {key} is not clearly less in "
            "so many episodes."
        )
    worst = min(report["once"], key=lambda found: value_of(found[key]))
    text = f"Nine tenths of what memory earns take a memory of {least}."
    if not surely_more(report["whole"][key], worst[key]):
        return f"{text} What it costs to clear it a single time does not show in so many episodes."
    when = f"after {counted(worst['steps'])} ({written(worst[key])})"
    return f"{text} To clear it a single time costs most {when}."


def _key(report: Report) -> str:
    """What is compared: success where it is reported, else the return."""
    return "success" if report["whole"]["success"] else "return"


def figures(report: Report) -> dict[str, Figure]:
    """Both curves, success where it is reported, beside the whole memory."""
    key = _key(report)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    whole = value_of(report["whole"][key])
    for axes, (kind, words) in zip(figure.subplots(1, 2), NAMES.items(), strict=True):
        steps = [found["steps"] for found in report[kind]]
        axes.plot(steps, [value_of(found[key]) for found in report[kind]], marker="o")
        low, high = zip(*(interval_of(found[key]) for found in report[kind]), strict=True)
        axes.fill_between(steps, low, high, alpha=0.2)
        axes.axhline(whole, color="0.6", linestyle=":", label="memory whole")
        axes.set(xlabel=f"{words} … steps", ylabel=key)
        axes.legend()
    return {key: figure}


SUITE = Suite(
    name="ablate-memory",
    about="When the memory was used: what it costs to clear it once, or to limit its reach.",
    missing=needs_policy,
    measure=measure,
    sheets=sheets,
    headline=headline,
    figures=figures,
)
