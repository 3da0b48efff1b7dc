"""What a small network may have: the arguments of `plan_shrink` that say so, checked."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

TOLERANCE = 0.01
"""Of added relative error, where no budget is given."""


@dataclass(frozen=True)
class Budget:
    """Parameters, multiply-adds or latency that may be left, or an error that may be added.

    kind: "redundant" where nothing was asked for: only what is redundant beyond doubt goes, within the tolerance
    value: of parameters and multiply-adds their number, or a share as a float up to 1; of latency a share; of a
        tolerance the added relative error of a coupling's consumers
    """

    kind: Literal["parameters", "multiply-adds", "latency", "tolerance", "redundant"]
    value: float

    def in_words(self) -> str:
        """Such as "at most 50 % of the parameters"."""
        if self.kind == "redundant":
            return f"only what is redundant beyond doubt, at an added error of at most {self.value:g}"
        if self.kind == "tolerance":
            return f"an added error of at most {self.value:g} in what reads each layer"
        if isinstance(self.value, int):
            return f"at most {self.value:,} {self.kind}"
        return f"at most {100 * self.value:g} % of the {self.kind}"


def checked_budget(
    parameters: float | None, macs: float | None, latency: float | None, tolerance: float | None
) -> Budget:
    """The one that is given; raises ValueError for two, and for a value that none can have, TypeError for no number."""
    given = {"parameters": parameters, "macs": macs, "latency": latency, "tolerance": tolerance}
    values = {name: value for name, value in given.items() if value is not None}
    if not values:
        return Budget("redundant", TOLERANCE)
    if len(values) > 1:
        raise ValueError(f"one of parameters, macs, latency and tolerance may be given, got {' and '.join(values)}")
    ((name, value),) = values.items()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if name == "tolerance":
        if not 0 <= value < 1:
            raise ValueError(f"tolerance must lie in [0, 1), a share of the outputs' variance, got {value!r}")
        return Budget("tolerance", float(value))
    if name == "latency":
        if not 0 < value <= 1:
            raise ValueError(f"latency must be a share in (0, 1] of the model's own, measured here, got {value!r}")
        return Budget("latency", float(value))
    return Budget("parameters" if name == "parameters" else "multiply-adds", _number_or_share(name, value))


def _number_or_share(name: str, value: float) -> float:
    if isinstance(value, Integral) and value >= 1:
        return int(value)
    if 0 < value <= 1:
        return float(value)
    if value > 1 and float(value).is_integer():
        return int(value)
    raise ValueError(f"{name} must be a share in (0, 1] or a whole number of at least 1, got {value!r}")
