"""How much faster a training step is in bfloat16, and how far off its losses and gradients are."""

import math
from functools import partial

import torch

from runs.bench import machine
from runs.bench.figures import Found, Say, Scale
from runs.bench.subject import Training, random_records
from runs.bench.timing import interleave, ratio
from worldmodel.types import Records

KEYS = ("bf16_over_fp32", "bf16_loss_difference", "bf16_gradient_difference")
NAMES = {"fp32": False, "bf16": True}


def precision(scale: Scale, say: Say) -> Found:
    """Speed and exactness of training under autocast."""
    say(f"precision: steps of {scale.batch} x {scale.window} frames, fp32 and bf16 in turns")
    if not machine.bf16():
        return Found(dict.fromkeys(KEYS, "a CPU that multiplies in bfloat16"), {})
    return _measure(random_records(scale.batch, scale.window), scale)


def _measure(records: Records, scale: Scale) -> Found:
    found = {name: _first_step(records, scale.window, bf16) for name, bf16 in NAMES.items()}
    jobs = {
        name: partial(Training(bf16=bf16).step, records, scale.window)
        for name, bf16 in NAMES.items()
    }
    for job in jobs.values():
        job()
    taken = interleave(jobs, scale.short_repetitions)
    (losses, norm), (rounded, rounded_norm) = found.values()
    values: dict[str, float | str] = {
        "bf16_over_fp32": ratio(taken["fp32"], taken["bf16"]),
        "bf16_loss_difference": max(_apart(rounded[name], losses[name]) for name in losses),
        "bf16_gradient_difference": _apart(rounded_norm, norm),
    }
    series = {"instructions": machine.bf16(), "first_step": found, "seconds": taken}
    return Found(values, {"precision": series})


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
