"""Tables and figures of the suites `recall` and `dream`."""

from typing import Any

from matplotlib.figure import Figure

from runs.evaluation.statistics import surely_more, written
from runs.evaluation.suite import Report, Sheet

WAYS = {
    "dream": "dreamed",
    "memory_off": "dreamed, memory off",
    "first_frame": "dreamed, from the first frame and the actions alone",
    "shuffled": "dreamed, told shuffled actions",
    "still": "the last watched frame, kept",
    "mean": "the mean of the watched frames",
    "drawn": "the truth, as well as it can be drawn",
}
SHORT = {
    "dream": "dreamed",
    "memory_off": "memory off",
    "first_frame": "first frame",
    "shuffled": "shuffled",
    "still": "last kept",
    "mean": "mean",
    "drawn": "truth drawn",
}
FLOORS = ("memory_off", "first_frame", "shuffled", "still", "mean")
TASKS = {"retrieval": "Retrieval: the way leads back", "reasoning": "Reasoning: the way goes on"}
UNITS = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS"}


def sheets(report: Report) -> list[Sheet]:
    """For each task a table of all ways to go on, and one by how long ago a view was watched."""
    found = []
    for task, part in report["tasks"].items():
        found.append(_overall(task, part, report))
        if "psnr_by_age" in part["ways"]["dream"]:
            found.append(_by_age(part))
    return found


def _overall(task: str, part: dict[str, Any], report: Report) -> Sheet:
    units = [unit for unit in UNITS if unit in part["ways"]["dream"]]
    rows = [
        (WAYS[way], *(written(found[unit], FORMS[unit]) for unit in units))
        for way, found in part["ways"].items()
    ]
    title = f"{TASKS[task]} ({report['dreamed']} frames after {report['watched']} watched)"
    note = f"{verdict(part)} LPIPS: {report['lpips']}."
    return Sheet(title, ("", *(UNITS[unit] for unit in units)), rows, note)


def headline(report: Report) -> dict[str, str]:
    """What a comparison shows."""
    parts = {task: part["ways"]["dream"]["psnr"] for task, part in report["tasks"].items()}
    return {f"{task}, PSNR in dB": written(part, FORMS["psnr"]) for task, part in parts.items()}


FORMS = {"psnr": "{:.2f}", "ssim": "{:.3f}", "lpips": "{:.3f}"}


def verdict(part: dict[str, Any]) -> str:
    """In a sentence: whether what is dreamed comes from what was watched."""
    ways = part["ways"]
    floor = max(FLOORS, key=lambda way: ways[way]["psnr"]["mean"])
    dreamed, other = ways["dream"]["psnr"], ways[floor]["psnr"]
    remembers = all(surely_more(dreamed, ways[way]["psnr"]) for way in FLOORS)
    means = "it remembers what it watched" if remembers else "that shows no memory"
    text = (
        f"The dream reaches {dreamed['mean']:.2f} dB, its highest floor ({WAYS[floor]}) "
        f"{other['mean']:.2f} dB: {means}."
    )
    if (drawn := ways["drawn"]["psnr"]["mean"]) <= other["mean"]:
        text += f" It draws too badly for any to be seen: what it sees, to {drawn:.2f} dB only."
    return text


def _by_age(part: dict[str, Any]) -> Sheet:
    ways = part["ways"]
    rows = []
    for index, group in enumerate(ways["dream"]["psnr_by_age"]):
        if group["frames"]:
            values = [found["psnr_by_age"][index]["mean"] for found in ways.values()]
            rows.append((ages_in_words(group), str(group["frames"]), *map("{:.2f}".format, values)))
    columns = ("last watched", "frames", *(SHORT[way] for way in ways))
    return Sheet("PSNR (dB) by how long ago the same view was watched", columns, rows)


def ages_in_words(group: dict[str, Any]) -> str:
    """50 to 99 frames ago, or never."""
    return "never" if group["from"] is None else f"{group['from']} to {group['to'] - 1} frames ago"


def figures(report: Report) -> dict[str, Figure]:
    """PSNR by frame, and by age where it is known, a figure for each task."""
    return {task: _figure(TASKS[task], part) for task, part in report["tasks"].items()}


def _figure(title: str, part: dict[str, Any]) -> Figure:
    aged = "psnr_by_age" in part["ways"]["dream"]
    figure = Figure(figsize=(11 if aged else 6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if aged else 1, squeeze=False)[0]
    for index, (way, found) in enumerate(part["ways"].items()):
        style = {"color": f"C{index}", "linewidth": 2.0 if way == "dream" else 0.8}
        line = [float("nan") if v is None else v for v in found["psnr_by_frame"]]
        axes[0].plot(range(1, len(line) + 1), line, label=WAYS[way], **style)
        if aged:
            groups = [g for g in found["psnr_by_age"] if g["frames"] and g["from"]]
            middle = [(g["from"] + g["to"]) / 2 for g in groups]
            axes[1].plot(middle, [g["mean"] for g in groups], marker="o", **style)
            axes[1].set_xlabel("frames since that view was last watched")
    axes[0].set_xlabel("frames since the last watched one")
    axes[0].set_ylabel("PSNR, dB")
    axes[0].legend(fontsize=7)
    figure.suptitle(title)
    return figure
