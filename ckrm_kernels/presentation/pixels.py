"""Small pictures of numbers as PNG files whose background is the page's."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ckrm_kernels.extras import require
from ckrm_kernels.presentation.theme import LIGHT, NEGATIVE, POSITIVE

Stops = list[tuple[float, tuple[int, int, int, int]]]
_CLEAR = 255  # the palette's last colour, for what is not a number


def psi_stops(threshold: float) -> Stops:
    """The colours of Psi: from nothing to blue at the threshold, red above it."""
    below, redundant = LIGHT["below"], LIGHT["redundant"]
    return [
        (0.0, _with_opacity(below, 0)),
        (threshold, _with_opacity(below, 190)),
        (threshold, _with_opacity(redundant, 150)),
        (1.0, _with_opacity(redundant, 255)),
    ]


def weight_stops() -> Stops:
    """The colours of a weight, from the most negative by zero to the most positive."""
    return [
        (0.0, _with_opacity(NEGATIVE, 255)),
        (0.5, _with_opacity(NEGATIVE, 0)),
        (0.5, _with_opacity(POSITIVE, 0)),
        (1.0, _with_opacity(POSITIVE, 255)),
    ]


def picture(values: NDArray[np.float64], stops: Stops) -> bytes:
    """A PNG file of a matrix, each number a pixel.

    values: (rows, columns) in [0, 1], what is beyond is drawn as the end; NaN is left clear
    stops: places in [0, 1], ascending, and their red, green, blue and opacity; two at one place make a step
    """
    with require("the report", "PIL"):
        from PIL import Image
    steps = _CLEAR - 1
    indices = np.where(np.isnan(values), _CLEAR, np.rint(np.nan_to_num(values).clip(0, 1) * steps))
    palette = np.array([_colour(step / steps, stops) for step in range(_CLEAR)] + [(0, 0, 0, 0)])
    drawn = Image.fromarray(indices.astype(np.uint8), "P")
    drawn.putpalette(palette[:, :3].astype(np.uint8).tobytes())
    buffer = BytesIO()
    drawn.save(buffer, "png", optimize=True, transparency=palette[:, 3].astype(np.uint8).tobytes())
    return buffer.getvalue()


def bar(stops: Stops) -> bytes:
    """A PNG file of all colours in one row, from 0 to 1."""
    return picture(np.linspace(0, 1, _CLEAR)[None], stops)


def _with_opacity(colour: str, opacity: int) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue, opacity


def _colour(value: float, stops: Stops) -> tuple[float, ...]:
    """The colour at a place; at a step, what is strictly above has the later colour."""
    for (start, first), (end, second) in pairwise(stops):
        if value <= end and end > start:
            share = (value - start) / (end - start)
            return tuple(a + share * (b - a) for a, b in zip(first, second, strict=True))
    return stops[-1][1]
