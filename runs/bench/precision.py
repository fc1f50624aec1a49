"""How much faster a training step is in bfloat16, and how far off its loss is."""

from functools import partial

import torch

from runs.bench import machine
from runs.bench.figures import Found, Say, Scale
from runs.bench.subject import Training, random_records
from runs.bench.timing import interleave, ratio
from worldmodel.types import Records

KEYS = ("bf16_over_fp32", "bf16_loss_difference")


def precision(scale: Scale, say: Say) -> Found:
    """Figure 7."""
    say(f"precision: steps of {scale.batch} x {scale.window} frames, fp32 and bf16 in turns")
    if not machine.bf16():
        return Found(dict.fromkeys(KEYS, "a CPU that multiplies in bfloat16"), {})
    records = random_records(scale.batch, scale.window)
    return _measure(records, scale)


def _measure(records: Records, scale: Scale) -> Found:
    losses = [_loss(records, scale.window, bf16) for bf16 in (False, True)]
    jobs = {
        name: partial(_step, Training(), records, scale.window, name == "bf16")
        for name in ("fp32", "bf16")
    }
    for job in jobs.values():
        job()
    taken = interleave(jobs, scale.short_repetitions)
    values: dict[str, float | str] = {
        "bf16_over_fp32": ratio(taken["fp32"], taken["bf16"]),
        "bf16_loss_difference": abs(losses[1] - losses[0]) / abs(losses[0]),
    }
    series = {"instructions": machine.bf16(), "losses": losses, "seconds": taken}
    return Found(values, {"precision": series})


def _step(training: Training, records: Records, window: int, bf16: bool) -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return training.step(records, window)


def _loss(records: Records, window: int, bf16: bool) -> float:
    """The loss of the first step, with the same weights and the same noise each time."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return _step(Training(), records, window, bf16)
