"""Tables as plain text and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Sequence
from io import StringIO


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str], *, rule: bool = False) -> str:
    """The head and the rows as lines whose columns line up.

    rows: cells, as many as the head has; right: the columns of numbers, by their heads; the others stand to the left
    rule: whether to draw one below the head
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for cells in (head, *([["-" * width for width in widths]] if rule else []), *rows):
        columns = zip(head, cells, widths, strict=True)
        padded = (cell.rjust(width) if name in right else cell.ljust(width) for name, cell, width in columns)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


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
