"""The yardstick for a searched network: every layer narrowed alike, to as many parameters or multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from ckrm_kernels.models import Network, count_multiply_adds, count_parameters, without_memory
from ckrm_kernels.whole_numbers import whole_number


def parameters_of(network: Network) -> int:
    """Number of parameters of a network, without the memory for them."""
    return count_parameters(without_memory(network))


def multiply_adds_of(network: Network, image_shape: Sequence[int]) -> int:
    """Multiply-adds of a network for one image (channels, height, width), without the memory for it."""
    return count_multiply_adds(without_memory(network), image_shape)


def narrowed_alike(network: Network, size: int, size_of: Callable[[Network], int] = parameters_of) -> Network:
    """The network with all its widths times one factor <= 1 whose size is nearest to the given one.

    size_of: what size is meant, one that grows with the widths
    Widths are rounded to whole numbers and at least 1, so the size is met nearly, not always exactly.
    """
    size, sizes = whole_number("size", size), dict[tuple[int, ...], int]()

    def size_at(factor: float) -> int:
        narrowed = _scaled(network, factor)
        widths = tuple(narrowed.widths().values())
        if widths not in sizes:
            sizes[widths] = size_of(narrowed)
        return sizes[widths]

    widths = set(network.widths().values())
    low, high = 0.0, 1.0
    while high - low > 1 / (4 * max(widths)) ** 2:
        middle = (low + high) / 2
        if size_at(middle) < size:
            low = middle
        else:
            high = middle
    # rounding, of inferred widths too, may let the size fall where the factor rises: what lies around is tried, too
    around = {factor for width in widths for factor in _steps(width, low - 1 / min(widths), high + 1 / min(widths))}
    factors = sorted({low, high, *around})
    return _scaled(network, min(factors, key=lambda factor: abs(size_at(factor) - size)))


def _steps(width: int, low: float, high: float) -> Iterator[float]:
    """The factors from low to high, at most 1, from which the width times the factor rounds to one more."""
    first, last = max(math.ceil(low * width), 0), min(math.floor(high * width), width - 1)
    return ((count + 0.5 + 1e-9) / width for count in range(first, last + 1))


def _scaled(network: Network, factor: float) -> Network:
    return network.with_widths({name: max(round(width * factor), 1) for name, width in network.widths().items()})
