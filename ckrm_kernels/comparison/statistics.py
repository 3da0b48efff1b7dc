"""Two groups of networks compared by one metric: how far apart, whether different, and whether equivalent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ckrm_kernels.extras import require

CONFIDENCE = 0.95
FEWEST = 3  # networks of a kind that an interval or a test is made of: the deviation of two says next to nothing
_POWER = 0.8  # how often a difference of the margin is to be seen


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; `low` and `high` are None where fewer than `FEWEST` values give none."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """The first group less the second, by Student's paired t-test or by Welch's, which lets their variances differ.

    metric: "accuracy" or "auc"; first, second: the groups' names
    difference: of the means, with the test's 95 % interval
    difference_p: of the two-sided test: below 0.05 exactly where the interval leaves out 0
    margin: the largest difference that counts as none
    equivalence_p: two one-sided tests against the margin: below 0.05 exactly where the 90 % interval lies within it
    needed: about how many networks of each kind would show a difference of the margin in four of five times; None where
        there are as many
    paired: whether the networks were paired by the seed that they were trained from
    The interval, both p and `needed` are None where a group holds fewer than `FEWEST` networks.
    """

    metric: Literal["accuracy", "auc"]
    first: str
    second: str
    difference: Interval
    difference_p: float | None
    margin: float
    equivalence_p: float | None
    needed: int | None = None
    paired: bool = False

    @property
    def different(self) -> bool:
        """Whether the test tells the groups apart."""
        return self.difference_p is not None and self.difference_p < 1 - CONFIDENCE

    @property
    def equivalent(self) -> bool:
        """Whether the groups are shown to be the same within the margin."""
        return self.equivalence_p is not None and self.equivalence_p < 1 - CONFIDENCE


def deviation(values: Sequence[float]) -> float | None:
    """The sample's standard deviation; None of a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's 95 % interval of the mean of independent values."""
    mean = statistics.mean(values)
    if len(values) < FEWEST:
        return Interval(mean, None, None)
    half = _quantile((1 + CONFIDENCE) / 2, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def compare(
    metric: Literal["accuracy", "auc"],
    first: tuple[str, Sequence[float]],
    second: tuple[str, Sequence[float]],
    margin: float,
    *,
    paired: bool = False,
) -> Comparison:
    """Compares two groups, each a name and one value a network.

    margin: > 0, in the metric's own unit
    paired: whether the values in one place of both are of networks from one seed, which are then compared with each
        other; without, by Welch's test
    Raises ValueError for another margin, and where groups of different sizes are paired.
    """
    if not margin > 0:
        raise ValueError(f"margin must be > 0, got {margin!r}")
    (first_name, a), (second_name, b) = first, second
    if paired and len(a) != len(b):
        raise ValueError(f"paired groups must be of one size, got {len(a)} and {len(b)} values")
    mean = statistics.mean(a) - statistics.mean(b)
    if min(len(a), len(b)) < FEWEST:
        return Comparison(metric, first_name, second_name, Interval(mean, None, None), None, margin, None, None, paired)
    variance, error, freedom = _paired(a, b) if paired else _unpaired(a, b)
    if error == 0:  # no spread: the tests' limit
        interval, difference_p, equivalence_p = Interval(mean, mean, mean), float(mean == 0), float(abs(mean) >= margin)
    else:
        half = _quantile((1 + CONFIDENCE) / 2, freedom) * error
        interval = Interval(mean, mean - half, mean + half)
        difference_p = 2 * _above(abs(mean) / error, freedom)
        equivalence_p = _above((margin - abs(mean)) / error, freedom)  # of the two, the larger
    needed = _networks_needed(variance, 1 if paired else 2, margin)
    more = needed if needed > min(len(a), len(b)) else None
    return Comparison(metric, first_name, second_name, interval, difference_p, margin, equivalence_p, more, paired)


def is_above(values: Sequence[float], level: float) -> bool | None:
    """Whether the values' mean is shown to be above a level: their interval is. None where they are too few for one."""
    low = mean_interval(values).low
    return None if low is None else low > level


def _paired(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """The variance of the differences, the standard error of their mean, and Student's degrees of freedom."""
    variance = statistics.variance([value - other for value, other in zip(a, b, strict=True)])
    return variance, math.sqrt(variance / len(a)), len(a) - 1


def _unpaired(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """The sum of the variances, the standard error of the difference, and Welch's and Satterthwaite's freedom."""
    variances = statistics.variance(a), statistics.variance(b)
    shares = variances[0] / len(a), variances[1] / len(b)
    if not any(shares):
        return 0.0, 0.0, math.inf
    first = shares[0] / sum(shares)
    freedom = 1 / (first**2 / (len(a) - 1) + (1 - first) ** 2 / (len(b) - 1))
    return sum(variances), math.sqrt(sum(shares)), freedom


def _networks_needed(variance: float, groups: int, margin: float) -> int:
    """Networks of each kind. variance: of a difference of two; groups: whose variance is estimated, 1 where paired"""

    def enough(count: float, freedom: float) -> bool:
        quantiles = _quantile((1 + CONFIDENCE) / 2, freedom) + _quantile(_POWER, freedom)
        return quantiles * math.sqrt(variance / count) <= margin

    normal = statistics.NormalDist()
    fewest = (normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(_POWER)) ** 2 * variance / margin**2
    count = max(math.ceil(fewest), FEWEST)  # what the normal distribution asks for, a little less than Student's
    while not enough(count, groups * (count - 1)):
        count += 1
    return count


def _quantile(share: float, freedom: float) -> float:
    """Of Student's distribution."""
    return float(_student().ppf(share, freedom))


def _above(value: float, freedom: float) -> float:
    """The share of Student's distribution that lies above the value."""
    return float(_student().sf(value, freedom))


def _student() -> Any:
    with require("comparing networks", "scipy"):
        from scipy.stats import t
    return t
