"""Rows with a reason, brought together by it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

Row = TypeVar("Row")


def by_reason(
    rows: Sequence[Row], reason: Callable[[Row], str], name: Callable[[Row], str]
) -> list[tuple[str, list[Row]]]:
    """The rows by their reasons, the most frequent first; those that differ only in names and numbers together."""
    groups: dict[str, list[Row]] = {}
    names = set(map(name, rows))
    for row in rows:
        groups.setdefault(_common(reason(row), names), []).append(row)
    named = [(reason(same[0]) if len(set(map(reason, same))) == 1 else key, same) for key, same in groups.items()]
    return sorted(named, key=lambda group: -len(group[1]))


def _common(reason: str, names: set[str]) -> str:
    """A reason without what differs from row to row."""
    reason = re.sub(r"'[^']*'|\([\d, ]*\d[\d, ]*\)|\b\d+\b", "…", reason)
    reason = re.sub(r"(shares its weight with) .*", r"\1 …", reason)
    return " ".join("…" if word in names else word for word in reason.split(" "))
