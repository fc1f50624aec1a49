"""The suite `navigation`: does it find again what it has found before?

Being asked for an object begins a leg, touching it ends it. Whoever remembers walks a straighter
way to it the second time; whoever does not, does not, and an oracle walks straight from the first.
So the slope from first visits to later ones is what memory is worth on the way.

How straight a way is: the shortest path over the path walked, 0 where the object was not reached
(SPL; Anderson et al. 2018, "On Evaluation of Embodied Navigation Agents"). Every leg is given the
same patience, a fifth of an episode: what takes longer was not reached, and a leg asked for too
late to be given as much is left out, however it went. Were only finished legs counted, a bad
player would be judged by its lucky ones; were cut ones failures, an oracle would fail once in
every episode.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from envs.memory_maze.motion import CELL, TOUCH
from envs.memory_maze.oracle import distances, way_length
from runs.evaluation.clips import film
from runs.evaluation.mazes import Walk, needs_maze, walk
from runs.evaluation.play import (
    OraclePlayer,
    Player,
    RandomPlayer,
    always,
    new_streams,
    player_of,
)
from runs.evaluation.statistics import Measure, clusters_ci, interval_of, mean_ci, written
from runs.evaluation.suite import Budget, Clip, Report, Sheet, Subject, Suite, Tell, needs_policy

SHARE = 0.16  # of the episodes of the budget: each has dozens of legs
PATIENCE = 5  # legs are given an episode's steps divided by this
LEAST = 1e-3  # cells; no way is shorter
ROOM = 0.05  # less than this cannot be gained: then nothing is said of its share
NAMES = {
    "memory_on": "memory on",
    "memory_off": "memory off",
    "random": "random",
    "oracle": "oracle",
}
COLOURS = {"memory_on": "C0", "memory_off": "C3", "random": "0.6", "oracle": "C2"}
MARKS = ("o", "s", "^", "D")


class Leg(NamedTuple):
    """The way to one object, from being asked for it to touching it, or to the end of patience."""

    visit: int  # how often it had been reached before
    sightings: int  # how often it had come into view before
    ago: int  # steps since it was in view; -1 where it never was
    steps: int  # taken, at most the patience
    reached: bool
    shortest: float
    walked: float

    @property
    def spl(self) -> float:
        """Shortest path over the path walked; 0 where the object was not reached."""
        return self.reached * self.shortest / max(self.walked, self.shortest)


Legs = Sequence[Sequence[Leg]]  # of each episode
Belongs = Callable[[Leg], bool]

VISITS: dict[str, Belongs] = {
    "1st": lambda leg: leg.visit == 0,
    "2nd": lambda leg: leg.visit == 1,
    "3rd": lambda leg: leg.visit == 2,
    "4th and later": lambda leg: leg.visit > 2,
}
SIGHTINGS: dict[str, Belongs] = {
    "never": lambda leg: leg.sightings == 0,
    "once": lambda leg: leg.sightings == 1,
    "2 to 4 times": lambda leg: 2 <= leg.sightings <= 4,
    "5 times or more": lambda leg: leg.sightings > 4,
}
AGO: dict[str, Belongs] = {
    "in sight": lambda leg: leg.ago == 0,
    "1 to 9": lambda leg: 1 <= leg.ago < 10,
    "10 to 49": lambda leg: 10 <= leg.ago < 50,
    "50 to 199": lambda leg: 50 <= leg.ago < 200,
    "200 or more": lambda leg: leg.ago >= 200,
}
GROUPS = {"visit": VISITS, "seen": SIGHTINGS, "ago": AGO}
TITLES = {
    "visit": ("By visit: how straight the way is", "visit"),
    "seen": ("By how often it came into view before it was asked for", "seen before"),
    "ago": ("By how long ago it was in view when it was asked for", "steps ago"),
}


def legs_of(episode: Walk, patience: int) -> list[Leg]:
    """The legs of an episode that could be given this patience."""
    touches = np.flatnonzero(episode.rewards > 0).tolist()
    ends = [*touches, episode.steps + patience]  # the last leg has none
    visits = np.zeros(len(episode.targets), np.int64)
    found = []
    for start, end in zip([0, *touches], ends, strict=True):
        target = int(episode.asked[start])
        if start + patience <= episode.steps:
            found.append(_leg(episode, target, int(visits[target]), start, end, patience))
        visits[target] += 1
    return found


def _leg(episode: Walk, target: int, visit: int, start: int, end: int, patience: int) -> Leg:
    x, y = episode.targets[target]
    far = distances(episode.layout, int(x), int(y))
    shortest = way_length(episode.layout, far, *episode.positions[start]) - TOUCH / CELL
    stop = min(end, start + patience)
    seen = episode.objects_seen[: start + 1, target]
    came = int(seen[0]) + int((seen[1:] & ~seen[:-1]).sum())
    ago = int(seen[::-1].argmax()) if seen.any() else -1
    walked = np.hypot(*np.diff(episode.positions[start : stop + 1], axis=0).T).sum()
    reached = end <= start + patience
    return Leg(visit, came, ago, stop - start, reached, max(shortest, LEAST), float(walked))


def measure(subject: Subject, budget: Budget, tell: Tell) -> Report:
    """Legs of every player, the slopes of their straightness, and what they say."""
    episodes = max(1, round(SHARE * budget.episodes))
    found = {}
    for name, player in players(subject, budget).items():
        limits = episodes, budget.seed, budget.max_steps
        found[name] = walk(player, subject.config, *limits, tell, NAMES[name])
    return score(found)


def players(subject: Subject, budget: Budget) -> dict[str, Player]:
    """Whoever walks, by the names in the report."""
    found: dict[str, Player] = {
        "memory_on": player_of(subject.agent),
        "memory_off": player_of(subject.agent, forget=always),
        "random": RandomPlayer(budget.seed),
    }
    with new_streams(subject.config, 1, budget.seed) as streams:
        if streams.has_oracle():
            found["oracle"] = OraclePlayer()
    return found


def score(found: dict[str, list[Walk]]) -> Report:
    """The report on the same episodes by several players, `memory_on` and `memory_off` of them."""
    steps = max(episode.steps for episodes in found.values() for episode in episodes)
    patience = max(1, steps // PATIENCE)
    legs = {name: [legs_of(one, patience) for one in walks] for name, walks in found.items()}
    return {
        "walked_episodes": len(found["memory_on"]),
        "patience": patience,
        "players": {name: summary(found[name], legs[name]) for name in found},
        "score": difference(legs["memory_on"], legs["memory_off"]),
        "share": share(legs["memory_on"], legs["oracle"]) if "oracle" in legs else None,
    }


def summary(episodes: Sequence[Walk], legs: Legs) -> dict[str, Any]:
    """What one player did."""
    asked = sum(1 + int((one.rewards > 0).sum()) for one in episodes)
    counts = {
        "asked": asked,
        "judged": sum(map(len, legs)),
        "too_late": asked - sum(map(len, legs)),
        "reached": sum(leg.reached for one in legs for leg in one),
    }
    groups = {
        f"by_{kind}": {name: _group(legs, belongs) for name, belongs in members.items()}
        for kind, members in GROUPS.items()
    }
    returns = mean_ci([float(one.rewards.sum()) for one in episodes])
    return {"return": returns, "legs": counts, **groups, "slope": slope(legs)}


def _group(legs: Legs, belongs: Belongs) -> dict[str, Any]:
    chosen = [[leg for leg in one if belongs(leg)] for one in legs]
    chosen = [one for one in chosen if one]
    if not chosen:
        return {"legs": 0, "spl": None, "reached": None, "steps": None}
    values = {
        "spl": [[leg.spl for leg in one] for one in chosen],
        "reached": [[float(leg.reached) for leg in one] for one in chosen],
        "steps": [[float(leg.steps) for leg in one] for one in chosen],
    }
    means = {name: _mean(part) for name, part in values.items()}
    return {"legs": sum(map(len, chosen)), **means}


def _mean(episodes: Sequence[Sequence[float]]) -> Measure:
    """Mean over all legs, its interval by redrawing episodes."""
    totals = np.array([(sum(one), len(one)) for one in episodes])
    return clusters_ci(len(totals), lambda i: totals[i, 0].sum(-1) / totals[i, 1].sum(-1))


def _totals(legs: Legs) -> np.ndarray:
    """For each episode SPL and number of first legs, and of later ones."""
    kinds = [[leg for leg in one if (leg.visit > 0) == later] for later in (0, 1) for one in legs]
    totals = np.array([(sum(leg.spl for leg in one), len(one)) for one in kinds])
    return totals.reshape(2, len(legs), 2).transpose(1, 0, 2)


def _means(totals: np.ndarray, episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean SPL of first and of later legs, over episodes given by their indices."""
    sums = totals[episodes].sum(-3)
    means = sums[..., 0] / sums[..., 1]
    return means[..., 0], means[..., 1]


