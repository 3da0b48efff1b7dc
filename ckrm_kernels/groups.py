"""Which filters repeat which: a choice of filters to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ckrm_kernels.distribution import checked_threshold, split_scale, valued_banks
from ckrm_kernels.functional import PsiOptions, cross_psi

_BLOCK = 64


@dataclass(frozen=True)
class RedundantGroups:
    """A partition of a layer's filters into kept ones and repeats of them.

    kept: (D,) int64, ascending indices of the filters to keep, no two of which exceed the threshold
    dropped: (F2 - D,) int64, ascending indices of the others
    representative: (F2,) int64, for each filter the kept one that it repeats most closely; itself for a kept one
    """

    kept: Tensor
    dropped: Tensor
    representative: Tensor


def redundant_groups(
    weight: Tensor | nn.Module, threshold: float = 0.6, **options: Unpack[PsiOptions]
) -> RedundantGroups:
    """Chooses filters to keep so that no two of them exceed the threshold and every other one repeats a kept one.

    Greedy and deterministic: again and again it keeps the filter that exceeds the threshold with the most undecided
    ones (the first such in order) and drops those; each dropped filter repeats the kept one of its highest Psi.

    weight: (F2, F1, *K) or a module; of a grouped one, filters are compared and kept within their groups
    threshold: a number in [0, 1]
    options: see `PsiOptions`
    out: `RedundantGroups`, on the weight's device, in the module's order of output channels
    Raises ValueError where a filter holds NaN or Inf, or the Psi of a pair overflows the precision. Uses F2 squared
    bytes, and no more that grows so.
    """
    scale_free, psi = split_scale(options)
    return groups_of_banks(valued_banks(weight, scale_free), checked_threshold(threshold), psi)


def groups_of_banks(banks: Sequence[Tensor], threshold: float, options: PsiOptions) -> RedundantGroups:
    """The choice within each of several filter banks; the indices count the filters of all banks."""
    finite = torch.cat([bank.flatten(1).isfinite().all(1) for bank in banks])
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"weight has NaN or Inf in filters {bad[:8]}: no choice can be made")
    starts = [0, *accumulate(bank.shape[0] for bank in banks)]
    representatives = [_representatives(bank, threshold, options) for bank in banks]
    representative = torch.cat([r + start for r, start in zip(representatives, starts, strict=False)])
    own = representative == torch.arange(starts[-1], device=representative.device)
    return RedundantGroups(own.nonzero().flatten(), (~own).nonzero().flatten(), representative)


def _representatives(bank: Tensor, threshold: float, options: PsiOptions) -> Tensor:
    """(F2, F1, *K) -> (F2,) int64, for each filter the kept one it repeats."""
    similar = _similar(bank, threshold, options)
    chosen = torch.zeros(bank.shape[0], dtype=torch.bool, device="cpu")
    chosen[_greedy(similar.cpu())] = True
    chosen = chosen.to(bank.device)
    kept, dropped = chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
    representative = torch.arange(bank.shape[0], device=bank.device)
    for part in dropped.split(_BLOCK) if dropped.numel() else ():
        psi = cross_psi(bank[part], bank[kept], **options)
        closest = torch.where(similar[part][:, kept], psi, -1).argmax(1)
        representative[part] = kept[closest]
    return representative


def _similar(bank: Tensor, threshold: float, options: PsiOptions) -> Tensor:
    """(F2, F1, *K) -> (F2, F2) bool, symmetric: which pairs exceed the threshold; False on the diagonal."""
    filters = bank.shape[0]
    above = torch.zeros(filters, filters, dtype=torch.bool, device=bank.device)
    overflowed = torch.zeros((), dtype=torch.bool, device=bank.device)
    for start in range(0, filters, _BLOCK):
        psi = cross_psi(bank[start : start + _BLOCK], bank[start:], **options)
        above[start : start + _BLOCK, start:] = psi > threshold
        overflowed |= psi.triu(1).isnan().any()
    if bool(overflowed):
        raise ValueError("weight overflows its precision; scale_free=True takes its scale out")
    above.triu_(1)
    return above | above.T


def _greedy(similar: Tensor) -> list[int]:
    """The filters kept, given which pairs exceed the threshold: (F2, F2) bool on the CPU."""
    undecided = torch.ones(similar.shape[0], dtype=torch.bool, device="cpu")
    repeats = similar.sum(1)  # among the undecided; -1 once decided
    kept: list[int] = []
    while bool(undecided.any()):
        best = int(repeats.argmax())
        if repeats[best] == 0:
            return kept + undecided.nonzero().flatten().tolist()
        decided = similar[best] & undecided
        decided[best] = True
        undecided &= ~decided
        repeats -= similar[decided].sum(0)
        repeats[~undecided] = -1
        kept.append(best)
    return kept
