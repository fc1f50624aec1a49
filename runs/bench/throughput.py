"""How fast models train on short and on long contexts, all backbones side by side.

Every job reads as many frames: a context of 128 is sixteen steps where one of 2,048 is one. A
context is one unbroken episode, or else attention over the whole of it would find little to attend
to; beside it, the longest one with episodes of random length. Gradients stop where a window ends;
beside it, they go across several windows, all of which are then computed twice.
"""

from functools import partial
from statistics import median

from runs.bench.figures import Found, Say, Scale
from runs.bench.subject import SUBJECT, Training, random_records
from runs.bench.timing import Job, interleave, rate, ratio
from worldmodel.model import records_at
from worldmodel.types import Records

BROKEN, RECOMPUTED = "episodes", "recomputed"


def throughput(scale: Scale, say: Say) -> Found:
    """Speed on long contexts, over short ones and over full attention."""
    say(f"throughput: {len(scale.patterns)} backbones at contexts of {scale.contexts} frames")
    taken = interleave(_jobs(scale), scale.repetitions, say)
    most, least = max(scale.contexts), min(scale.contexts)
    long, short = taken[f"{SUBJECT} {most}"], taken[f"{SUBJECT} {least}"]
    values = {
        "throughput_2048_over_128": ratio(short, long),
        "throughput_2048_over_128_recomputed": ratio(short, taken[f"{SUBJECT} {RECOMPUTED}"]),
    }
    values |= _over_full(taken, most)
    frames = scale.rows * most
    speeds = {
        pattern: [rate(frames, taken[f"{pattern} {context}"]) for context in scale.contexts]
        for pattern in scale.patterns
    }
    broken = {name: rate(frames, part) for name, part in taken.items() if name.endswith(BROKEN)}
    series = {
        "contexts": list(scale.contexts),
        "frames_per_second": speeds,
        f"frames_per_second_{most}_with_resets": broken,
        "seconds": taken,
        "spread": {name: max(part) / median(part) for name, part in taken.items()},
    }
    return Found(values, {"throughput": series})


def _over_full(taken: dict[str, list[float]], most: int) -> dict[str, float | str]:
    """How many times faster than attention over the whole context, unbroken and in episodes."""
    keys = {"throughput_over_full_2048": f"{most}", "throughput_over_full_2048_with_resets": BROKEN}
    if f"full {most}" not in taken:
        return dict.fromkeys(keys, "'full' among --patterns")
    return {key: ratio(taken[f"full {n}"], taken[f"{SUBJECT} {n}"]) for key, n in keys.items()}


def _jobs(scale: Scale) -> dict[str, Job]:
    """Every backbone at every context; those of one backbone are neighbours."""
    most = max(scale.contexts)
    unbroken, broken = (random_records(scale.rows, most, *resets) for resets in ((0.0,), ()))
    jobs: dict[str, Job] = {}
    for pattern in scale.patterns:
        for context in scale.contexts:
            training = _training(pattern, context, unbroken, scale.window)
            jobs[f"{pattern} {context}"] = partial(_read, training, unbroken, context, scale.window)
        if pattern in (SUBJECT, "full"):
            training = _training(pattern, most, broken, scale.window)
            jobs[f"{pattern} {BROKEN}"] = partial(_read, training, broken, most, scale.window)
    training = _training(SUBJECT, most, unbroken, scale.window)
    windows = scale.window, scale.gradient
    jobs[f"{SUBJECT} {RECOMPUTED}"] = partial(_read, training, unbroken, most, *windows)
    return jobs


def _training(pattern: str, context: int, records: Records, window: int) -> Training:
    """Full attention has to be told how much the whole is; one window warms up."""
    training = Training(f"full:{context}" if pattern == "full" else pattern)
    training.step(records_at(records, 0, window), window)
    return training


def _read(
    training: Training, records: Records, context: int, window: int, gradient: int | None = None
) -> None:
    """Train on all records, a context at a time."""
    for start in range(0, records.is_first.shape[1], context):
        training.step(records_at(records, start, start + context), window, gradient)
