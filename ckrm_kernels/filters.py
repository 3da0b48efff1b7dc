"""From a module to its filter banks: tensors (F2, F1, *K) whose filters may be compared with each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ckrm_kernels.arrays import Array, as_tensor
from ckrm_kernels.sharded import gathered
from ckrm_kernels.used_weights import used_weight

_PART = 1 << 18  # numbers, whose float64 copy stays in a cache
Weight = Tensor | nn.Module | Array
"""What functions on weights take: a tensor, a module, or an array of another library, which is not copied."""


def filter_banks(source: Weight) -> list[Tensor]:
    """The filter banks of a weight or module: one, or one for each group of a grouped convolution.

    source: a weight (F2, F1, *K), a tensor or an array, or a convolution, transposed convolution or linear module
    out: views of the weight, each (filters, F1, *K); a depthwise layer, whose groups hold one filter each, is one
        bank of all its filters; a transposed convolution's filters are its output channels
    Raises TypeError for anything else, ValueError for a module whose weight is not there yet or can't be had. The
    weight of a module is the one that its forward pass uses, see `used_weight`. A sharded one is gathered, for which
    every process of its mesh must call.
    """
    if isinstance(source, Tensor):
        return [gathered(source)]
    if not isinstance(source, nn.Module):
        if not isinstance(source, Array):
            raise TypeError(f"weight must be a tensor, an array or a module, got {type(source).__name__}")
        return [as_tensor(source, "weight")]
    if not isinstance(source, (_ConvNd, nn.Linear)):
        raise TypeError(f"a {type(source).__name__} has no filters; accepted are convolutions and Linear")
    weight = gathered(used_weight(source).weight)
    if isinstance(source, nn.Linear):
        return [weight]
    return grouped_banks(weight, source.groups, transposed=isinstance(source, _ConvTransposeNd))


def grouped_banks(weight: Tensor, groups: int, *, transposed: bool = False) -> list[Tensor]:
    """Splits a convolution's weight by groups.

    weight: (F2, F1, *K), or (in_channels, filters per group, *K) if transposed
    """
    if groups == 1:
        return [weight.transpose(0, 1) if transposed else weight]
    by_group = weight.unflatten(0, (groups, weight.shape[0] // groups))
    if transposed:
        by_group = by_group.transpose(1, 2)
    if by_group.shape[1] == 1:
        return [by_group.squeeze(1)]
    return list(by_group.unbind(0))


def parts_of(bank: Tensor) -> Sequence[Tensor]:
    """The filters of a bank (F2, F1, *K) in parts of about 2^18 numbers, a filter at least: views."""
    return bank.split(max(_PART // max(bank.shape[1:].numel(), 1), 1))


def are_finite(bank: Tensor) -> Tensor:
    """Which filters of a bank (F2, F1, *K) hold neither NaN nor Inf: (F2,) bool."""
    return torch.cat([some.flatten(1).isfinite().all(1) for some in parts_of(bank)])


def is_pointwise(bank: Tensor) -> bool:
    """Whether the slices of a bank (F2, F1, *K) are single numbers: a 1x1 convolution or a linear layer."""
    return bank.shape[2:].numel() == 1


def as_vectors(bank: Tensor) -> Tensor:
    """A pointwise bank (F2, F1, 1, ...) with each filter as one slice of length F1: (F2, 1, F1)."""
    return bank.flatten(1).unsqueeze(1)
