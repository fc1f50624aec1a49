"""The table of what is solved, rebuilt from runs/results/: nothing in it is typed by hand.

results/<row>/<player>/seed-<n>/ keeps what a run left behind: config.json, metrics.jsonl and
return.json, its evaluation. `clew report results --add RUN` brings a run there; README's table, and
the curves beside it, are made of what lies there.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from runs import folder
from runs.config import Config
from runs.evaluation.compare import joint, metrics
from runs.evaluation.report import newest_report
from runs.evaluation.statistics import Measure, value_of, written
from runs.evaluation.suite import Report
from worldmodel.pattern import PATTERNS

RESULTS = Path("runs/results")
BEGIN, END = "<!-- results: clew report results -->", "<!-- end of results -->"
KEPT = ("config.json", "metrics.jsonl")
REPORT, CURVES = "return.json", "learning.png"
OURS = "clew"
ARRIVED = 0.9  # of the way from the first score in training to the last ones
LAST = 0.1  # share of the lines that are the last ones


@dataclass(frozen=True)
class Row:
    """A task of the table."""

    name: str
    title: str
    env: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)


ROWS = (
    Row("tmaze-500", "T-Maze, corridor of 500", "clew/TMaze-v0", {"length": 500}),
    Row("memory-length-300", "MemoryLength, 300 steps", "clew/MemoryLength-v0", {"length": 300}),
    Row("minigrid-memory-s13", "MiniGrid-MemoryS13Random", "MiniGrid-MemoryS13Random-v0"),
    Row("active-tmaze-100", "Active T-Maze, 100", "clew/ActiveTMaze-v0", {"length": 100}),
    Row("memory-maze-7x7", "Memory Maze 7x7", "clew/MemoryMaze-7x7-v0"),
)


class Kept(NamedTuple):
    """What is kept of one run."""

    made: dict[str, Any]  # config.json
    report: Report
    lines: list[dict[str, Any]]  # of metrics.jsonl


Results = dict[str, dict[str, list[Kept]]]  # by row and player


def add(run: Path, results: Path) -> Path:
    """Keep what a run left behind, in its row.

    Raises:
        ValueError: where it is no run, was not evaluated, or belongs to no row.
    """
    config, recipe = folder.read_config(run)
    row = row_of(config)
    report = newest_report(run, "return")
    if not report:
        raise ValueError(f"{run} was not evaluated yet: clew evaluate {run}")
    path = results / row.name / player_of(config, recipe) / f"seed-{config.seed}"
    path.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(run / name, path / name)
    folder.write_json(path / REPORT, report)
    return path


def row_of(config: Config) -> Row:
    """The row of a run's task; ValueError where there is none."""
    for row in ROWS:
        if (config.env, config.env_kwargs) == (row.env, row.env_kwargs):
            return row
    tasks = "; ".join(f"{row.env} {row.env_kwargs or ''}".strip() for row in ROWS)
    raise ValueError(
        f"No row is about {config.env} {config.env_kwargs}. There are: {tasks}. To put this run "
        "beside others, use: clew compare RUN RUN"
    )


def player_of(config: Config, recipe: str | None) -> str:
    """Who learned: a baseline by its kind, a named pattern by its name, or else clew."""
    if recipe and recipe.startswith("baseline "):
        return recipe.removeprefix("baseline ")
    pattern = config.model.layers[0]
    named = len(config.model.layers) == 1 and pattern.partition(":")[0] in PATTERNS
    return pattern.replace(":", "-") if named and pattern != "lssvwm" else OURS


def read(results: Path) -> Results:
    """All that is kept, in the order of the rows; ours first."""
    found: Results = {}
    for row in ROWS:
        players = sorted((results / row.name).glob("*/"), key=lambda p: (p.name != OURS, p.name))
        kept = {
            path.name: [_read(seed) for seed in sorted(path.glob("seed-*"))] for path in players
        }
        if any(kept.values()):
            found[row.name] = {player: seeds for player, seeds in kept.items() if seeds}
    return found


def _read(path: Path) -> Kept:
    made, report = (json.loads((path / name).read_text()) for name in (KEPT[0], REPORT))
    return Kept(made, report, metrics(path))


