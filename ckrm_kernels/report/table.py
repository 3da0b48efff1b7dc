"""A report as lines of text, within a width or as long as they have to be."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from ckrm_kernels.presentation.tables import aligned, short_names
from ckrm_kernels.report.columns import Column, columns, finding, note, shape, shown_name
from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport
from ckrm_kernels.report.words import explanations, grouped, heading, provenance, verdict

_GAP = 2
_NAMED = 5  # layers in a line
_SHORTEST_NAME, _WISHED_NAME = 8, 20
_ALWAYS, _IF_POSSIBLE = 1, 5  # ranks of columns
_DIGITS = 12  # of a digest, where the width is limited


class Line(NamedTuple):
    """style: "repeats" or "scale" of a layer with that finding, "verdict", "head", "soft" or "" """

    text: str
    style: str = ""


def table(report: RedundancyReport) -> str:
    """The report as text."""
    return "\n".join(line.text for line in lines(report))


def lines(report: RedundancyReport, width: int | None = None, *, every: bool = False) -> Iterator[Line]:
    """A heading that ends with the verdict, a line a measured layer, one a reason for the others, what words mean.

    width: in characters; where not all fits, the columns that matter least are left out, and then names are shortened
        in their middle; no word is broken
    every: names each layer that was skipped, on a line of its own
    """
    for text in heading(report):
        yield from _wrapped(text, width)
    yield from _wrapped(verdict(report), width, "verdict")
    measured = report.measured
    shown = _fitting(columns(report, measured), measured, width) if measured else []
    if measured:
        yield Line("")
        yield from _rows(shown, measured, width)
    noted = () if any(column.key == "note" for column in shown) else [layer for layer in measured if note(layer)]
    skipped = [layer for layer in report.layers if layer.status == "skipped"]
    if noted or skipped:
        yield Line("")
    for word, layers in (("measured", noted), ("skipped", skipped)):
        for reason, same in grouped(layers):
            yield from _group(f"{len(same)} {word}: {reason}", same, width, every and word == "skipped")
    yield Line("")
    for word, text in explanations(report).items():
        yield from _wrapped(f"{word}: {text}", width, "soft")
    for name, value in provenance(report, None if width is None else _DIGITS):
        yield from _wrapped(f"{name}: {value}", width, "soft")


def _rows(shown: Sequence[Column], layers: Sequence[LayerRedundancy], width: int | None) -> Iterator[Line]:
    """The head, with its groups above it, a rule, and a line a layer."""
    names = [shown_name(layer) for layer in layers]
    short = dict(zip(names, short_names(names, _room(_widths(shown, layers), width)), strict=True))
    name = replace(shown[0], text=lambda layer: short[shown_name(layer)])
    above, head, rule, *body = grid([name, *shown[1:]], layers)
    if above:
        yield Line(above, "head")
    yield Line(head, "head")
    yield Line(rule, "soft")
    for layer, text in zip(layers, body, strict=True):
        yield Line(text, finding(layer))


def grid(shown: Sequence[Column], layers: Sequence[LayerRedundancy]) -> list[str]:
    """Lines whose columns line up: the groups ("" without any), the head, a rule, and one a layer."""
    widths = _widths(shown, layers)
    head = [
        column.head if column.is_word else column.head.rjust(width) for column, width in zip(shown, widths, strict=True)
    ]
    cells = [[column.text(layer) for column in shown] for layer in layers]
    numbers = [place for place, column in enumerate(shown) if not column.is_word]
    return [_groups(shown, widths), *aligned([head, *cells], numbers, rule=True).split("\n")]


def _groups(shown: Sequence[Column], widths: Sequence[int]) -> str:
    """The line above the head: each group over its columns."""
    parts = []
    for group, places in groupby(range(len(shown)), key=lambda place: shown[place].group):
        span = _span([widths[place] for place in places])
        parts.append((f" {group} " if len(group) + 2 <= span else group).center(span, "-") if group else " " * span)
    return (" " * _GAP).join(parts).rstrip()


def _widths(shown: Sequence[Column], layers: Sequence[LayerRedundancy]) -> list[int]:
    """Of each column in characters, those of a group together with room for its name."""
    widths = [max(len(column.head), *(len(column.text(layer)) for layer in layers)) for column in shown]
    for group, each in groupby(range(len(shown)), key=lambda place: shown[place].group):
        places = list(each)
        widths[places[0]] += max(len(group) - _span([widths[place] for place in places]), 0) if group else 0
    return widths


def _span(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _room(widths: Sequence[int], width: int | None) -> int:
    """What is left for the names, in the first column."""
    return widths[0] if width is None else max(width - _span(widths) + widths[0], _SHORTEST_NAME)


def _fitting(shown: list[Column], layers: Sequence[LayerRedundancy], width: int | None) -> list[Column]:
    """The columns that leave room for names that can be told apart; those that matter the most in any case."""
    names = [shown_name(layer) for layer in layers]
    while width is not None:
        widths = _widths(shown, layers)
        room = _room(widths, width)
        fits = _span([min(widths[0], room), *widths[1:]]) <= width
        readable = room >= min(widths[0], _WISHED_NAME) and len(set(short_names(names, room))) == len(set(names))
        last = max(shown, key=lambda column: column.rank)
        if (fits and (readable or last.rank <= _IF_POSSIBLE)) or last.rank <= _ALWAYS:
            break
        shown = [column for column in shown if column is not last]
    return shown


def _group(text: str, layers: Sequence[LayerRedundancy], width: int | None, every: bool) -> Iterator[Line]:
    """What is said of several layers, with a few of their names, or all, each on a line with its kind and shape."""
    if every:
        yield from _wrapped(f"{text}:", width)
        own = [note(layer) if note(layer) not in text else "" for layer in layers]
        rows = [(shown_name(layer), layer.kind, shape(layer), each) for layer, each in zip(layers, own, strict=True)]
        for row in aligned(rows, ()).split("\n"):
            yield from _wrapped(f"  {row}", width, "soft")
        return
    names = [shown_name(layer) for layer in layers]
    for named in range(min(_NAMED, len(names)), 0, -1):
        listed = ", ".join([*names[:named], "..."] if named < len(names) else names)
        if width is None or len(f"{text} ({listed})") <= width:
            yield Line(f"{text} ({listed})")
            return
    yield from _wrapped(text, width)


def _wrapped(text: str, width: int | None, style: str = "") -> Iterator[Line]:
    """The text in lines, between words."""
    if width is None:
        yield Line(text, style)
        return
    for line in textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False):
        yield Line(line, style)
