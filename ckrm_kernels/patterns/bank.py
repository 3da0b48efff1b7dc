"""The patterns that kernels are compared with, made for a kernel size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ckrm_kernels.patterns.known_filters import edge_detectors, gaussian_of

IDENTITY, GAUSSIAN, OFF_CENTRE, CONSTANT = "identity", "gaussian", "gaussian off centre", "constant"
EDGES = ("edge rows", "edge columns", "laplacian", "laplacian cross", "edge diagonal", "edge antidiagonal")
"""The names of `edge_detectors`, in their order."""
KNOWN = (IDENTITY, GAUSSIAN, OFF_CENTRE, CONSTANT, *EDGES)
NEGATIVE = "-"
"""What the name of a pattern's negative begins with."""
ZERO, NONE = "zero", "none"
"""What is said of kernels that are all but zero, and of those that no pattern is near to."""
WIDTHS = tuple(0.6 * (11 / 6) ** step for step in range(16))
"""Of the Gaussian blurs in positions, as far as half the kernel's size: VGNet's 0.6 and 1.1, and on by their ratio."""

FAMILIES = ("identity", "blur", "edge")
"""What the known patterns are, with their negatives; a Gaussian and a constant are blurs."""

Bank = Mapping[str, Tensor] | Iterable[str] | None


class Pattern(NamedTuple):
    """A name, and the kernels that are called by it: (n, *K) float64, on the CPU."""

    name: str
    kernels: Tensor


def names_of(bank: Bank, signed: bool) -> tuple[str, ...]:
    """The names of a bank's patterns; None: all that are known, and where the sign counts also their negatives.

    Raises TypeError or ValueError for a bank that is none, see `match_patterns`.
    """
    if bank is None:
        return (*KNOWN, *(NEGATIVE + name for name in KNOWN)) if signed else KNOWN
    if isinstance(bank, (str, Tensor)) or not isinstance(bank, Iterable):
        raise TypeError(f"bank must be names of patterns or a dict of kernels, got {_given(bank)}")
    names = tuple(bank)
    if not names:
        raise ValueError("bank must hold at least one pattern, got none")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"bank must have names of type str, got {name!r}")
        if name in (ZERO, NONE):
            raise ValueError(f"bank can't have a pattern {name!r}: such kernels are found in any case")
        if names.count(name) > 1:
            raise ValueError(f"bank has the pattern {name!r} more than once")
    if isinstance(bank, Mapping):
        for name, kernel in bank.items():
            _check_kernel(name, kernel)
    elif unknown := [name for name in names if name.removeprefix(NEGATIVE) not in KNOWN]:
        raise ValueError(
            f"bank has the unknown pattern {unknown[0]!r}; known are {', '.join(KNOWN)}, each also with {NEGATIVE!r} "
            "before it for its negative"
        )
    return names


def patterns_of(bank: Bank, names: Sequence[str], kernel_size: Sequence[int]) -> list[Pattern]:
    """The patterns of these names in kernels of this size; of known ones, those that fit into it.

    names: those that `names_of` gives. Raises ValueError, naming it, for a kernel of the bank that is larger.
    """
    if isinstance(bank, Mapping):
        return [Pattern(name, _own(name, bank[name], kernel_size).unsqueeze(0)) for name in names]
    known = {pattern.name: pattern for pattern in _known(kernel_size)}
    found = []
    for name in names:
        positive = known.get(name.removeprefix(NEGATIVE))
        if positive is not None:
            found.append(Pattern(name, -positive.kernels if name.startswith(NEGATIVE) else positive.kernels))
    return found


def family_of(name: str) -> str:
    """Which of the families a pattern is of; one that is not known is its own."""
    positive = name.removeprefix(NEGATIVE)
    if positive not in KNOWN:
        return name
    return "edge" if positive in EDGES else "identity" if positive == IDENTITY else "blur"


def in_words(size: Sequence[int]) -> str:
    """Such as 3x3."""
    return "x".join(map(str, size)) or "a single number"


