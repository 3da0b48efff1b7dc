"""The tests that compare two groups, against their formulas and against what they are for."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import stdtr, stdtrit

from ckrm_kernels.comparison.statistics import (
    Comparison,
    Interval,
    compare,
    deviation,
    is_above,
    mean_interval,
)
from ckrm_kernels.comparison.tables import mean_and_deviation
from ckrm_kernels.comparison.verdict import in_words, p_value, with_interval

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
    assert mean_interval([0.27, 0.31]) == Interval(pytest.approx(0.29), None, None)


def test_difference_and_equivalence_by_their_formulas():
    result = compare("auc", ("a", A), ("b", B), margin=0.03)
    error, freedom = welch(A, B)
    mean, half = np.mean(A) - np.mean(B), stdtrit(freedom, 0.975) * error
    difference = result.difference
    assert (difference.mean, difference.low, difference.high) == pytest.approx((mean, mean - half, mean + half))
    assert result.difference_p == pytest.approx(2 * stdtr(freedom, -abs(mean) / error))
    assert result.equivalence_p == pytest.approx(
        max(1 - stdtr(freedom, (mean + 0.03) / error), stdtr(freedom, (mean - 0.03) / error))
    )


def test_by_hand():
    """Means 0.92 and 0.90, variances 0.0004 and 0.0001 of three each: error sqrt(0.0005 / 3), freedom 50 / 17."""
    result = compare("accuracy", ("a", (0.90, 0.92, 0.94)), ("b", (0.89, 0.90, 0.91)), margin=0.01)
    error, freedom = 0.0129099445, 2.9411765  # sqrt(0.0005 / 3); 0.0005^2 / (0.0004^2 / 2 + 0.0001^2 / 2)
    assert welch((0.90, 0.92, 0.94), (0.89, 0.90, 0.91)) == pytest.approx((error, freedom))
    assert result.difference_p == pytest.approx(2 * stdtr(freedom, -0.02 / error))
    assert result.difference.low == pytest.approx(0.02 - stdtrit(freedom, 0.975) * error)


def test_the_tests_are_those_of_scipy():
    result, theirs = compare("auc", ("a", A), ("b", B), 0.03), stats.ttest_ind(A, B, equal_var=False)
    assert result.difference_p == pytest.approx(theirs.pvalue)
    assert (result.difference.low, result.difference.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    shifted = [
        stats.ttest_ind(np.array(A) + shift, B, equal_var=False, alternative=side).pvalue
        for shift, side in ((0.03, "greater"), (-0.03, "less"))
    ]
    assert result.equivalence_p == pytest.approx(max(shifted))


PAIRED = (0.90, 0.93, 0.89, 0.92, 0.92)


def test_the_paired_tests_are_those_of_scipy():
    result, theirs = compare("auc", ("a", A), ("b", PAIRED), 0.03, paired=True), stats.ttest_rel(A, PAIRED)
    assert result.paired
    assert result.difference_p == pytest.approx(theirs.pvalue)
    assert (result.difference.low, result.difference.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    shifted = [
        stats.ttest_rel(np.array(A) + shift, PAIRED, alternative=side).pvalue
        for shift, side in ((0.03, "greater"), (-0.03, "less"))
    ]
    assert result.equivalence_p == pytest.approx(max(shifted))
    assert ", paired by seed: " in in_words(result)
    assert "paired" not in in_words(compare("auc", ("a", A), ("b", PAIRED), 0.03))


def test_pairs_see_what_seeds_have_in_common():
    """Whatever a seed adds to both of its networks; Welch's test sees nothing beside it."""
    first, second = (0.62, 0.81, 0.73, 0.92, 0.52), (0.60, 0.80, 0.71, 0.90, 0.51)
    assert compare("auc", ("a", first), ("b", second), 0.01, paired=True).different
    assert not compare("auc", ("a", first), ("b", second), 0.01).different


