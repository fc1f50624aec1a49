"""Means and rates with their 95 % intervals.

Means have bootstrap intervals (Efron 1979). Rates have Wilson's, since a bootstrap of 200 successes
in 200 episodes is sure that there is no failure. Several runs are summed up by the interquartile
mean over all their episodes, each run drawn from by itself (Agarwal et al. 2021, stratified).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Z95 = 1.959964
DRAWS = 2_000  # of a bootstrap
SEED = 0  # of its draws: the same values have the same interval

Measure = dict[str, Any]


def mean_ci(values: Sequence[float]) -> Measure:
    """Mean and its bootstrap interval; no interval for a single value."""
    found = bootstrap([np.asarray(values, np.float64)], lambda drawn: drawn.mean(-1))
    return {"mean": found[0], "ci95": found[1] if len(values) > 1 else None}


def iqm_ci(runs: Sequence[Sequence[float]]) -> Measure:
    """Interquartile mean over the values of several runs, and its interval."""
    value, interval = bootstrap([np.asarray(run, np.float64) for run in runs], interquartile_mean)
    return {"iqm": value, "ci95": interval, "runs": len(runs)}


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis; values on its edges count by their share."""
    n = values.shape[-1]
    inside = np.minimum(np.arange(n) + 1, 0.75 * n) - np.maximum(np.arange(n), 0.25 * n)
    return np.sort(values, -1) @ np.clip(inside, 0, None) / (0.5 * n)


def bootstrap(
    strata: Sequence[np.ndarray], statistic: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, list[float]]:
    """A statistic over all values, and where 95 % of its redraws lie."""
    rng = np.random.default_rng(SEED)
    drawn = [values[rng.integers(len(values), size=(DRAWS, len(values)))] for values in strata]
    low, high = np.quantile(statistic(np.concatenate(drawn, -1)), [0.025, 0.975])
    return float(statistic(np.concatenate(strata))), [float(low), float(high)]


def clusters_ci(count: int, statistic: Callable[[np.ndarray], np.ndarray]) -> Measure:
    """A statistic of so many clusters, and its interval where whole clusters are redrawn.

    Values of one episode resemble each other: redrawn one by one they would look surer than they
    are. `statistic` gets indices of clusters, (..., count), and gives its values, (...); those
    redraws count in which it exists.
    """
    drawn = np.random.default_rng(SEED).integers(count, size=(DRAWS, count))
    with np.errstate(divide="ignore", invalid="ignore"):
        value, values = float(statistic(np.arange(count))), statistic(drawn)
    if count < 2 or not np.isfinite(value):
        return {"mean": value, "ci95": None}
    low, high = np.quantile(values[np.isfinite(values)], [0.025, 0.975])
    return {"mean": value, "ci95": [float(low), float(high)]}


def rate_ci(outcomes: Sequence[bool]) -> Measure:
    """Rate and its Wilson score interval of 95 %, which is honest near 0 and 1 as well."""
    n, rate = len(outcomes), sum(outcomes) / len(outcomes)
    spread = Z95 * math.sqrt(rate * (1 - rate) / n + Z95**2 / (4 * n**2))
    centre, scale = rate + Z95**2 / (2 * n), 1 + Z95**2 / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return {"rate": rate, "ci95": [max(0.0, low), min(1.0, high)]}


def value_of(measure: Measure) -> float:
    """The figure itself, whatever it is called."""
    return next(measure[kind] for kind in ("rate", "mean", "iqm") if kind in measure)


def interval_of(measure: Measure) -> list[float]:
    """Its interval; the figure itself at both ends where it has none."""
    return measure["ci95"] or [value_of(measure)] * 2


def written(measure: Measure | None, form: str = "{:.3g}") -> str:
    """A measure with its interval as text; rates in per cent."""
    if measure is None:
        return "not reported"
    form, factor = ("{:.1f} %", 100) if "rate" in measure else (form, 1)
    text = form.format(factor * value_of(measure))
    if measure["ci95"] is None:
        return text
    low, high = (form.removesuffix(" %").format(factor * end) for end in measure["ci95"])
    return f"{text} [{low}, {high}]"
