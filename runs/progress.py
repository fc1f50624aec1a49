"""What a user sees while a run trains: a live display on a terminal, plain lines elsewhere."""

import time
from collections import deque
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runs.config import Config
from runs.train import Trainer

WINDOW_SECONDS = 30.0
REFRESH_SECONDS = 0.25


class Meter:
    """Pace over the last half minute: steps and updates a second."""

    def __init__(self, window: float = WINDOW_SECONDS) -> None:
        self.window = window
        self.marks: deque[tuple[float, int, int]] = deque()

    def mark(self, now: float, steps: int, updates: int) -> None:
        """Note how far the run has come at a time (in seconds)."""
        self.marks.append((now, steps, updates))
        while now - self.marks[0][0] > self.window and len(self.marks) > 2:
            self.marks.popleft()

    def rates(self) -> tuple[float, float]:
        """Steps and updates a second; 0 where nothing can be said yet."""
        if len(self.marks) < 2:
            return 0.0, 0.0
        (then, *before), (now, *after) = self.marks[0], self.marks[-1]
        seconds = max(now - then, 1e-9)
        return (after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds


class Progress:
    """Shows how a run goes; called by the trainer after every step."""

    def __init__(self, console: Console, config: Config) -> None:
        self.console, self.config = console, config
        self.meter, self.shown, self.lines = Meter(), 0.0, 0
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, trainer: Trainer) -> None:
        """Show the newest state, if it is time to."""
        now, lines = time.monotonic(), trainer.env_steps // self.config.log_every
        if not self.meter.marks:
            self.meter.mark(now, trainer.env_steps, trainer.learner.updates)
            self.lines = lines
        due = now - self.shown >= REFRESH_SECONDS if self.live else lines > self.lines
        if not (due or trainer.stop or trainer.env_steps >= self.config.steps):
            return
        self.shown, self.lines = now, lines
        self.meter.mark(now, trainer.env_steps, trainer.learner.updates)
        if self.live:
            self.live.update(self._picture(trainer), refresh=True)
        else:
            line = f"{self._count(trainer)} · {self.line(trainer)}"
            self.console.print(line, soft_wrap=True, highlight=False)

    def line(self, trainer: Trainer) -> str:
        """Updates, recent return and success, and pace."""
        steps, updates = self.meter.rates()
        frames = updates * self.config.replay.batch * self.config.replay.context
        recent = trainer.telemetry.recent_mean()
        parts = [f"updates {trainer.learner.updates:,}"]
        parts += [f"skipped {trainer.skipped:,}"] * bool(trainer.skipped)
        # NaN, where there is nothing to tell, is not equal to itself.
        parts += [f"{name} {value:.3g}" for name, value in recent.items() if value == value]
        parts += [f"{frames:,.0f} frames/s", f"{steps:,.0f} steps/s"]
        return " · ".join([*parts, self._time_left(trainer, steps)])

    def _count(self, trainer: Trainer) -> str:
        return f"steps {trainer.env_steps:,}/{self.config.steps:,}"

    def _time_left(self, trainer: Trainer, rate: float) -> str:
        if not rate:
            return "time left unknown"
        seconds = round(max(0, self.config.steps - trainer.env_steps) / rate)
        hours, minutes = divmod(seconds // 60, 60)
        return f"{hours}:{minutes:02d}:{seconds % 60:02d} left"

    def _picture(self, trainer: Trainer) -> RenderableType:
        bar = Table.grid(padding=(0, 1))
        steps = self.config.steps
        bar.add_row(self._count(trainer), ProgressBar(steps, trainer.env_steps, width=40))
        return Group(bar, Text(self.line(trainer)))