def test_pairs_without_spread_and_pairs_that_are_none():
    same = compare("accuracy", ("a", A), ("b", A), 0.01, paired=True)
    assert (same.difference, same.difference_p, same.equivalence_p) == (Interval(0.0, 0.0, 0.0), 1.0, 0.0)
    with pytest.raises(ValueError, match="paired groups must be of one size, got 5 and 4 values"):
        compare("accuracy", ("a", A), ("b", B), 0.01, paired=True)


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


def test_groups_of_different_variance_and_size_are_not_told_apart_by_a_pooled_test():
    """The pooled test, a one-way analysis of variance, gives 0.012 here; the interval, Welch's, holds 0."""
    few, many = (0.90, 0.93, 0.96), (0.899, 0.900, 0.901, 0.900, 0.899, 0.901, 0.900, 0.900)
    assert stats.f_oneway(few, many).pvalue == pytest.approx(0.0121, abs=1e-4)
    result = compare("accuracy", ("few", few), ("many", many), 0.01)
    assert result.difference.low < 0 < result.difference.high
    assert not result.different
    assert "undecided" in in_words(result)


@pytest.mark.parametrize(("other", "difference", "equivalence"), [(0.9, 1.0, 0.0), (0.895, 0.0, 0.0), (0.5, 0.0, 1.0)])
def test_groups_without_spread(other, difference, equivalence):
    result = compare("accuracy", ("a", (0.9, 0.9, 0.9)), ("b", (other,) * 4), margin=0.01)
    assert (result.difference_p, result.equivalence_p) == (difference, equivalence)
    assert result.difference.low == result.difference.high == pytest.approx(0.9 - other)


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy's
def test_a_group_without_spread_beside_one_with():
    result = compare("accuracy", ("a", (0.9,) * 3), ("b", (0.8, 0.81, 0.82)), margin=0.01)
    theirs = stats.ttest_ind((0.9,) * 3, (0.8, 0.81, 0.82), equal_var=False)
    assert result.difference_p == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("few", [(0.9,), (0.9, 0.91)])
def test_one_or_two_networks_of_a_kind_show_nothing(few):
    result = compare("accuracy", ("a", few), ("b", (0.8, 0.7, 0.75)), margin=0.01)
    assert result.difference == Interval(pytest.approx(statistics.fmean(few) - 0.75), None, None)
    assert (result.difference_p, result.equivalence_p, result.needed) == (None, None, None)
    assert not result.different
    assert not result.equivalent
    assert in_words(result).endswith(", where no test is made: it takes at least 3 networks of each kind")


def test_one_network_has_no_deviation():
    assert deviation([0.5]) is None
    assert mean_and_deviation([0.516]) == "0.5160"
    assert deviation([0.4, 0.6]) == pytest.approx(math.sqrt(0.02))
    assert mean_and_deviation([0.4, 0.6]) == "0.5000 ± 0.1414"


def test_whether_a_mean_is_above_a_level():
    # Student's interval begins at 0.9 - 4.303 * 0.01 / sqrt(3) = 0.8752
    assert is_above((0.89, 0.90, 0.91), 0.875)
    assert is_above((0.89, 0.90, 0.91), 0.876) is False
    assert is_above((0.89, 0.91), 0.1) is None


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan])
def test_a_margin_refused(margin):
    with pytest.raises(ValueError, match=f"margin must be > 0, got {margin}"):
        compare("accuracy", ("a", A), ("b", B), margin)


def test_as_many_networks_as_needed_mostly_show_a_difference_of_the_margin():
    """Simulated: the share of experiments of so many networks, 0.01 apart, in which Welch's test sees it."""
    spread = (0.90, 0.91, 0.92)  # a deviation of 0.01
    needed = compare("accuracy", ("a", spread), ("b", spread), 0.01).needed
    assert needed == 17
    draws = np.random.default_rng(0).normal(size=(2, 2000, needed)) * 0.01
    p = stats.ttest_ind(draws[0] + 0.01, draws[1], axis=1, equal_var=False).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.03)
    assert "about 17 networks of each kind would mostly show a difference of 0.01" in in_words(
        compare("accuracy", ("a", spread), ("b", spread), 0.01)
    )
    assert compare("accuracy", ("a", spread * 6), ("b", spread * 6), 0.01).needed is None  # there are 18


