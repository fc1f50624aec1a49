"""What `clew bench context` measures: the figures, what each has to reach, and how much is run.

A figure that cannot be measured here has no value but a text that says what it needs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from worldmodel.pattern import PATTERNS

Say = Callable[[str], None]


class Goal(NamedTuple):
    """What a figure is, and the bar for it: at least, at most, exactly; or none."""

    what: str
    sense: str = ""
    bar: float | None = None


FIGURES = {
    "throughput_2048_over_128": Goal("training frames/s, context 2,048 over 128", ">=", 0.9),
    "throughput_2048_over_128_recomputed": Goal(
        "the same, gradients across 512 frames, their windows computed twice"
    ),
    "throughput_over_full_2048": Goal(
        "training frames/s at 2,048 in one episode, over full attention", ">=", 5.0
    ),
    "throughput_over_full_2048_with_resets": Goal("the same in episodes of 200 on average"),
    "generate_10000_over_100": Goal("time to imagine frame 10,000 over frame 100", "<=", 1.05),
    "carry_bytes_10000_over_100": Goal("bytes of the carry at the same frames", "==", 1.0),
    "peak_memory_4096_over_512": Goal("memory of an update, context 4,096 over 512", "<=", 1.15),
    "peak_memory_4096_over_512_recomputed": Goal("the same, gradients across 512 frames"),
    "peak_rss_4096_over_512": Goal("that of the whole process, batch included"),
    "scan_over_transformers": Goal(
        "speed of Scan over transformers' Mamba-2 as it comes", ">=", 3.0
    ),
    "scan_over_transformers_tuned": Goal("the same, its chunks of the fastest size"),
    "scan_over_transformers_wide": Goal("as it comes, at width 256, head 64, state 64"),
    "scan_over_transformers_wide_tuned": Goal("the same, its chunks of the fastest size"),
    "matmul_share": Goal("FLOP/s of a step over those of its matrix products alone", ">=", 0.35),
    "bf16_over_fp32": Goal("training frames/s, bf16 autocast over fp32", ">=", 1.4),
    "bf16_over_fp32_wide": Goal("the same, at width 256, head 64, state 64"),
    "bf16_loss_difference": Goal("largest relative difference of one of their losses", "<=", 0.02),
    "bf16_gradient_difference": Goal("relative difference of their gradients' norms"),
    "interactive_fps": Goal("imagined and decoded 64x64 frames/s, one stream", ">=", 25.0),
}


class Found(NamedTuple):
    """What one measurement found: figures by key (a text: what is missing), and raw numbers."""

    values: dict[str, float | str]
    series: dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much is measured, and how often."""

    patterns: tuple[str, ...] = tuple(PATTERNS)
    rows: int = 2
    window: int = 128
    contexts: tuple[int, ...] = (128, 512, 2048)
    repetitions: int = 3
    early: int = 100
    late: int = 10_000
    around: int = 100
    full: int = 1024
    gradient: int = 512
    memory_contexts: tuple[int, ...] = (512, 1024, 2048, 4096)
    tokens: int = 4096
    batch: int = 16
    short_repetitions: int = 10
    streamed: int = 200
    quick: bool = False


def tiny(scale: Scale) -> Scale:
    """So little that it only shows that everything runs."""
    return replace(
        scale,
        quick=True,
        rows=1,
        window=8,
        contexts=(8, 16),
        repetitions=1,
        early=4,
        late=12,
        around=4,
        full=8,
        gradient=16,
        memory_contexts=(16, 32),
        tokens=64,
        batch=2,
        short_repetitions=2,
        streamed=4,
    )


def judge(key: str, value: float | str, measured: bool) -> dict[str, Any]:
    """A figure as it is reported; nothing is reached by what is not a measurement."""
    goal = FIGURES[key]
    report = {"what": goal.what, "value": value, "sense": goal.sense, "bar": goal.bar}
    if isinstance(value, str):
        return report | {"value": None, "needs": value, "reached": None}
    judged = measured and goal.bar is not None
    return report | {"reached": _reaches(value, goal) if judged else None}


def _reaches(value: float, goal: Goal) -> bool:
    assert goal.bar is not None
    better = {">=": value >= goal.bar, "<=": value <= goal.bar, "==": value == goal.bar}
    return better[goal.sense]
