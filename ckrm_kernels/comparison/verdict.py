"""What a comparison of two groups shows, in words."""

from __future__ import annotations

from ckrm_kernels.comparison.statistics import CONFIDENCE, FEWEST, Comparison, Interval
from ckrm_kernels.presentation.numbers import signed

_LEVEL = round(1 - CONFIDENCE, 9)


def in_words(comparison: Comparison) -> str:
    """The difference, and what both tests say of it."""
    first, second, margin = comparison.first, comparison.second, f"{comparison.margin:g}"
    opening = f"{first} less {second} {with_interval(comparison.difference, sign=True)}"
    if comparison.difference_p is None or comparison.equivalence_p is None:
        return f"{opening}, where no test is made: it takes at least {FEWEST} networks of each kind"
    if comparison.paired:
        opening += ", paired by seed"
    apart, same = with_p(comparison.difference_p), with_p(comparison.equivalence_p)
    better = first if comparison.difference.mean > 0 else second
    if comparison.different and comparison.equivalent:
        return f"{opening}: {better} is better ({apart}), but by less than the margin of {margin} ({same})"
    if comparison.equivalent:
        return f"{opening}: the same within {margin} ({same}), and not told apart ({apart})"
    if comparison.different:
        return f"{opening}: {better} is better ({apart})"
    return (
        f"{opening}: undecided, not told apart ({apart}), but not shown to be the same within {margin} either ({same})"
        f"{_what_would_decide(comparison)}"
    )


def _what_would_decide(comparison: Comparison) -> str:
    if comparison.needed is None:
        return ""
    return (
        f"; about {comparison.needed:,} networks of each kind would mostly show a difference of {comparison.margin:g}"
    )


def verdict(comparison: Comparison) -> str:
    """The outcome of the equivalence test in a word or two."""
    if comparison.equivalence_p is None:
        return "not tested"
    return "equivalent" if comparison.equivalent else "not shown to be equivalent"


def with_interval(interval: Interval, *, sign: bool = False) -> str:
    """The mean and, where there is one, its interval in brackets. sign: whether positive numbers have theirs"""

    def written(value: float, decimals: int = 4) -> str:
        return signed(value, decimals).removeprefix("" if sign else "+")

    low, high = interval.low, interval.high
    if low is None or high is None:
        return written(interval.mean)
    fewest = (4 if low <= 0 <= high else _decimals(bound, 0.0, 4) for bound in (low, high))
    return f"{written(interval.mean)} [{', '.join(map(written, (low, high), fewest))}]"


def p_value(p: float | None) -> str:
    """Three decimals, or as many as tell it from the tests' level; a dash where there was no test."""
    if p is None:
        return "–"  # noqa: RUF001
    return "< 0.001" if p < 0.001 else f"{p:.{_decimals(p, _LEVEL, 3)}f}"


def _decimals(value: float, level: float, fewest: int) -> int:
    """How many it takes to write a value that is not the level as another number than the level."""
    decimals = fewest
    while value != level and round(value, decimals) == level:
        decimals += 1
    return decimals


def with_p(p: float) -> str:
    """A p in running text, which no line breaks."""
    written = p_value(p)
    return ("p " + (written if written.startswith("<") else f"= {written}")).replace(" ", "\N{NO-BREAK SPACE}")
