"""Timing on machines that others use too: side by side, again and again, as ratios.

Jobs take turns (A B C A B C ...), so that what slows the machine down for a while slows all of
them. A ratio is that of neighbouring measurements, and of these the median.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

Job = Callable[[], object]


def seconds(job: Job) -> float:
    """How long a job takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def interleave(
    jobs: Mapping[str, Job], repetitions: int, say: Callable[[str], None] = lambda text: None
) -> dict[str, list[float]]:
    """Seconds that each job took in each of so many rounds."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(repetitions):
        say(f"  round {i + 1} of {repetitions}")
        for name, job in jobs.items():
            taken[name].append(seconds(job))
    return taken


def ratio(top: Sequence[float], bottom: Sequence[float]) -> float:
    """The median, over rounds, of one job's measurement over another's."""
    return median(a / b for a, b in zip(top, bottom, strict=True))


def rate(amount: float, taken: Sequence[float]) -> float:
    """How much a second, by the median time."""
    return amount / median(taken)
