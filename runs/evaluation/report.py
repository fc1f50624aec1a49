"""A folder of reports: evaluation/<suite>.json, pictures, short videos, and report.html.

report.html holds all of it in itself, so that it can be opened from a disk and passed on. A folder
that exists is left as it is; the next one is called evaluation-2. The highest number is the newest.
"""

import base64
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from runs import folder
from runs.evaluation.suite import Clip, Report, Sheet, Suite

FOLDER = "evaluation"
DPI = 110
FPS = 10
SMALLEST = 192  # pixels of the shorter side of a video; smaller pictures are enlarged
LARGEST = 1024  # pixels of the longer side of an enlarged one
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0 1rem}caption{text-align:left;font-weight:600}
td,th{padding:.15rem .8rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}figure{display:inline-block;margin:0 1rem 1rem 0}
img{max-width:100%}figcaption,.about{color:#666}@media(prefers-color-scheme:dark){
body{background:#111;color:#ddd}td,th{border-color:#444}img{background:#fff}}"""


def newest_report(run: Path, suite: str) -> Report | None:
    """The newest report of a suite on a run."""
    found = [path for _, part in _numbered(run) if (path := part / f"{suite}.json").is_file()]
    return folder.read_json(found[-1]) if found else None


@contextmanager
def new_folder(run: Path) -> Iterator[Path]:
    """The folder of the next reports; its number is the highest, whichever were removed.

    It is removed if nothing was written into it.
    """
    last = max((number for number, _ in _numbered(run)), default=0)
    path = folder.make(run / FOLDER, number=last + 1)
    try:
        yield path
    finally:
        if not any(path.iterdir()):
            path.rmdir()


def _numbered(run: Path) -> list[tuple[int, Path]]:
    """The folders of reports, oldest first; others, such as `evaluation-old`, are left alone."""
    found = [(_NAME.fullmatch(path.name), path) for path in run.glob(f"{FOLDER}*")]
    return sorted((int(match[1] or 1), path) for match, path in found if match)


_NAME = re.compile(rf"{FOLDER}(?:-([1-9]\d*))?")


class Page:
    """A report as it grows: every suite is written as soon as it is measured."""

    def __init__(self, path: Path, title: str, about: Mapping[str, Any]) -> None:
        self.path = path
        self.parts = [f"<h1>{escape(title)}</h1>", _list(about)]

    def add(self, suite: Suite, report: Report, clips: Mapping[str, Clip]) -> None:
        """Write a suite's report, pictures and videos, and the page anew."""
        folder.write_json(self.path / f"{suite.name}.json", report)
        self.parts.append(f"<h2>{escape(suite.name)}</h2><p class=about>{escape(suite.about)}</p>")
        figures = {f"{suite.name}-{name}": f for name, f in suite.figures(report).items()}
        self.write(
            suite.sheets(report), figures, {f"{suite.name}-{name}": c for name, c in clips.items()}
        )

    def write(
        self,
        sheets: Iterable[Sheet],
        figures: Mapping[str, Figure],
        clips: Mapping[str, Clip] = MappingProxyType({}),
    ) -> None:
        """Add tables, pictures and videos, and write the page."""
        self.parts += map(_table, sheets)
        for name, figure in figures.items():
            self._keep(name, "png", _png(figure))
        for name, clip in clips.items():
            self._keep(name, "gif", _gif(clip))
        head = f"<!doctype html><meta charset=utf-8><title>clew</title><style>{STYLE}</style>"
        (self.path / "report.html").write_text("\n".join([head, *self.parts]) + "\n")

    def _keep(self, name: str, kind: str, data: bytes) -> None:
        (self.path / f"{name}.{kind}").write_bytes(data)
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        words = escape(name.replace("-", " "))
        self.parts.append(
            f'<figure><img src="{source}" alt="{words}"><figcaption>{words}</figcaption></figure>'
        )


def _list(about: Mapping[str, Any]) -> str:
    return f"<p>{' · '.join(f'{escape(k)} {escape(str(v))}' for k, v in about.items())}</p>"


def _table(sheet: Sheet) -> str:
    head = _row("th", sheet.columns)
    body = "".join(_row("td", row) for row in sheet.rows)
    note = f"<p>{escape(sheet.note)}</p>" if sheet.note else ""
    return f"<table><caption>{escape(sheet.title)}</caption>{head}{body}</table>{note}"


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _gif(clip: Clip) -> bytes:
    buffer = io.BytesIO()
    short, long = sorted(clip[0].shape[:2])
    times = max(1, min(SMALLEST // short, LARGEST // long))
    frames = [Image.fromarray(frame.repeat(times, 0).repeat(times, 1)) for frame in clip]
    pace = {"duration": 1000 // FPS, "loop": 0}
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], **pace)
    return buffer.getvalue()
