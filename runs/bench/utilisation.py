"""How much of what the machine's matrix products can do a training step makes use of.

Every matrix product of one step is written down with its shapes and strides, and then made alone,
again and again: that is the machine's own rate at the shapes of the model. Linear maps only: the
small batched products inside a scan or attention are slow by themselves, and would lower the mark.
Attention counts as it is computed, with what its mask hides; the share without it stands beside.
Unusual: torch's counter does not know attention on CPUs, and counts the backward pass of a grouped
convolution as if it were dense; it is told.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from math import prod
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    FlopCounterMode,
    conv_flop_count,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from runs.bench.figures import Found, Say, Scale
from runs.bench.subject import Training, random_records
from runs.bench.timing import Job, interleave

aten = torch.ops.aten
LINEAR = {aten.mm.default: 0, aten.addmm.default: 1}  # where the two matrices are
BATCHED = {aten.bmm.default: 0, aten.baddbmm.default: 1}
LINEAR_MAPS = "linear maps of the model"
SQUARE = 2048
REPEATS = 8
TOP = 15


class Layout(NamedTuple):
    """A matrix as it lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]


Product = tuple[Layout, Layout]


def _attention(query, key, value, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad, query, key, value, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _convolution_backward(grad, x, weight, *rest: Any, **_: Any) -> int:
    """As much for the input, and as much for the weights, as forward."""
    wanted = rest[-1]  # gradients of input, weights and bias
    return sum(wanted[:2]) * conv_flop_count(x, weight, grad)


ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
FORMULAS = ATTENTION | {aten.convolution_backward: _convolution_backward}


class Products(TorchDispatchMode):
    """Writes down the matrix products that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: Counter[Product] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        first = (LINEAR | BATCHED).get(func)
        if first is not None:
            a, b = (Layout(tuple(m.shape), m.stride()) for m in args[first : first + 2])
            self.made[a, b] += 1
        return func(*args, **(kwargs or {}))


def utilisation(scale: Scale, say: Say) -> Found:
    """Speed of a step over that of its matrix products."""
    say(f"utilisation: steps of {scale.batch} x {scale.window} frames and their matrix products")
    training, records = Training(), random_records(scale.batch, scale.window)
    step = partial(training.step, records, scale.window)
    products, flops, by_operator = _count(step)
    taken = _time(step, products, scale.short_repetitions)
    rates = {
        LINEAR_MAPS: _rate([p for p in products if len(p[0].shape) == 2], products, taken),
        "all matrix products of the model": _rate(list(products), products, taken),
        f"{SQUARE} x {SQUARE} squares": 2 * SQUARE**3 / taken["square"],
    }
    speed = flops / taken["step"]
    shares = {name: speed / rate for name, rate in rates.items()}
    attention = sum(by_operator.get(str(operator), 0) for operator in ATTENTION)
    series = {
        "frames": scale.batch * scale.window,
        "step_seconds": taken["step"],
        "step_flop": flops,
        "step_flop_by_operator": by_operator,
        "gflop_per_second": {n: r / 1e9 for n, r in ({"step": speed} | rates).items()},
        "share_of": shares,
        "share_without_attention": shares[LINEAR_MAPS] * (1 - attention / flops),
        "products": _listed(products, taken),
        "profile": profile(step),
    }
    return Found({"matmul_share": shares[LINEAR_MAPS]}, {"utilisation": series})


def _count(step: Job) -> tuple[Counter[Product], int, dict[str, int]]:
    """Matrix products of a step, its floating-point operations, and these by operator."""
    step()
    with Products() as products:
        step()
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        step()
    counts = counter.get_flop_counts()["Global"]
    return products.made, counter.get_total_flops(), {str(op): n for op, n in counts.items()}


def _time(step: Job, products: Counter[Product], rounds: int) -> dict[str, float]:
    """Seconds of a step, of each product, and of one of large squares: medians over rounds."""
    jobs: dict[str, Job] = {_name(p): partial(_repeat, *_matrices(p)) for p in products}
    jobs |= {"step": step, "square": partial(torch.matmul, *torch.randn(2, SQUARE, SQUARE))}
    for job in jobs.values():
        job()
    taken = {name: median(times) for name, times in interleave(jobs, rounds).items()}
    names = {_name(product) for product in products}
    return {name: time / REPEATS if name in names else time for name, time in taken.items()}


def _repeat(a: Tensor, b: Tensor) -> None:
    """A product again and again, so that what it needs is at hand: the machine at its best."""
    for _ in range(REPEATS):
        torch.matmul(a, b)


def _flop(product: Product) -> int:
    a, b = product
    return 2 * prod(a.shape) * b.shape[-1]


def _rate(chosen: Sequence[Product], made: Counter[Product], taken: dict[str, float]) -> float:
    """Operations a second of these products, each as often as a step makes it."""
    flops = sum(made[product] * _flop(product) for product in chosen)
    return flops / sum(made[product] * taken[_name(product)] for product in chosen)


def _matrices(product: Product) -> list[Tensor]:
    """Random matrices that lie in memory as those of the model did."""
    return [_random(layout) for layout in product]


def _random(layout: Layout) -> Tensor:
    size = 1 + sum((n - 1) * stride for n, stride in zip(*layout, strict=True))
    return torch.randn(size).as_strided(*layout)


def _name(product: Product) -> str:
    return " @ ".join(f"{'x'.join(map(str, m.shape))} {m.stride}" for m in product)


def _listed(made: Counter[Product], taken: dict[str, float]) -> list[dict[str, Any]]:
    """The products that cost most, dearest first."""
    costs = {product: times * taken[_name(product)] for product, times in made.items()}
    return [
        {
            "product": _name(product),
            "times": made[product],
            "seconds": costs[product],
            "gflop_per_second": _flop(product) / taken[_name(product)] / 1e9,
        }
        for product in sorted(costs, key=lambda product: -costs[product])[:TOP]
    ]


def profile(step: Job) -> list[dict[str, Any]]:
    """The operators that take most of the processor's time, with their share."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        step()
    averages = profiler.key_averages()
    total = sum(part.self_cpu_time_total for part in averages)
    parts = sorted(averages, key=lambda part: -part.self_cpu_time_total)[:TOP]
    return [
        {
            "operator": part.key,
            "calls": part.count,
            "ms": part.self_cpu_time_total / 1e3,
            "share": part.self_cpu_time_total / total,
        }
        for part in parts
    ]
