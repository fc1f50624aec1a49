"""How much faster a training step is in bfloat16, and how far off its losses and gradients are."""

import math
from functools import partial
from typing import Any

import torch

from runs import machine
from runs.bench.figures import Found, Say, Scale
from runs.bench.subject import Training, random_records
from runs.bench.timing import interleave, ratio
from worldmodel.types import Records

KEYS: dict[str, dict[str, Any]] = {
    "bf16_over_fp32": {},
    "bf16_over_fp32_wide": {"width": 256, "head": 64, "state": 64},
}
DIFFERENCES = ("bf16_loss_difference", "bf16_gradient_difference")
NAMES = {"fp32": False, "bf16": True}


def precision(scale: Scale, say: Say) -> Found:
    """Speed and exactness of training under autocast."""
    say(f"precision: steps of {scale.batch} x {scale.window} frames, fp32 and bf16 in turns")
    if not machine.bf16():
        missing = "a CPU that multiplies in bfloat16"
        return Found(dict.fromkeys((*KEYS, *DIFFERENCES), missing), {})
    records = random_records(scale.batch, scale.window)
    values, series = _differences(records, scale)
    for key, sizes in KEYS.items():
        taken = _time(records, scale, sizes)
        values[key] = ratio(taken["fp32"], taken["bf16"])
        series[key] = taken
    return Found(values, {"precision": {"instructions": machine.bf16()} | series})


def _differences(records: Records, scale: Scale) -> tuple[dict[str, float | str], dict[str, Any]]:
    """How far bf16 is off in its first step: the worst loss, and the norm of the gradient."""
    found = {name: _first_step(records, scale.window, bf16) for name, bf16 in NAMES.items()}
    (losses, norm), (rounded, rounded_norm) = found.values()
    apart = max(_apart(rounded[name], losses[name]) for name in losses), _apart(rounded_norm, norm)
    return dict(zip(DIFFERENCES, apart, strict=True)), {"first_step": found}


def _time(records: Records, scale: Scale, sizes: dict[str, Any]) -> dict[str, list[float]]:
    jobs = {
        name: partial(Training(bf16=bf16, **sizes).step, records, scale.window)
        for name, bf16 in NAMES.items()
    }
    for job in jobs.values():
        job()
    return interleave(jobs, scale.short_repetitions)


def _first_step(records: Records, window: int, bf16: bool) -> tuple[dict[str, float], float]:
    """Losses and norm of the gradient of the first step: the same weights and noise each time."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        training = Training(bf16=bf16)
        losses = training.step(records, window)
    gradients = [p.grad for p in training.model.parameters() if p.grad is not None]
    return losses, math.sqrt(sum(float(g.square().sum()) for g in gradients))


def _apart(value: float, truth: float) -> float:
    return abs(value - truth) / abs(truth) if truth else abs(value)
