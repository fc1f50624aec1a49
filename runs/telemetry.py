"""What a run tells: metrics.jsonl and TensorBoard on disk, a live line on the terminal.

A line of metrics.jsonl holds means since the line before. All that depends on the clock is under
"time", so that two runs with the same seed can be compared by everything else.
"""

import json
import math
import time
from collections import defaultdict, deque
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from agent.sealed import sync
from envs.stream import Episode

RECENT = 100


class Telemetry:
    """Collects metrics of updates and episodes, and writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "metrics.jsonl"
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        self.recent: deque[tuple[float, int, bool | None]] = deque(maxlen=RECENT)
        self.began, self.began_at = time.monotonic(), 0

    @cached_property
    def board(self) -> Any:
        """TensorBoard's writer, opened with the first line; what it knew of later steps is void."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.began_at + 1)

    def count(self, metrics: dict[str, float]) -> None:
        """Add one sample of each metric to its mean."""
        for name, value in metrics.items():
            self.sums[name][0] += value
            self.sums[name][1] += 1

    def episode(self, episode: Episode) -> None:
        """Add a finished episode."""
        self.recent.append((episode.return_, episode.length, episode.success))
        self.count({"episode/return": episode.return_, "episode/length": episode.length})
        if episode.success is not None:
            self.count({"episode/success": float(episode.success)})

    def recent_mean(self) -> dict[str, float]:
        """Mean return and success of the last 100 episodes; NaN where there are none."""
        returns = [r for r, _, _ in self.recent]
        successes = [float(s) for _, _, s in self.recent if s is not None]
        return {"return": _mean(returns), "success": _mean(successes)}

    def score(self) -> float | None:
        """Mean success, or else return, of the last 100 episodes; None while there are fewer."""
        if len(self.recent) < RECENT:
            return None
        means = self.recent_mean()
        return means["return"] if math.isnan(means["success"]) else means["success"]

    def write(self, env_steps: int, updates: int, totals: dict[str, int]) -> None:
        """Append the means since the last line beside the totals, and begin anew."""
        means = {name: total / n for name, (total, n) in sorted(self.sums.items())} | totals
        seconds = time.monotonic() - self.began
        pace = {"seconds": seconds, "steps_per_second": (env_steps - self.began_at) / seconds}
        line = {"env_steps": env_steps, "updates": updates, **means, "time": pace}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in means.items():
            self.board.add_scalar(name if "/" in name else f"train/{name}", value, env_steps)
        self.board.add_scalar("time/steps_per_second", pace["steps_per_second"], env_steps)
        self.sums.clear()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if it had never stopped; its lines are on disk."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size:
            sync(self.path)
        return {"sums": dict(self.sums), "recent": list(self.recent), "bytes": size}

    def load_state(self, state: dict[str, Any], env_steps: int) -> None:
        """Go on from a `state`; lines written after it are dropped, they will come again.

        Raises:
            ValueError: where lines that were written before it are gone.
        """
        self.sums.update({name: list(pair) for name, pair in state["sums"].items()})
        self.recent.extend(tuple(episode) for episode in state["recent"])
        self.began_at = env_steps
        if not self.path.exists():
            return
        if self.path.stat().st_size < state["bytes"]:
            raise ValueError(
                f"{self.path} has lost lines: it is shorter than when the checkpoint was written. "
                "Bring them back, or remove the file to go on without what was told so far."
            )
        with self.path.open("r+b") as file:
            file.truncate(state["bytes"])

    def forget(self) -> None:
        """Begin anew: what is told there is of a run that never came to a checkpoint."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Flush TensorBoard where it can be; it only shows what metrics.jsonl holds."""
        if "board" in vars(self):
            with suppress(OSError):
                self.board.close()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