def test_as_many_pairs_as_needed_mostly_show_a_difference_of_the_margin():
    first, second = (0.90, 0.92, 0.91), (0.91, 0.91, 0.91)  # differences with a deviation of 0.01
    needed = compare("accuracy", ("a", first), ("b", second), 0.01, paired=True).needed
    draws = np.random.default_rng(0).normal(size=(2000, needed)) * 0.01
    p = stats.ttest_1samp(draws + 0.01, 0, axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.05)
    assert (stats.ttest_1samp((draws + 0.01)[:, 1:], 0, axis=1).pvalue < 0.05).mean() < 0.8


accuracies = st.integers(0, 100).map(lambda n: n / 100)
groups = st.lists(accuracies, min_size=2, max_size=6)
narrow = st.lists(st.integers(88, 92).map(lambda n: n / 100), min_size=3, max_size=40)


@given(groups, groups)
def test_exchanged_groups_give_the_same_tests(a, b):
    ours, theirs = compare("auc", ("a", a), ("b", b), 0.05), compare("auc", ("b", b), ("a", a), 0.05)
    assert ours.difference.mean == pytest.approx(-theirs.difference.mean, abs=1e-12)
    assert ours.difference_p == pytest.approx(theirs.difference_p, abs=1e-9)
    assert ours.equivalence_p == pytest.approx(theirs.equivalence_p, abs=1e-9)
    assert ours.equivalence_p is None or 0 <= ours.equivalence_p <= 1


@given(st.one_of(groups, narrow), st.one_of(groups, narrow), st.sampled_from([0.005, 0.01, 0.05]))
def test_words_p_and_interval_agree(a, b, margin):
    result = compare("accuracy", ("first", a), ("second", b), margin)
    words, difference = in_words(result), result.difference
    if min(len(a), len(b)) < 3:
        assert "no test" in words
        return
    assert ("is better" in words) == result.different == (difference.low > 0 or difference.high < 0)
    assert result.different == (result.difference_p < 0.05)
    error, freedom = welch(a, b) if len({*a}) + len({*b}) > 2 else (0.0, 1.0)
    half = stdtrit(freedom, 0.95) * error  # of the interval of 90 %
    assert result.equivalent == (difference.mean - half > -margin and difference.mean + half < margin)
    assert ("the same within" in words and "not shown" not in words) == (result.equivalent and not result.different)
    if result.different:
        better = "first" if difference.mean > 0 else "second"
        assert f": {better} is better" in words
    assert result.needed is None or result.needed > min(len(a), len(b))


def test_groups_of_one_value_and_of_different_sizes_are_the_same():
    few, many = [0.9777] * 3, [0.9777] * 10
    assert statistics.fmean(few) != statistics.fmean(many)
    found = compare("accuracy", ("few", few), ("many", many), 0.01)
    assert (found.difference.mean, found.difference_p, found.equivalence_p) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("p", "written"),
    [(None, "–"), (0.0004, "< 0.001"), (0.05, "0.050"), (0.0504, "0.0504"), (0.04996, "0.04996"), (0.071, "0.071")],  # noqa: RUF001
)
def test_a_written_p_is_on_its_side_of_the_level(p, written):
    assert p_value(p) == written


def test_a_written_bound_is_on_its_side_of_0():
    assert with_interval(Interval(0.0017, 0.00003, 0.00337), sign=True) == "+0.0017 [+0.00003, +0.0034]"
    assert with_interval(Interval(0.0017, -0.00003, 0.00343)) == "0.0017 [0.0000, 0.0034]"
    comparison = Comparison("auc", "a", "b", Interval(-0.0017, -0.0036, -0.00001), 0.0499, 0.01, 0.0001)
    assert (
        in_words(comparison)
        .replace("\N{NO-BREAK SPACE}", " ")
        .startswith(
            "a less b −0.0017 [−0.0036, −0.00001]: b is better (p = 0.0499)"  # noqa: RUF001
        )
    )