def _can_tell(*legs: Legs) -> bool:
    """Whether there are legs of both kinds, in two episodes at least."""
    return all(((_totals(one)[..., 1] > 0).sum(0) > 1).all() for one in legs)


def slope(legs: Legs) -> Measure | None:
    """Mean SPL of later visits minus that of first ones; None where there is none of either."""
    if not _can_tell(legs):
        return None
    totals = _totals(legs)

    def statistic(episodes: np.ndarray) -> np.ndarray:
        first, later = _means(totals, episodes)
        return later - first

    return clusters_ci(len(legs), statistic)


def difference(on: Legs, off: Legs) -> Measure | None:
    """The slope with memory minus the one without, in the same mazes."""
    if not _can_tell(on, off):
        return None
    with_memory, without = _totals(on), _totals(off)

    def statistic(episodes: np.ndarray) -> np.ndarray:
        first, later = _means(with_memory, episodes)
        first_off, later_off = _means(without, episodes)
        return (later - first) - (later_off - first_off)

    return clusters_ci(len(on), statistic)


def share(on: Legs, oracle: Legs) -> Measure | None:
    """The slope as a share of what could be gained: up to the oracle's later visits.

    None where there is not for sure more than ROOM to gain: a share of nothing could be any number.
    """
    if not _can_tell(on, oracle):
        return None
    mine, best = _totals(on), _totals(oracle)

    def room(episodes: np.ndarray) -> np.ndarray:
        return _means(best, episodes)[1] - _means(mine, episodes)[0]

    def statistic(episodes: np.ndarray) -> np.ndarray:
        first, later = _means(mine, episodes)
        return (later - first) / room(episodes)

    least = interval_of(clusters_ci(len(on), room))[0]
    return clusters_ci(len(on), statistic) if least > ROOM else None


