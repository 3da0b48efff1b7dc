"""The yardstick for a searched network: every layer narrowed alike, to the same number of parameters."""

from __future__ import annotations

import torch

from ckrm_kernels.models import count_parameters
from ckrm_kernels.shrinking.search import SearchableShape


def parameters_of(shape: SearchableShape) -> int:
    """Number of parameters of a shape, without the memory for them."""
    with torch.device("meta"):
        return count_parameters(shape.build())


def narrowed_alike(shape: SearchableShape, parameters: int) -> SearchableShape:
    """The shape with all its widths times one factor <= 1 whose number of parameters is nearest to the given one.

    Widths are rounded to whole numbers and at least 1, so the number is met nearly, not always exactly.
    """
    if not isinstance(parameters, int) or parameters < 1:
        raise ValueError(f"parameters must be a whole number >= 1, got {parameters!r}")
    low, high = 0.0, 1.0
    while high - low > 1 / (4 * max(shape.widths().values())) ** 2:
        middle = (low + high) / 2
        if parameters_of(_scaled(shape, middle)) < parameters:
            low = middle
        else:
            high = middle
    return min((_scaled(shape, factor) for factor in (low, high)), key=lambda s: abs(parameters_of(s) - parameters))


def _scaled(shape: SearchableShape, factor: float) -> SearchableShape:
    return shape.with_widths({name: max(round(width * factor), 1) for name, width in shape.widths().items()})
