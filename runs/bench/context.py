"""`clew bench context`: what a long context costs on this machine, all backbones side by side.

Everything is measured within one run, on the CPU, and judged as a ratio, because seconds on one
machine say little about another. Results are written after each measurement, so that nothing is
lost where a later one fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runs import folder, machine
from runs.bench import plot
from runs.bench.figures import FIGURES, Found, Say, Scale, judge, tiny
from runs.bench.footprint import footprint
from runs.bench.peer import peer
from runs.bench.precision import precision
from runs.bench.rollout import generation, streaming
from runs.bench.subject import SUBJECT
from runs.bench.throughput import throughput
from runs.bench.utilisation import utilisation
from worldmodel.pattern import PATTERNS

MEASUREMENTS: tuple[Callable[[Scale, Say], Found], ...] = (
    generation,
    streaming,
    utilisation,
    precision,
    throughput,
    footprint,
    peer,
)
RESULT, PICTURE = "context.json", "context.png"
HOW = (
    "Jobs take turns (A B C A B C ...), so many rounds. Ratios are medians over rounds of the "
    "ratio within a round; rates are by the median time; memory is the median over processes."
)
QUICK = "Not a measurement: sizes are tiny, to show that everything runs."


def bench(scale: Scale, out: Path, console: Console, threads: int = 0) -> dict[str, Any]:
    """Measure all figures; the report, which is also out/context.json, with out/context.png."""
    if threads:
        torch.set_num_threads(threads)
    report: dict[str, Any] = {
        "measurement": not scale.quick,
        "machine": machine.describe(),
        "settings": asdict(scale) | {"how": HOW},
        "figures": {},
        "series": {},
        "picture": None,
    }
    if scale.quick:
        report["note"] = QUICK
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for measure in MEASUREMENTS:
            _add(report, measure(scale, lambda text: _say(console, text)), scale)
            folder.write_json(out / RESULT, report)
    _finish(report, out)
    return report


def _add(report: dict[str, Any], found: Found, scale: Scale) -> None:
    """Take in what a measurement found; figures stay in their order."""
    for key, value in found.values.items():
        report["figures"][key] = judge(key, value, measured=not scale.quick)
    figures = report["figures"]
    report["figures"] = {key: figures[key] for key in FIGURES if key in figures}
    report["series"] |= found.series


def _finish(report: dict[str, Any], out: Path) -> None:
    """Draw the picture, and write down what is known at the end."""
    about = report["machine"]
    title = f"clew bench context: {about['cpu']}, threads: {about['threads']}"
    title += f"\n{QUICK}" if not report["measurement"] else ""
    plot.draw(report["series"], title, out / PICTURE)
    report["picture"] = PICTURE
    about["load_after"] = machine.load()
    folder.write_json(out / RESULT, report)


def show(report: dict[str, Any], console: Console) -> None:
    """Print the figures as a table."""
    about = report["machine"]
    table = Table("figure", "measured", "bar", "reached", title="clew bench context")
    table.caption = f"{about['cpu']}, {about['threads']} of {about['cores']} cores"
    for key, figure in report["figures"].items():
        bar = "" if figure["bar"] is None else f"{figure['sense']} {figure['bar']:g}"
        reached = {True: "yes", False: "no", None: "-"}[figure["reached"]]
        what = f"{figure['what']}\n[dim]{key}[/dim]"
        table.add_row(what, _cell(figure), bar, reached)
    console.print(table)
    if not report["measurement"]:
        console.print(QUICK)


def _cell(figure: dict[str, Any]) -> str:
    """A value, or what is missing for it."""
    if figure["value"] is None:
        return escape(f"needs {figure['needs']}")
    return f"{figure['value']:.3g}"


def default_folder() -> Path:
    """Where a benchmark goes that is not told where to go."""
    return Path("outputs") / f"bench-context-{datetime.now():%Y%m%d-%H%M%S}"


def scale(patterns: Sequence[str], quick: bool) -> Scale:
    """How much to measure; patterns come in their own order, the default one in any case.

    Raises:
        ValueError: where a name is none of a pattern; names them all.
    """
    if not patterns:
        raise ValueError(f"patterns is empty: name one or more of {', '.join(PATTERNS)}.")
    if unknown := sorted(set(patterns) - set(PATTERNS)):
        raise ValueError(f"There is no pattern {unknown[0]!r}. Patterns: {', '.join(PATTERNS)}.")
    chosen = Scale(tuple(name for name in PATTERNS if name == SUBJECT or name in patterns))
    return tiny(chosen) if quick else chosen


def check_free(out: Path) -> None:
    """Make the folder; ValueError where it holds a benchmark, or cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{out} cannot be written to ({error}): choose another --out DIR."
        ) from error
    if (out / RESULT).exists():
        raise ValueError(f"{out} holds results already, and nothing is overwritten: --out DIR.")


def _say(console: Console, text: str) -> None:
    console.print(f"{datetime.now():%H:%M:%S} {text}", highlight=False, soft_wrap=True)
