"""Means and rates with their 95 % intervals.

Means have bootstrap intervals (Efron 1979). Rates have Wilson's, since a bootstrap of 200 successes
in 200 episodes is sure that there is no failure. Several runs are summed up by the interquartile
mean of what each earns on average (Agarwal et al. 2021). Unlike there, their intervals redraw the
runs as well: what another seed would have learned is most of the doubt. They are never narrower
than those of the episodes of these very runs.

Few values resample themselves too narrowly: of 3 runs, 95 % intervals of a plain bootstrap hold the
truth 3 times in 4. So its ends are moved away from the value as far as Student's t asks for (after
Hesterberg 2015, section 3.4), which holds it 93 to 95 times in 100 of 2, 3, 5 or 8 normal values.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

Z95 = 1.959964
DRAWS = 2_000  # of a bootstrap
FEWEST = 4  # values with an interval: three that agree by chance would have none to speak of
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # by degrees of freedom
SEED = 0  # of its draws: the same values have the same interval

Measure = dict[str, Any]


def mean_ci(values: Sequence[float]) -> Measure:
    """Mean and its bootstrap interval; no interval for fewer than FEWEST values."""
    mean, count = float(np.mean(values)), len(values)
    drawn = _redrawn(values, DRAWS, np.random.default_rng(SEED))
    return {"mean": mean, "ci95": _ends(drawn, mean, count) if count >= FEWEST else None}


def iqm_ci(runs: Sequence[Sequence[float]]) -> Measure:
    """Interquartile mean of the means of several runs, and its interval."""
    value = float(interquartile_mean(np.array([np.mean(run) for run in runs])))
    ends = _ends_of_runs(runs, interquartile_mean, value)
    return {"iqm": value, "ci95": ends, "runs": len(runs)}


def rates_ci(runs: Sequence[Sequence[bool]]) -> Measure:
    """Rate over several runs: Wilson's interval, or that of redrawn runs where it goes further."""
    found = rate_ci([outcome for run in runs for outcome in run])
    low, high = _ends_of_runs(runs, partial(np.mean, axis=-1), found["rate"])
    low, high = min(low, found["ci95"][0]), max(high, found["ci95"][1])
    return found | {"ci95": [max(0.0, low), min(1.0, high)]}


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis; values on its edges count by their share."""
    n = values.shape[-1]
    inside = np.minimum(np.arange(n) + 1, 0.75 * n) - np.maximum(np.arange(n), 0.25 * n)
    return np.sort(values, -1) @ np.clip(inside, 0, None) / (0.5 * n)


def _redrawn(values: Sequence[float], times: int, rng: np.random.Generator) -> np.ndarray:
    """Means of as many values, drawn from these again and again."""
    count = len(values)
    return np.asarray(values, np.float64)[rng.integers(count, size=(times, count))].mean(-1)


def _ends_of_runs(
    runs: Sequence[Sequence[float]], statistic: Callable[[np.ndarray], np.ndarray], value: float
) -> list[float]:
    """Ends of an interval of a statistic of the runs' means: by the episodes, and by the runs."""
    rng, count = np.random.default_rng(SEED), len(runs)
    by_episodes = np.stack([_redrawn(run, DRAWS, rng) for run in runs], -1)
    ends = [_ends(statistic(by_episodes), value, sum(map(len, runs)))]
    if count > 1:
        means = np.array([np.mean(run) for run in runs])
        by_runs = means[rng.integers(count, size=(DRAWS, count))]
        ends.append(_ends(statistic(by_runs), value, count))
    low, high = zip(*ends, strict=True)
    return [min(low), max(high)]


def _ends(drawn: np.ndarray, value: float, count: int) -> list[float]:
    """Where 95 % of the draws lie, as much further from the value as so few ones ask for."""
    wider = student(count - 1) / Z95 * math.sqrt(count / (count - 1)) if count > 1 else 1.0
    return [float(value + wider * (end - value)) for end in np.quantile(drawn, [0.025, 0.975])]


def student(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t (above 9, two terms of its expansion; 0.2 % off)."""
    if freedom <= len(T95):
        return T95[freedom - 1]
    return Z95 + (Z95 + Z95**3) / (4 * freedom) + 2.82 / freedom**2


def clusters_ci(count: int, statistic: Callable[[np.ndarray], np.ndarray]) -> Measure:
    """A statistic of so many clusters, and its interval where whole clusters are redrawn.

    Values of one episode resemble each other: redrawn one by one they would look surer than they
    are. `statistic` gets indices of clusters, (..., count), and gives its values, (...); those
    redraws count in which it exists.
    """
    drawn = np.random.default_rng(SEED).integers(count, size=(DRAWS, count))
    with np.errstate(divide="ignore", invalid="ignore"):
        value, values = float(statistic(np.arange(count))), statistic(drawn)
    if count < FEWEST or not np.isfinite(value):
        return {"mean": value, "ci95": None}
    return {"mean": value, "ci95": _ends(values[np.isfinite(values)], value, count)}


def rate_ci(outcomes: Sequence[bool]) -> Measure:
    """Rate and its Wilson score interval of 95 %, which is honest near 0 and 1 as well."""
    n, rate = len(outcomes), sum(outcomes) / len(outcomes)
    spread = Z95 * math.sqrt(rate * (1 - rate) / n + Z95**2 / (4 * n**2))
    centre, scale = rate + Z95**2 / (2 * n), 1 + Z95**2 / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    # Exact at the ends, which rounding may miss.
    return {"rate": rate, "ci95": [low if rate > 0 else 0.0, high if rate < 1 else 1.0]}


def value_of(measure: Measure) -> float:
    """The figure itself, whatever it is called."""
    return next(measure[kind] for kind in ("rate", "mean", "iqm") if kind in measure)


def interval_of(measure: Measure) -> list[float]:
    """Its interval; the figure itself at both ends where it has none."""
    return measure["ci95"] or [value_of(measure)] * 2


def surely_more(one: Measure, other: Measure) -> bool:
    """Whether one is so much more than the other that their intervals lie apart."""
    return bool(one["ci95"] and other["ci95"] and one["ci95"][0] > other["ci95"][1])


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
