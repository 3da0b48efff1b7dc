"""How numbers are written."""

from __future__ import annotations

from collections.abc import Sequence


def percent(part: float, whole: float) -> str:
    """A share with two digits that say something, such as 51%, 9.0% or 0.54%."""
    value = 100 * part / whole
    decimals = 0 if value >= 99.5 else 1 if value >= 1 else 2
    return f"{value:.{decimals}f}%"


def signed(value: float, decimals: int = 4) -> str:
    """With its sign, unless nothing is left of it."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def counted(number: int, what: str) -> str:
    """A number of things: 1 round, 2 rounds."""
    return f"{number:,} {what}" + "s" * (number != 1)


def size(number: int) -> str:
    """Bytes in kB or MB."""
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB"


def duration(seconds: float) -> str:
    """Three digits, in seconds, ms or µs."""
    factor, unit = next(((f, u) for f, u in ((1, "s"), (1e3, "ms")) if seconds * f >= 1), (1e6, "µs"))
    return f"{seconds * factor:.3g} {unit}"


def roughly(seconds: float) -> str:
    """A duration in one or two units, such as "40 s", "12 min", "3 h 20 min" or "2 days 4 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 and minutes < 600 else "")
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days} days" + (f" {hours} h" if hours else "")


def times(numbers: Sequence[int]) -> str:
    """Numbers with times signs between them."""
    return "×".join(map(str, numbers))
