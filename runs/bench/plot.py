"""The picture of a benchmark: speed, generation, memory, and where the time goes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

MIB = 2**20


def draw(series: Mapping[str, Any], title: str, path: Path) -> None:
    """Write the picture."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    (speed, frame), (memory, profile) = figure.subplots(2, 2)
    _throughput(speed, series["throughput"])
    _generation(frame, series["generation"])
    _memory(memory, series["memory"])
    _profile(profile, series["utilisation"]["profile"])
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _throughput(axes: Any, series: Mapping[str, Any]) -> None:
    for pattern, speeds in series["frames_per_second"].items():
        axes.plot(series["contexts"], speeds, marker="o", label=pattern)
    _name(axes, "Training", "context, frames", "frames/s")
    _contexts(axes, series["contexts"])
    axes.set_yscale("log")
    axes.legend()


def _generation(axes: Any, series: Mapping[str, Any]) -> None:
    for name, line in series.items():
        axes.plot(line["frame"], line["ms"], label=name)
    _name(axes, "Imagining one stream", "frame", "ms a frame")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend()


def _memory(axes: Any, series: Mapping[str, Any]) -> None:
    names = {"process_bytes": "process", "update_bytes": "update", "batch_bytes": "batch alone"}
    for key, label in names.items():
        axes.plot(series["contexts"], [n / MIB for n in series[key]], marker="o", label=label)
    _name(axes, "Peak memory of an update", "context, frames", "MiB")
    _contexts(axes, series["contexts"])
    axes.set_ylim(bottom=0)
    axes.legend()


def _profile(axes: Any, parts: list[Mapping[str, Any]]) -> None:
    names = [_short(part["operator"]) for part in parts]
    axes.barh(names[::-1], [100 * part["share"] for part in parts][::-1])
    _name(axes, "Where a training step spends its time", "% of CPU time", "")


def _contexts(axes: Any, contexts: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(contexts, [f"{n:,}" for n in contexts])


def _short(operator: str) -> str:
    name = operator.removeprefix("aten::").replace("_for_cpu", "")
    return name.replace("_scaled_dot_product_flash_attention", "attention")


def _name(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
