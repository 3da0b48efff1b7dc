"""Tables as CSV text: plain numbers, empty where there is none."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from io import StringIO


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows under their head; floats are written so that they read back as they were."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()


def together(values: Iterable[object]) -> str:
    """Several values in one field, divided by blanks."""
    return " ".join(map(repr, values))
