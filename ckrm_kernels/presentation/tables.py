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


def shortened(name: str, longest: int) -> str:
    """A name of at most so many characters: of a longer one its begin and, twice as much, its end."""
    if len(name) <= longest:
        return name
    begin = (longest - 1) // 3
    return f"{name[:begin]}…{name[len(name) - (longest - 1 - begin) :]}"


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
