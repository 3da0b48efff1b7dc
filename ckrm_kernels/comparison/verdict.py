"""What a comparison of two groups shows, in words."""

from __future__ import annotations

from ckrm_kernels.comparison.statistics import Comparison, Interval
from ckrm_kernels.presentation.numbers import signed


def in_words(comparison: Comparison) -> str:
    """The difference, and what both tests say of it."""
    first, second, margin = comparison.first, comparison.second, f"{comparison.margin:g}"
    opening = f"{first} less {second} {with_interval(comparison.difference, sign=True)}"
    if comparison.anova_p is None or comparison.equivalence_p is None:
        return f"{opening}, where one network of a kind allows no test"
    apart, same = with_p(comparison.anova_p), with_p(comparison.equivalence_p)
    better = first if comparison.difference.mean > 0 else second
    if comparison.different and comparison.equivalent:
        return f"{opening}: {better} is better ({apart}), but by less than the margin of {margin} ({same})"
    if comparison.equivalent:
        return f"{opening}: the same within {margin} ({same}), and not told apart ({apart})"
    if comparison.different:
        return f"{opening}: {better} is better ({apart})"
    return (
        f"{opening}: undecided, not told apart ({apart}), but not shown to be the same within {margin} either ({same})"
    )


def verdict(comparison: Comparison) -> str:
    """The outcome of the equivalence test in a word or two."""
    if comparison.equivalence_p is None:
        return "not tested"
    return "equivalent" if comparison.equivalent else "not shown to be equivalent"


def with_interval(interval: Interval, *, sign: bool = False) -> str:
    """The mean and, where there is one, its interval in brackets. sign: whether positive numbers have theirs"""

    def written(value: float) -> str:
        return signed(value) if sign else signed(value).removeprefix("+")

    if interval.low is None or interval.high is None:
        return written(interval.mean)
    return f"{written(interval.mean)} [{written(interval.low)}, {written(interval.high)}]"


def p_value(p: float | None) -> str:
    """Three decimals; a dash where there was no test."""
    if p is None:
        return "–"  # noqa: RUF001
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def with_p(p: float) -> str:
    """A p in running text, which no line breaks."""
    written = p_value(p)
    return ("p " + (written if written.startswith("<") else f"= {written}")).replace(" ", "\N{NO-BREAK SPACE}")
