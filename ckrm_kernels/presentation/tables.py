"""Tables as plain text and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Sequence
from io import StringIO


def aligned(rows: Sequence[Sequence[str]], numbers: Collection[int], *, rule: bool = False) -> str:
    """The rows as lines whose columns line up: those in `numbers` to the right, the others to the left.

    rows: the head first; rule: whether to draw one below it
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    if rule:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def short_names(names: Sequence[str], longest: int) -> list[str]:
    """Names of at most so many characters, the longer ones cut in their middle, where they can still be told apart."""
    choices = [[_cut(name, longest, int(share * longest)) for name in names] for share in (1 / 3, 1 / 2, 2 / 3, 1, 0)]
    return max(choices, key=lambda names: len(set(names)))


def printable(text: str) -> str:
    """The text, with what would move a terminal's cursor written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(name: str, longest: int, begin: int) -> str:
    """begin: how many characters are left of the begin of a name that is too long"""
    if len(name) <= longest:
        return name
    end = longest - 1 - min(begin, longest - 1)
    return f"{name[: longest - 1 - end]}…{name[len(name) - end :]}"


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows under their head; floats are written so that they read back as they were, None as nothing."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()


def together(values: Iterable[object]) -> str:
    """Several values in one field, divided by blanks."""
    return " ".join(map(repr, values))