def sheets(report: Report) -> list[Sheet]:
    """The players, then their straightness by visit, by sightings and by time since the last."""
    return [_overview(report), *(_by(report, kind) for kind in GROUPS)]


def headline(report: Report) -> dict[str, str]:
    """What a comparison shows."""
    slope, score = report["players"]["memory_on"]["slope"], report["score"]
    found = {"navigation slope": slope, "navigation slope over memory off": score}
    return {name: written(part, "{:.2f}") if part else "none" for name, part in found.items()}


def _overview(report: Report) -> Sheet:
    rows = []
    for name, found in report["players"].items():
        legs = found["legs"]
        cells = (f"{legs['reached']} of {legs['judged']}", str(legs["too_late"]))
        straight = [found["by_visit"][visit]["spl"] for visit in ("1st", "2nd")]
        parts = [written(part, "{:.2f}") for part in (*straight, found["slope"])]
        line = written(found["return"]), *cells, *parts
        rows.append((NAMES[name], *(cell.replace("not reported", "none") for cell in line)))
    columns = ("", "return", "reached", "too late", "1st visit", "2nd visit", "slope")
    return Sheet("Does it find again what it has found?", columns, rows, verdict(report))


def _by(report: Report, kind: str) -> Sheet:
    title, head = TITLES[kind]
    rows = []
    for group in GROUPS[kind]:
        parts = {name: found[f"by_{kind}"][group] for name, found in report["players"].items()}
        rows.append((group, *(_cell(part) for part in parts.values())))
    return Sheet(title, (head, *(NAMES[name] for name in report["players"])), rows)


def _cell(part: dict[str, Any]) -> str:
    if not part["legs"]:
        return "none"
    steps = written({**part["steps"], "ci95": None}, "{:.0f}")
    return f"{written(part['spl'], '{:.2f}')}, {steps} steps, n = {part['legs']}"


def verdict(report: Report) -> str:
    """In a sentence: whether it gets better from the first visit on, and by its memory."""
    on, off = (report["players"][name]["slope"] for name in ("memory_on", "memory_off"))
    counted = (
        f"Each leg is given {report['patience']} steps; one asked for later than that before the "
        "end is not judged. Straightness is SPL."
    )
    if on is None:
        return f"Too little is found more than once to tell whether it is remembered. {counted}"
    text = f"From first to later visits its ways become straighter by {written(on, '{:.2f}')}"
    text += (
        f", with memory off by {written(off, '{:.2f}')}"
        if off
        else " (with memory off too little is found)"
    )
    if report["share"]:
        text += f"; that is {written(report['share'], '{:.2f}')} of all that could be gained"
    return f"{text}: {_meaning(on, report['score'])}. {counted}"


def _meaning(on: Measure, score: Measure | None) -> str:
    gains = on["ci95"] and on["ci95"][0] > 0
    apart = score is None or (score["ci95"] and score["ci95"][0] > 0)
    if gains and apart:
        return "it navigates by what it remembers"
    return "memory makes no clear difference to its ways"


def figures(report: Report) -> dict[str, Figure]:
    """Straightness by visit, and by time since the object was last in view."""
    return {"visits": _lines(report, "visit"), "ago": _lines(report, "ago")}


def _lines(report: Report, kind: str) -> Figure:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    groups = list(GROUPS[kind])
    for mark, (name, found) in zip(MARKS, report["players"].items(), strict=False):
        parts = [(k, found[f"by_{kind}"][group]["spl"]) for k, group in enumerate(groups)]
        parts = [(k, part) for k, part in parts if part is not None]
        places, values = [k for k, _ in parts], [part["mean"] for _, part in parts]
        axes.plot(places, values, color=COLOURS[name], marker=mark, label=NAMES[name])
        for k, part in parts:
            if part["ci95"]:
                axes.plot([k, k], part["ci95"], color=COLOURS[name], linewidth=1)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(xlabel=TITLES[kind][1], ylabel="straightness (SPL)", ylim=(0, 1))
    figure.legend(frameon=False, loc="outside right upper")
    return figure


def clips(subject: Subject, budget: Budget) -> dict[str, Clip]:
    """The first episode, with memory."""
    clip = film(player_of(subject.agent), subject.config, budget.seed)
    return {"memory-on": clip} if clip else {}


SUITE = Suite(
    name="navigation",
    about="Whether it finds again what it has found before, with memory on and off.",
    missing=lambda subject: needs_policy(subject) or needs_maze(subject),
    measure=measure,
    sheets=sheets,
    headline=headline,
    figures=figures,
    clips=clips,
)