def table(found: Results) -> str:
    """All rows in Markdown."""
    head = ("task", "who", "score", "memory off", "seeds", "steps", "90 % of it after", "minutes")
    titles = {row.name: row.title for row in ROWS}
    lines = [head, ("---",) * len(head)]
    for name, players in found.items():
        bounds = _bounds(next(iter(players.values())))
        for number, (player, seeds) in enumerate(players.items()):
            lines.append((f"{titles[name]}{bounds}" if number == 0 else "", player, *_cells(seeds)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bounds(seeds: Sequence[Kept]) -> str:
    """The floor and the ceiling of a task, as its first player's evaluations found them."""
    found = {who: score(seeds, who) for who in ("random", "oracle")}
    return "".join(f", {who} {_short(one)}" for who, one in found.items() if one)


def _cells(seeds: Sequence[Kept]) -> tuple[str, ...]:
    arrivals = [arrival(kept.lines) for kept in seeds]
    steps, minutes = (np.median([one[k] for one in arrivals]) for k in (0, 1))
    total = np.median([clock(kept.lines)[-1] / 60 for kept in seeds])
    trained = max(kept.made["config"]["steps"] for kept in seeds)
    return (
        written(score(seeds, "greedy")),
        written(score(seeds, "memory_off")) if score(seeds, "memory_off") else "",
        str(len(seeds)),
        f"{trained:,}",
        f"{steps:,.0f} steps, {minutes:.0f} min",
        f"{total:.0f}",
    )


def score(seeds: Sequence[Kept], who: str) -> Measure | None:
    """Success over all episodes of all seeds, or return where none is told; None without `who`."""
    reports = [kept.report for kept in seeds if who in kept.report["players"]]
    if not reports:
        return None
    returned, success = joint(reports, who)
    return success or returned


def _short(measure: Measure) -> str:
    value = value_of(measure)
    return f"{100 * value:.0f} %" if "rate" in measure else f"{value:.3g}"


def clock(lines: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds of training at each line, all sittings of a run added up."""
    before, last, seconds = 0.0, 0.0, []
    for line in lines:
        now = line["time"]["seconds"]
        before, last = before + (last if now < last else 0.0), now
        seconds.append(before + now)
    return seconds


def scores(lines: Sequence[dict[str, Any]]) -> list[tuple[int, float, float]]:
    """Training as (steps, minutes, score): success, or return where success is not told."""
    told = any("episode/success" in line for line in lines)
    key = "episode/success" if told else "episode/return"
    timed = zip(lines, clock(lines), strict=True)
    return [(line["env_steps"], s / 60, line[key]) for line, s in timed if key in line]


def arrival(lines: Sequence[dict[str, Any]]) -> tuple[int, float]:
    """Steps and minutes after which training had come 90 % of the way to its last scores."""
    steps, minutes, reached = zip(*scores(lines), strict=True)
    final = np.mean(reached[-max(1, round(LAST * len(reached))) :])
    first = int(np.argmax(np.array(reached) >= reached[0] + ARRIVED * (final - reached[0])))
    return steps[first], minutes[first]


def curves(found: Results) -> Figure:
    """Score in training, by environment steps above and by minutes below; every seed a line."""
    figure = Figure(figsize=(4 * len(found), 6), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    colours: dict[str, str] = defaultdict(lambda: f"C{len(colours)}")
    titles = {row.name: row.title for row in ROWS}
    for column, (name, players) in enumerate(found.items()):
        for player, seeds in players.items():
            for kept in seeds:
                _draw(axes[:, column], kept.lines, colours[player])
        axes[0, column].set_title(titles[name])
        axes[0, column].xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[0, 0].set_ylabel("by environment steps")
    axes[1, 0].set_ylabel("by minutes")
    handles = [axes[0, 0].plot([], [], color=c, label=p)[0] for p, c in colours.items()]
    axes[0, 0].legend(handles=handles)
    return figure


def _draw(axes: Any, lines: list[dict[str, Any]], colour: str) -> None:
    steps, minutes, reached = zip(*scores(lines), strict=True)
    axes[0].plot(steps, reached, color=colour, alpha=0.7)
    axes[1].plot(minutes, reached, color=colour, alpha=0.7)


def note(found: Results) -> str:
    """What the table was measured on, by which code."""
    kept = [one for players in found.values() for seeds in players.values() for one in seeds]
    machines = {
        f"{one.made['machine']['cpu']}, {one.made['machine']['cores']} cores" for one in kept
    }
    commits = sorted({one.made["commit"] for one in kept})
    return (
        f"Scores are success over all episodes of all seeds, or the interquartile mean of returns, "
        f"with 95 % intervals; minutes are medians over seeds. "
        f"Made on: {'; '.join(sorted(machines))}. Commits: {', '.join(commits)}."
    )


def rebuild(results: Path, readme: Path) -> None:
    """Write README's table and the picture of the curves anew.

    Raises:
        ValueError: where nothing is kept yet, or README has no place for the table.
    """
    if not readme.is_file():
        raise ValueError(f"There is no file {readme}: name one by --readme.")
    found, text = read(results), readme.read_text()
    if not found:
        raise ValueError(f"{results} keeps no results yet: clew report results --add RUN")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{readme} must have the lines {BEGIN!r} and {END!r}, once each.")
    curves(found).savefig(results / CURVES, dpi=110)
    picture = f"![learning curves]({os.path.relpath(results / CURVES, readme.parent)})"
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    block = "\n\n".join([BEGIN, table(found), note(found), picture, END])
    readme.write_text(before + block + after)
