"""What a comparison of patterns says: the paper's questions, a table, and curves."""

from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

Report = dict[str, Any]

TASKS = {"retrieval": "the way leads back", "reasoning": "the way goes on"}
INSIDE, BEYOND, FARTHEST = 50, 100, 400  # ages in frames


def questions(found: Report) -> list[Report]:
    """What was expected of the patterns, and whether it came out so; dB of PSNR."""
    names = {name.partition(":")[0]: name for name in found}
    asked = []

    def ask(text: str, value: float | None, least: float) -> None:
        reached = None if value is None else value >= least
        asked.append({"what": text, "value": value, "least": least, "reached": reached})

    def gain(one: str, other: str, low: int, high: int) -> float | None:
        if not {one, other} <= names.keys():
            return None
        first, second = (psnr(found[names[n]], "retrieval", low, high) for n in (one, other))
        return None if first is None or second is None else first - second

    ask("beyond the window: lssvwm - window", gain("lssvwm", "window", BEYOND, FARTHEST), 4.0)
    ask("beyond the window: lssvwm - full", gain("lssvwm", "full", BEYOND, FARTHEST), -2.0)
    ask("inside the window: lssvwm - window", gain("lssvwm", "window", 1, INSIDE), -0.5)
    if "lssvwm" in names:
        late, soon = (
            psnr(found[names["lssvwm"]], "retrieval", *ends) for ends in ((300, 400), (50, 100))
        )
        change = None if late is None or soon is None else late - soon
        ask("lssvwm: from ages of 50 to 100 to those of 300 to 400", change, -1.0)
    return asked


def psnr(report: Report, task: str, low: int, high: int, way: str = "dream") -> float | None:
    """The mean over frames whose view was last watched so long ago."""
    parts = report["tasks"][task]["ways"][way]["psnr_by_age"]
    inside = [
        p for p in parts if p["frames"] and p["from"] and low <= p["from"] and p["to"] <= high
    ]
    frames = sum(part["frames"] for part in inside)
    return sum(part["mean"] * part["frames"] for part in inside) / frames if frames else None


def table(report: Report) -> Table:
    """PSNR and SSIM of every pattern in both tasks, and of the floors of the first one."""
    columns = (f"{task}, {unit}" for task in TASKS for unit in ("dB", "SSIM"))
    shown = Table("pattern", *columns, "weights", "minutes", title="Patterns compared")
    for name, found in report["patterns"].items():
        ways = [found["tasks"][task]["ways"]["dream"] for task in TASKS]
        cells = [f"{way[unit]['mean']:{form}}" for way in ways for unit, form in UNITS.items()]
        minutes = f"{found['seconds'] / 60:.0f}"
        shown.add_row(name, *cells, f"{found['parameters']['model']:,}", minutes)
    first = next(iter(report["patterns"].values()))
    for way in ("still", "mean", "drawn"):
        ways = [first["tasks"][task]["ways"][way] for task in TASKS]
        cells = [f"{way[unit]['mean']:{form}}" for way in ways for unit, form in UNITS.items()]
        shown.add_row(f"[dim]{way}[/dim]", *cells, "", "")
    return shown


UNITS = {"psnr": ".2f", "ssim": ".3f"}


def picture(report: Report) -> Figure:
    """PSNR by age in retrieval, by frame in reasoning, and the course of learning."""
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    ages, frames, learning = figure.subplots(1, 3)
    for name, found in report["patterns"].items():
        parts = found["tasks"]["retrieval"]["ways"]["dream"]["psnr_by_age"]
        known = [part for part in parts if part["frames"] and part["from"]]
        middle = [(part["from"] + part["to"]) / 2 for part in known]
        ages.plot(middle, [part["mean"] for part in known], marker="o", label=name)
        line = found["tasks"]["reasoning"]["ways"]["dream"]["psnr_by_frame"]
        frames.plot(_smooth(line), label=name)
        curve = found["curve"]
        learning.plot([c["updates"] for c in curve], [c["nats"] for c in curve], label=name)
    first = next(iter(report["patterns"].values()))
    for way, style in (("drawn", ":"), ("mean", "--"), ("still", "-.")):
        level = first["tasks"]["retrieval"]["ways"][way]["psnr"]["mean"]
        ages.axhline(level, color="0.6", linestyle=style, label=way)
    _name(ages, "Retrieval", "frames since that place was last watched", "PSNR, dB")
    _name(frames, "Reasoning", "frames since the last one that was watched", "PSNR, dB")
    _name(learning, "Learning", "updates", "nats of a frame")
    figure.legend(*ages.get_legend_handles_labels(), loc="outside right center")
    return figure


def _smooth(line: list[float | None], width: int = 10) -> list[float]:
    values = [value for value in line if value is not None]
    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]


def _name(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
