"""Two groups of networks compared by one metric: how far apart, whether different, and whether equivalent."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ckrm_kernels.extras import require

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; `low` and `high` are None where a single value gives none."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """The first group less the second.

    metric: "accuracy" or "auc"; first, second: the groups' names
    difference: of the means, with Welch's interval
    anova_p: one-way analysis of variance, as the paper's: small says that the groups differ
    margin: the largest difference that counts as none
    equivalence_p: two one-sided Welch tests against the margin: small says that the groups are the same within it
    Both p are None where a group holds a single network.
    """

    metric: Literal["accuracy", "auc"]
    first: str
    second: str
    difference: Interval
    anova_p: float | None
    margin: float
    equivalence_p: float | None

    @property
    def different(self) -> bool:
        """Whether the analysis of variance tells the groups apart."""
        return self.anova_p is not None and self.anova_p < 1 - CONFIDENCE

    @property
    def equivalent(self) -> bool:
        """Whether the groups are shown to be the same within the margin."""
        return self.equivalence_p is not None and self.equivalence_p < 1 - CONFIDENCE


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's interval of the mean of independent values."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None)
    quantile = float(_scipy_stats().t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def compare(
    metric: Literal["accuracy", "auc"],
    first: tuple[str, Sequence[float]],
    second: tuple[str, Sequence[float]],
    margin: float,
) -> Comparison:
    """Compares two groups, each a name and one value a network.

    margin: > 0, in the metric's own unit
    """
    if not margin > 0:
        raise ValueError(f"margin must be > 0, got {margin!r}")
    (first_name, a), (second_name, b) = first, second
    mean = statistics.fmean(a) - statistics.fmean(b)
    if len(a) < 2 or len(b) < 2:
        return Comparison(metric, first_name, second_name, Interval(mean, None, None), None, margin, None)
    if len(set(a)) == len(set(b)) == 1:  # no spread: the tests' limit
        mean = a[0] - b[0]  # exactly: means of equal values may differ in their last bits
        difference = Interval(mean, mean, mean)
        return Comparison(
            metric, first_name, second_name, difference, float(mean == 0), margin, float(abs(mean) >= margin)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that one of the groups has no spread
        interval, anova_p, equivalence_p = _tests(a, b, margin)
    return Comparison(metric, first_name, second_name, Interval(mean, *interval), anova_p, margin, equivalence_p)


def _tests(a: Sequence[float], b: Sequence[float], margin: float) -> tuple[tuple[float, float], float, float]:
    """Welch's interval of the difference of the means, and the p of both tests."""
    stats = _scipy_stats()
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(CONFIDENCE)
    above = stats.ttest_ind([value + margin for value in a], b, equal_var=False, alternative="greater").pvalue
    below = stats.ttest_ind([value - margin for value in a], b, equal_var=False, alternative="less").pvalue
    bounds = float(interval.low), float(interval.high)
    return bounds, float(stats.f_oneway(a, b).pvalue), float(max(above, below))


def _scipy_stats() -> Any:
    with require("comparing networks", "scipy"):
        from scipy import stats
    return stats