def _known(kernel_size: Sequence[int]) -> list[Pattern]:
    """The known patterns; sizes of 1 count for nothing, so that a kernel of 1x5 is a line of 5."""
    shape = [size for size in kernel_size if size > 1]
    widths = [width for width in WIDTHS if width <= max(shape, default=0) / 2] or WIDTHS[:1]
    corners = list(product((-0.5, 0.5), repeat=len(shape)))
    patterns = [
        Pattern(IDENTITY, _embedded(torch.ones([1] * len(shape), dtype=torch.float64, device="cpu"), shape)[None]),
        Pattern(GAUSSIAN, torch.stack([gaussian_of(shape, width) for width in widths])),
        Pattern(OFF_CENTRE, torch.stack([gaussian_of(shape, width, corner) for width in widths for corner in corners])),
        Pattern(CONSTANT, torch.ones([1, *shape], dtype=torch.float64, device="cpu")),
        *_edges(kernel_size, shape),
    ]
    return [Pattern(name, kernels.reshape(-1, *kernel_size)) for name, kernels in patterns]


def _edges(kernel_size: Sequence[int], shape: list[int]) -> list[Pattern]:
    """The edge detectors, in a kernel larger than theirs both in its middle and stretched to all of it.

    In a line they are summed across it, which is what they do to an image that does not change that way; what is
    then 0 or another's multiple is left out. In kernels of more than two dimensions, or of a size below 3, is none.
    """
    if len(shape) not in (1, 2) or min(shape) < 3:
        return []
    detectors = dict(zip(EDGES, edge_detectors(), strict=True))
    if len(shape) == 1:
        along_rows = len(kernel_size) > 1 and kernel_size[-1] == 1
        across, derivative = (1, EDGES[0]) if along_rows else (0, EDGES[1])
        detectors = {name: detectors[name].sum(across) for name in (derivative, "laplacian")}
    return [Pattern(name, _sizes_of(kernel, shape)) for name, kernel in detectors.items()]


def _sizes_of(detector: Tensor, shape: list[int]) -> Tensor:
    """(n, *shape): the detector in the middle, and stretched to the whole, without a mean."""
    if list(detector.shape) == shape:
        return detector.unsqueeze(0)
    mode = "linear" if len(shape) == 1 else "bilinear"
    stretched = nn.functional.interpolate(detector[None, None], size=shape, mode=mode, align_corners=True)[0, 0]
    return torch.stack((_embedded(detector, shape), stretched - stretched.mean()))


def _embedded(kernel: Tensor, shape: Sequence[int]) -> Tensor:
    """The kernel in the middle of zeros; where there is no middle, the zeros after it are one more."""
    result = kernel.new_zeros(list(shape))
    places = [slice((size - own) // 2, (size - own) // 2 + own) for size, own in zip(shape, kernel.shape, strict=True)]
    result[tuple(places)] = kernel
    return result


def _own(name: str, kernel: Tensor, kernel_size: Sequence[int]) -> Tensor:
    if kernel.dim() != len(kernel_size) or any(own > size for own, size in zip(kernel.shape, kernel_size, strict=True)):
        raise ValueError(
            f"pattern {name!r} is {in_words(kernel.shape)}, which doesn't fit into kernels of {in_words(kernel_size)}"
        )
    return _embedded(kernel.detach().to("cpu", torch.float64), kernel_size)


def _check_kernel(name: str, kernel: object) -> None:
    if not isinstance(kernel, Tensor):
        raise TypeError(f"pattern {name!r} must be a tensor, got {type(kernel).__name__}")
    if not kernel.is_floating_point() or kernel.layout != torch.strided or kernel.is_meta:
        raise TypeError(f"pattern {name!r} must be a dense floating-point tensor with values, got {_given(kernel)}")
    if not kernel.dim() or not prod(kernel.shape):
        raise ValueError(f"pattern {name!r} must have the shape of a kernel, such as (3, 3), got {tuple(kernel.shape)}")
    if not bool(kernel.isfinite().all()):
        raise ValueError(f"pattern {name!r} has NaN or Inf")
    if not bool(kernel.any()):
        raise ValueError(f"pattern {name!r} is all zeros, which has no direction; zero kernels are found in any case")


def _given(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__} {value!r}"
