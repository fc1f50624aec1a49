"""Measure a run by suites: play, write and show."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from runs.evaluation.report import Page, new_folder
from runs.evaluation.suite import Budget, Report, Sheet, Subject, Suite, Tell
from runs.storage import writing

LINE_SECONDS = 30.0


def evaluate(
    subject: Subject, suites: Sequence[Suite], budget: Budget, console: Console
) -> dict[str, Report]:
    """Measure, write and show; the reports by suite, which lie in a new folder of the run.

    That the suites can measure it is for the caller to see (`check_suites`), before any play.
    """
    about, reports = describe(subject, budget), {}
    with new_folder(subject.run) as path:
        page = Page(path, f"Evaluation of {subject.run.name}", about)
        for suite in suites:
            with progress(console) as tell:
                report = about | {"suite": suite.name} | suite.measure(subject, budget, tell)
            clips = suite.clips(subject, budget)
            with writing(path):
                page.add(suite, report, clips)
            show(suite, report, console)
            reports[suite.name] = report
    console.print(f"Written to {path / 'report.html'}", soft_wrap=True)
    return reports


def describe(subject: Subject, budget: Budget) -> Report:
    """What every report begins with."""
    config = subject.config
    return {
        "run": subject.run.name,
        "steps": subject.steps,
        "steps_planned": (subject.learned or config).steps,
        "env": config.env,
        "env_kwargs": config.env_kwargs,
        "episodes": budget.episodes,
        "seed": budget.seed,
        "max_steps": budget.max_steps,
    }


def show(suite: Suite, report: Report, console: Console) -> None:
    """Print a report as tables."""
    console.print(f"{report['run']}, {suite.name}: {report['env']}, seed {report['seed']}")
    show_sheets(suite.sheets(report), console)


def show_sheets(sheets: Iterable[Sheet], console: Console) -> None:
    """Print tables."""
    for sheet in sheets:
        table = Table(*sheet.columns, title=sheet.title, title_justify="left")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)
        if sheet.note:
            console.print(sheet.note, soft_wrap=True, highlight=False)


@contextmanager
def progress(console: Console) -> Iterator[Tell]:
    """Shows how far a measurement is: a bar on a terminal, a line each half minute elsewhere."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield tell


def _lines(console: Console) -> Tell:
    told = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            console.print(f"{what} {done:,}/{total:,}", highlight=False)

    return tell
