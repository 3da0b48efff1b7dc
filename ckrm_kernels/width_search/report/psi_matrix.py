"""One layer of one network: Psi of all its filters in clustered order, and its most redundant pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ckrm_kernels.extras import require
from ckrm_kernels.functional import pairwise_psi, psi_of_pairs, unpack
from ckrm_kernels.presentation.pixels import picture, psi_stops, weight_stops
from ckrm_kernels.similarity import Similarity

PAIRS, SLICES = 6, 6
_MOST_ORDERED = 512  # filters whose leaves are ordered for the best, which takes a time of their cube
_MOST_PIXELS = 512


@dataclass(frozen=True)
class Pair:
    """Two filters and their Psi, as configured and scale-free, None where that is the same."""

    first: int
    second: int
    psi: float
    scale_free: float | None


def clustered(weight: Tensor, config: Similarity) -> tuple[list[int], Tensor]:
    """The filters of a layer ordered so that similar ones are neighbours, by average linkage of 1 - Psi.

    weight: (F2, F1, *K); config: of Psi
    out: the order of the filters, and Psi (F2, F2) in that order
    """
    omega = pairwise_psi(weight, **config.options())
    psi = unpack(omega, weight.shape[0])
    order = list(range(weight.shape[0]))
    if len(order) > 2:
        order = _leaves(1 - omega.double().clamp(config.lowest, 1).cpu().numpy(), len(order))
    return order, psi[order][:, order]


def most_redundant(weight: Tensor, config: Similarity, count: int = PAIRS) -> list[Pair]:
    """The pairs of filters with the largest Psi, the largest first, of equal ones the earlier."""
    omega = pairwise_psi(weight, **config.options())
    i, j = torch.triu_indices(weight.shape[0], weight.shape[0], 1)
    places = omega.sort(descending=True, stable=True).indices[:count].tolist()
    pairs = torch.stack([i[places], j[places]], 1)
    scale_free: list[float] | list[None] = [None] * len(places)
    if config.depends_on_scale:
        scale_free = psi_of_pairs(weight, pairs, **replace(config, scale_free=True).options()).tolist()
    both = zip(pairs.tolist(), omega[places].tolist(), scale_free, strict=True)
    return [Pair(first, second, psi, free) for (first, second), psi, free in both]


def matrix_png(psi: Tensor, threshold: float) -> bytes:
    """Psi (N, N) as a PNG file, a pixel for each pair; of large layers for the mean of a block of pairs.

    The diagonal, where a filter meets itself, is left clear.
    """
    pairs = 1 - torch.eye(psi.shape[0], dtype=torch.float64, device=psi.device)
    means, counted = psi.double() * pairs, pairs
    block = math.ceil(psi.shape[0] / _MOST_PIXELS)
    if block > 1:
        means, counted = (functional.avg_pool2d(each[None], block, ceil_mode=True)[0] for each in (means, counted))
    return picture((means / counted).cpu().numpy(), psi_stops(threshold))


def largest_slices(weight: Tensor, pair: Pair, count: int = SLICES) -> list[int]:
    """The slices in which two filters have the largest weights, by their squares' sum, in ascending order."""
    squares = weight[[pair.first, pair.second]].double().square().flatten(2).sum((0, 2))
    return sorted(squares.sort(descending=True, stable=True).indices[:count].tolist())


def pair_png(weight: Tensor, pair: Pair) -> tuple[bytes, float]:
    """Two filters in their largest slices, one above the other, as a PNG file.

    out: the file, and the largest magnitude drawn, which has the deepest colours
    """
    chosen = weight[[pair.first, pair.second]][:, largest_slices(weight, pair)].double().cpu()
    largest = float(chosen.abs().max())
    slices = chosen.reshape(*chosen.shape[:2], *_rows_and_columns(chosen.shape[2:]))
    scaled = (slices / (2 * largest or 1.0) + 0.5).numpy()
    return picture(_side_by_side(scaled, 3), weight_stops()), largest


def _rows_and_columns(kernel: torch.Size) -> tuple[int, int]:
    return (kernel[0], kernel[1:].numel()) if len(kernel) > 1 else (1, kernel.numel())


def _side_by_side(slices: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    """(filters, slices, rows, columns) -> one matrix, each weight scale * scale, with clear lines between slices,
    and clear room for slices that are missing."""
    large = slices.repeat(scale, 2).repeat(scale, 3)
    missing = SLICES - large.shape[1]
    padded = np.pad(large, ((0, 0), (0, missing), (0, 2), (0, 2)), constant_values=np.nan)
    filters, count, rows, columns = padded.shape
    return padded.transpose(0, 2, 1, 3).reshape(filters * rows, count * columns)[:-2, :-2]


def _leaves(distances: NDArray[np.float64], filters: int) -> list[int]:
    with require("the report", "scipy"):
        from scipy.cluster import hierarchy
    tree = hierarchy.linkage(distances, "average", optimal_ordering=filters <= _MOST_ORDERED)
    order: list[int] = hierarchy.leaves_list(tree).tolist()
    return order
