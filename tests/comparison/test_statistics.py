"""The tests that compare two groups, against their formulas and against what they are for."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtr, stdtrit

from ckrm_kernels.comparison.statistics import Interval, compare, mean_interval

A = (0.91, 0.93, 0.90, 0.94, 0.92)
B = (0.90, 0.92, 0.89, 0.90)


def welch(a, b) -> tuple[float, float]:
    """Standard error of the difference of the means, and Welch's degrees of freedom."""
    first, second = statistics.variance(a) / len(a), statistics.variance(b) / len(b)
    freedom = (first + second) ** 2 / (first**2 / (len(a) - 1) + second**2 / (len(b) - 1))
    return math.sqrt(first + second), freedom


def test_the_interval_of_a_mean():
    half = stdtrit(4, 0.975) * np.std(A, ddof=1) / math.sqrt(5)
    interval = mean_interval(A)
    assert (interval.low, interval.mean, interval.high) == pytest.approx((0.92 - half, 0.92, 0.92 + half))
    assert mean_interval([0.5]) == Interval(0.5, None, None)


def test_difference_and_equivalence_by_their_formulas():
    result = compare("auc", ("a", A), ("b", B), margin=0.03)
    error, freedom = welch(A, B)
    mean, half = np.mean(A) - np.mean(B), stdtrit(freedom, 0.975) * error
    difference = result.difference
    assert (difference.mean, difference.low, difference.high) == pytest.approx((mean, mean - half, mean + half))
    assert result.equivalence_p == pytest.approx(
        max(1 - stdtr(freedom, (mean + 0.03) / error), stdtr(freedom, (mean - 0.03) / error))
    )


def test_analysis_of_variance_of_two_groups_is_students_test():
    pooled = math.sqrt((4 * statistics.variance(A) + 3 * statistics.variance(B)) / 7 * (1 / 5 + 1 / 4))
    t = (statistics.fmean(A) - statistics.fmean(B)) / pooled
    assert compare("auc", ("a", A), ("b", B), margin=0.03).anova_p == pytest.approx(2 * stdtr(7, -t))


def test_a_large_p_is_not_sameness():
    a, b = (0.8, 0.9, 1.0), (0.75, 0.9, 0.98)
    result = compare("accuracy", ("a", a), ("b", b), margin=0.01)
    assert not result.different
    assert not result.equivalent


def test_different_yet_the_same_within_the_margin():
    a = [0.9500 + 0.0001 * (n % 3) for n in range(10)]
    b = [0.9520 + 0.0001 * (n % 3) for n in range(10)]
    result = compare("accuracy", ("a", a), ("b", b), margin=0.01)
    assert result.different
    assert result.equivalent


@pytest.mark.parametrize(("other", "anova", "equivalence"), [(0.9, 1.0, 0.0), (0.895, 0.0, 0.0), (0.5, 0.0, 1.0)])
def test_groups_without_spread(other, anova, equivalence):
    result = compare("accuracy", ("a", (0.9, 0.9)), ("b", (other, other, other)), margin=0.01)
    assert (result.anova_p, result.equivalence_p) == (anova, equivalence)
    assert result.difference.low == result.difference.high == pytest.approx(0.9 - other)


def test_a_single_network_shows_nothing():
    result = compare("accuracy", ("a", (0.9,)), ("b", (0.8, 0.7)), margin=0.01)
    assert result.difference == Interval(pytest.approx(0.15), None, None)
    assert (result.anova_p, result.equivalence_p) == (None, None)
    assert not result.different
    assert not result.equivalent


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan])
def test_a_margin_refused(margin):
    with pytest.raises(ValueError, match=f"margin must be > 0, got {margin}"):
        compare("accuracy", ("a", A), ("b", B), margin)


groups = st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=2, max_size=6)


@given(groups, groups)
def test_exchanged_groups_give_the_same_tests(a, b):
    ours, theirs = compare("auc", ("a", a), ("b", b), 0.05), compare("auc", ("b", b), ("a", a), 0.05)
    assert ours.difference.mean == pytest.approx(-theirs.difference.mean, abs=1e-12)
    assert ours.anova_p == pytest.approx(theirs.anova_p, abs=1e-9)
    assert ours.equivalence_p == pytest.approx(theirs.equivalence_p, abs=1e-9)
    assert 0 <= ours.equivalence_p <= 1


def test_groups_of_one_value_and_of_different_sizes_are_the_same():
    few, many = [0.9777] * 3, [0.9777] * 10
    assert statistics.fmean(few) != statistics.fmean(many)
    found = compare("accuracy", ("few", few), ("many", many), 0.01)
    assert (found.difference.mean, found.anova_p, found.equivalence_p) == (0.0, 1.0, 0.0)
