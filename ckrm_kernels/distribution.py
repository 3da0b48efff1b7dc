"""The convolutional kernel redundancy measure lambda^t (CKRM) of one weight, and the distribution behind it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ckrm_kernels.functional import PsiOptions, checked_banks, counts_of_banks, psi_counts
from ckrm_kernels.whole_numbers import whole_number


def redundancy(weight: Tensor | nn.Module, threshold: float | Tensor = 0.6, **options: Unpack[PsiOptions]) -> Tensor:
    """lambda^t, the share of pairs of filters whose Psi is strictly above the threshold t (equation 9).

    weight: (F2, F1, *K) or a module; of a grouped one, the pairs within the groups
    threshold: a number in [0, 1], or a tensor of them of any shape, in any order
    options: see `PsiOptions`
    out: float64, of the threshold's shape; 0 where there is no pair, NaN where a pair is NaN
    Counts without storing Omega: the memory used does not grow with F2 squared. Not differentiable.
    """
    thresholds = checked_thresholds(threshold)
    scale_free, psi = split_scale(options)
    return redundancy_of_banks(checked_banks(weight, scale_free), thresholds, psi)


def psi_histogram(weight: Tensor | nn.Module, bins: int = 50, **options: Unpack[PsiOptions]) -> Tensor:
    """The distribution of Omega: number of pairs in equal bins over [0, 1], without storing Omega.

    weight: (F2, F1, *K) or a module; of a grouped one, the pairs within the groups
    bins: their number, >= 1; bin b holds edge(b) < Psi <= edge(b + 1), the first also 0 and the last all above
    options: see `PsiOptions`
    out: (bins,) int64; NaN pairs are in no bin
    """
    inner = torch.linspace(0, 1, whole_number("bins", bins) + 1, dtype=torch.float64, device="cpu")[1:-1]
    return psi_counts(weight, inner, **options)[:-1]


def redundancy_of_banks(banks: Sequence[Tensor], thresholds: Tensor, options: PsiOptions) -> Tensor:
    """lambda^t over the pairs within each of several filter banks: float64, of the thresholds' shape."""
    return redundancy_of_sets([banks], thresholds, options)[0]


def redundancy_of_sets(sets: Sequence[Sequence[Tensor]], thresholds: Tensor, options: PsiOptions) -> Tensor:
    """`redundancy_of_banks` of each of several sets of banks, counted in one call: (sets, *thresholds.shape)."""
    edges, order = thresholds.flatten().sort()
    of_banks = counts_of_banks([bank for banks in sets for bank in banks], edges, **options)
    counts = torch.stack([each.sum(0) for each in of_banks.split([len(banks) for banks in sets])])
    above = counts[:, 1:-1].flip(1).cumsum(1).flip(1)
    share = above.double() / counts.sum(1, keepdim=True).clamp(min=1)
    share = torch.where(counts[:, -1:] > 0, torch.nan, share)
    places = order.to(share.device).expand(len(sets), -1)
    return torch.empty_like(share).scatter_(1, places, share).view(len(sets), *thresholds.shape)


def valued_banks(weight: Tensor | nn.Module, scale_free: bool) -> list[Tensor]:
    """The checked filter banks of a weight, detached; raises ValueError on the meta device, which holds no values."""
    banks = [bank.detach() for bank in checked_banks(weight, scale_free)]
    if banks[0].is_meta:
        raise ValueError("weight is on the meta device, where it has no values")
    return banks


def split_scale(options: PsiOptions) -> tuple[bool, PsiOptions]:
    """Whether the options ask for scale_free, and the options that remain once a layer's banks have been scaled."""
    rest = options.copy()
    return rest.pop("scale_free", False), rest


def checked_thresholds(threshold: float | Tensor) -> Tensor:
    """The thresholds as a float64 tensor; raises ValueError unless all lie in [0, 1]."""
    try:
        # a number does not go to the default device, which may be one without values
        device = threshold.device if isinstance(threshold, Tensor) else "cpu"
        thresholds = torch.as_tensor(threshold, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"threshold must be a number or a tensor of numbers, got {threshold!r}") from error
    thresholds = thresholds.detach()
    if not bool(((thresholds >= 0) & (thresholds <= 1)).all()):
        raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
    return thresholds


def checked_threshold(threshold: float | Tensor) -> float:
    """The one threshold as a number; raises ValueError unless it lies in [0, 1]."""
    thresholds = checked_thresholds(threshold)
    if thresholds.numel() != 1:
        raise ValueError(f"threshold must be one number, got {thresholds.numel()}")
    return thresholds.item()
