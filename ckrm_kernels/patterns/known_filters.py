"""The fixed kernels of the VGNet paper (its Fig. 7 and Appendix D): six edge detectors and Gaussian blurs."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from ckrm_kernels.whole_numbers import whole_number


def edge_detectors() -> Tensor:
    """EK1 to EK6: (6, 3, 3) float64, on the CPU.

    The derivatives across rows and across columns (Sobel), the Laplacian with and without its corners, and the
    derivatives along both diagonals. Each sums to 0 and has 1 as its largest absolute value.
    """
    across_rows = torch.tensor([[-3, -6, -3], [0, 0, 0], [3, 6, 3]], dtype=torch.float64, device="cpu") / 6
    laplacian = torch.tensor([[-1, -2, -1], [-2, 12, -2], [-1, -2, -1]], dtype=torch.float64, device="cpu") / 12
    without_corners = torch.tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=torch.float64, device="cpu") / 4
    diagonal = torch.tensor([[-3, -2, -1], [-2, 0, 2], [1, 2, 3]], dtype=torch.float64, device="cpu") / 3
    return torch.stack((across_rows, across_rows.T, laplacian, without_corners, diagonal, diagonal.flip(1)))


def gaussian(size: int, sigma: float) -> Tensor:
    """A Gaussian blur, sampled at the positions' centres, of sum 1: (size, size) float64, on the CPU.

    size: >= 1; sigma: > 0, in positions; VGNet's GK1 and GK2 are of size 3 and sigma 1.1 and 0.6
    Raises ValueError for others.
    """
    size = whole_number("size", size, least=1)
    if not 0 < sigma < inf:
        raise ValueError(f"sigma must be a finite number > 0, got {sigma!r}")
    return gaussian_of((size, size), sigma)


def gaussian_of(shape: Sequence[int], sigma: float, shifts: Sequence[float] = ()) -> Tensor:
    """The same in any number of dimensions. shifts: of its centre from the middle, in positions, in each"""
    result = torch.ones((), dtype=torch.float64, device="cpu")
    for size, shift in zip(shape, shifts or [0.0] * len(shape), strict=True):
        position = torch.arange(size, dtype=torch.float64, device="cpu") - (size - 1) / 2 - shift
        result = result.unsqueeze(-1) * torch.softmax(-position.square() / (2 * sigma**2), 0)
    return result
