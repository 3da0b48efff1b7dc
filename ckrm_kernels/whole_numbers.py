"""Whole numbers among arguments: Python's, NumPy's and any other type's."""

from __future__ import annotations

import operator
from typing import Any


def as_whole(value: Any) -> int | None:
    """The value as Python's int; None where it is no whole number, which a truth value is not."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """The value as Python's int; raises ValueError, naming it, unless it is a whole number >= least, and no bool."""
    number = as_whole(value)
    if number is None or number < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    return number
