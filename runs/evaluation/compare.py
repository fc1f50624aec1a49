"""Runs side by side: the newest report of every suite, in one table and one page.

Runs that differ in nothing but their seed, and were evaluated in the same task, are summed up as
well, by the interquartile mean of what each earns (Agarwal et al. 2021). A seed counts once.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from runs import folder
from runs.evaluation.report import Page, newest_report
from runs.evaluation.statistics import Measure, iqm_ci, rates_ci, written
from runs.evaluation.suite import Report, Sheet
from runs.evaluation.suites import SUITES

UNLEARNED = ("random", "oracle")  # players that no run has made

Reports = dict[Path, dict[str, Report]]


def read(runs: Sequence[Path]) -> Reports:
    """The newest reports of runs, by suite.

    Raises:
        ValueError: where a folder is no run, or was not evaluated; says how that is done.
    """
    found: Reports = {}
    for run in runs:
        folder.read_config(run)
        reports = {name: newest_report(run, name) for name in SUITES}
        found[run] = {name: report for name, report in reports.items() if report}
        if not found[run]:
            raise ValueError(f"{run} was not evaluated yet: clew evaluate {run}")
    return found


def sheets(found: Reports) -> list[Sheet]:
    """All runs in one table, a run a column, and seeds of the same settings together in another."""
    lines = [headlines(reports) for reports in found.values()]
    names = short_names(list(found))
    rows = [
        (what, *(line.get(what, "not measured") for line in lines))
        for what in dict.fromkeys(name for line in lines for name in line)
    ]
    columns = ("", *(names[run] for run in found))
    return [Sheet("Runs side by side", columns, rows, differences(found)), *together(found)]


def short_names(runs: Sequence[Path]) -> dict[Path, str]:
    """The names of runs; of those that have the same one, the paths."""
    names = [run.name for run in runs]
    return {run: run.name if names.count(run.name) == 1 else str(run) for run in runs}


def headlines(reports: dict[str, Report]) -> dict[str, str]:
    """What all suites found of one run, in a few words each."""
    line = {}
    for name, report in reports.items():
        line |= SUITES[name].headline(report)
    return line


def differences(found: Reports) -> str:
    """What was not the same for all, so that nobody compares it without knowing."""
    notes, names = defaultdict(list), short_names(list(found))
    for suite in dict.fromkeys(suite for reports in found.values() for suite in reports):
        for key in ("env", "env_kwargs", "episodes", "seed", "max_steps"):
            whose: dict[str, list[str]] = defaultdict(list)
            for run, reports in found.items():
                if key in reports.get(suite, {}):
                    whose[json.dumps(reports[suite][key])].append(names[run])
            if len(whose) > 1:
                told = "; ".join(f"{value} ({', '.join(runs)})" for value, runs in whose.items())
                notes[f"{key} differs: {told}."].append(suite)
    return " ".join(f"In {', '.join(suites)}, {note}" for note, suites in notes.items())


def together(found: Reports) -> list[Sheet]:
    """Runs of the same settings but for the seed, as one."""
    names = short_names(list(found))
    rows = [
        (", ".join(names[run] for run in runs), who, *map(written, one.values()))
        for runs, players in summaries(found)
        for who, one in players.items()
    ]
    columns = ("runs", "player", "return, interquartile mean", "success")
    return [Sheet("Seeds together", columns, rows)] if rows else []


def as_json(found: Reports) -> list[dict[str, Any]]:
    """What seeds of the same settings earn together, a group of runs each."""
    return [
        {"runs": [str(run) for run in runs], "players": players}
        for runs, players in summaries(found)
    ]


def summaries(found: Reports) -> list[tuple[list[Path], dict[str, dict[str, Measure | None]]]]:
    """Runs that differ in their seed alone, and what each player of them earned, by measure."""
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for run, reports in found.items():
        if "return" in reports:
            settings, seed = _settings(run, reports["return"])
            groups[settings].setdefault(seed, run)
    each = [list(group.values()) for group in groups.values() if len(group) > 1]
    return [(runs, _players([found[run]["return"] for run in runs])) for runs in each]


def _players(reports: Sequence[Report]) -> dict[str, dict[str, Measure | None]]:
    return {
        who: dict(zip(("return", "success"), joint(reports, who), strict=True))
        for who in reports[0]["players"]
    }


def _settings(run: Path, report: Report) -> tuple[str, int]:
    """What runs must share to be seeds of the same, with the task they were measured in; a seed."""
    config, recipe = folder.read_config(run)
    task = [report.get(key) for key in ("env", "env_kwargs", "max_steps")]
    shared = asdict(config) | {"seed": 0, "threads": 0}
    return json.dumps([recipe, shared, task], sort_keys=True), config.seed


def joint(reports: Sequence[Report], who: str) -> tuple[Measure, Measure | None]:
    """Return and, where it is told, success of a player over the episodes of several runs.

    Of who learned nothing, the same episodes count once.
    """
    each = [report["players"][who]["each"] for report in reports]
    if who in UNLEARNED:
        each = [part for k, part in enumerate(each) if part not in each[:k]]
    successes = [list(map(bool, part["success"])) for part in each]
    reported = any(value is not None for part in each for value in part["success"])
    share = rates_ci(successes) if reported else None
    return iqm_ci([part["return"] for part in each]), share


def write(found: Reports, out: Path) -> Path:
    """One page on all runs: tables, and how they learned."""
    page = Page(out, "Comparison", {"runs": ", ".join(str(run) for run in found)})
    page.write(sheets(found), curves(list(found)))
    (out / "together.json").write_text(json.dumps(as_json(found), indent=1) + "\n")
    return out / "report.html"


def curves(runs: Sequence[Path]) -> dict[str, Figure]:
    """Return in training, by environment steps and by hours."""
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    steps, hours = figure.subplots(1, 2, sharey=True)
    names = short_names(runs)
    for run in runs:
        lines = [line for line in metrics(run) if "episode/return" in line]
        returns = [line["episode/return"] for line in lines]
        steps.plot([line["env_steps"] for line in lines], returns, label=names[run])
        hours.plot([line["time"]["seconds"] / 3600 for line in lines], returns)
    steps.set(xlabel="environment steps", ylabel="return in training")
    hours.set(xlabel="hours")
    steps.legend()
    return {"learning": figure}


def metrics(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl; a kill may have left half of one more."""
    path = run / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise folder.RefusalError(f"{path} is damaged ({error}).") from error
