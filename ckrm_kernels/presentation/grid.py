"""Lines of text that show rows: columns that line up within a width, and what several rows have in common."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Generic, NamedTuple, TypeVar

from ckrm_kernels.presentation.tables import aligned, short_names

Row = TypeVar("Row")
_GAP = 2
_NAMED = 5  # rows in a line
_SHORTEST_NAME, _WISHED_NAME = 8, 20
_ALWAYS, _IF_POSSIBLE = 1, 5  # ranks of columns


class Line(NamedTuple):
    """style: "head", "soft", "verdict", one that the caller gives its rows, or "" """

    text: str
    style: str = ""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table; the first one names the rows.

    key: what it is called in this package; head: above it; group: above that, over neighbours of one group
    text: of a row, "" where it has none
    rank: where not all fit, the column with the largest is left out first
    is_word: whether it is no number
    """

    key: str
    head: str
    group: str
    text: Callable[[Row], str]
    rank: int
    is_word: bool = False


def lines_of(
    shown: Sequence[Column[Row]], rows: Sequence[Row], width: int | None, style: Callable[[Row], str]
) -> Iterator[Line]:
    """The head, with its groups above it, a rule, and a line a row; names are shortened to what `fitting` left."""
    names = [shown[0].text(row) for row in rows]
    short = dict(zip(names, short_names(names, _room(_widths(shown, rows), width)), strict=True))
    name = replace(shown[0], text=lambda row: short[shown[0].text(row)])
    above, head, rule, *body = grid([name, *shown[1:]], rows)
    if above:
        yield Line(above, "head")
    yield Line(head, "head")
    yield Line(rule, "soft")
    for row, text in zip(rows, body, strict=True):
        yield Line(text, style(row))


def grid(shown: Sequence[Column[Row]], rows: Sequence[Row]) -> list[str]:
    """Lines whose columns line up: the groups ("" without any), the head, a rule, and one a row."""
    widths = _widths(shown, rows)
    head = [
        column.head if column.is_word else column.head.rjust(width) for column, width in zip(shown, widths, strict=True)
    ]
    cells = [[column.text(row) for column in shown] for row in rows]
    numbers = [place for place, column in enumerate(shown) if not column.is_word]
    return [_groups(shown, widths), *aligned([head, *cells], numbers, rule=True).split("\n")]


def fitting(shown: list[Column[Row]], rows: Sequence[Row], width: int | None) -> list[Column[Row]]:
    """The columns that leave room for names that can be told apart; those that matter the most in any case."""
    names = [shown[0].text(row) for row in rows]
    while width is not None:
        widths = _widths(shown, rows)
        room = _room(widths, width)
        fits = _span([min(widths[0], room), *widths[1:]]) <= width
        readable = room >= min(widths[0], _WISHED_NAME) and len(set(short_names(names, room))) == len(set(names))
        last = max(shown, key=lambda column: column.rank)
        if (fits and (readable or last.rank <= _IF_POSSIBLE)) or last.rank <= _ALWAYS:
            break
        shown = [column for column in shown if column is not last]
    return shown


def listed(text: str, names: Sequence[str], width: int | None) -> Iterator[Line]:
    """What is said of several rows, with the names of a few of them where these fit on its line."""
    for named in range(min(_NAMED, len(names)), 0, -1):
        some = ", ".join([*names[:named], "..."] if named < len(names) else names)
        if width is None or len(f"{text} ({some})") <= width:
            yield Line(f"{text} ({some})")
            return
    yield from wrapped(text, width)


def wrapped(text: str, width: int | None, style: str = "") -> Iterator[Line]:
    """The text in lines, between words."""
    if width is None:
        yield Line(text, style)
        return
    for line in textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False):
        yield Line(line, style)


def _groups(shown: Sequence[Column[Row]], widths: Sequence[int]) -> str:
    """The line above the head: each group over its columns."""
    parts = []
    for group, places in groupby(range(len(shown)), key=lambda place: shown[place].group):
        span = _span([widths[place] for place in places])
        parts.append((f" {group} " if len(group) + 2 <= span else group).center(span, "-") if group else " " * span)
    return (" " * _GAP).join(parts).rstrip()


def _widths(shown: Sequence[Column[Row]], rows: Sequence[Row]) -> list[int]:
    """Of each column in characters, those of a group together with room for its name."""
    widths = [max([len(column.head), *(len(column.text(row)) for row in rows)]) for column in shown]
    for group, each in groupby(range(len(shown)), key=lambda place: shown[place].group):
        places = list(each)
        widths[places[0]] += max(len(group) - _span([widths[place] for place in places]), 0) if group else 0
    return widths


def _span(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _room(widths: Sequence[int], width: int | None) -> int:
    """What is left for the names, in the first column."""
    return widths[0] if width is None else max(width - _span(widths) + widths[0], _SHORTEST_NAME)
