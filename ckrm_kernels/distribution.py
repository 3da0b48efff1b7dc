"""The convolutional kernel redundancy measure lambda^t (CKRM) of one weight, and the distribution behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import Unpack

from ckrm_kernels.backends import Backend, implementation
from ckrm_kernels.distributed import ALONE, Team
from ckrm_kernels.filters import Weight
from ckrm_kernels.functional import checked_banks
from ckrm_kernels.options import SimilarityOptions, resolve
from ckrm_kernels.sharded import team_for
from ckrm_kernels.sharing import facts_of, shared_counts
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.whole_numbers import whole_number

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MOST_HELD = 1 << 23  # pairs, 32 MiB of float32: of up to 4,096 filters
_PART = 1 << 20  # pairs


def redundancy(
    weight: Weight,
    threshold: float | Tensor = 0.6,
    *,
    group: ProcessGroup | None = None,
    **options: Unpack[SimilarityOptions],
) -> Tensor:
    """lambda^t, the share of pairs of filters whose Psi is strictly above the threshold t (equation 9).

    weight: (F2, F1, *K) or a module; of a grouped one, the pairs within the groups
    threshold: a number in [0, 1], of a signed similarity in [-1, 1], or a tensor of them of any shape, in any order
    group: a process group of torch.distributed, whose processes all call with the same arguments, share the work and
        have the same result; None: this process alone, or those that a weight is sharded over (DTensor)
    options: see `SimilarityOptions`
    out: float64, of the threshold's shape; 0 where there is no pair, NaN where a pair is NaN
    Counts without storing Omega: the memory used does not grow with F2 squared. Not differentiable.
    Raises TypeError or ValueError, naming it, for an argument that is not as above, RuntimeError for a backend that
    can't run on the weight's device; with several processes, what `measure` does.
    """
    team = team_for(group, weight)
    with team.together():
        similarity, backend = resolve(options, "redundancy", "threshold", "group")
        thresholds = checked_thresholds(threshold, similarity.lowest)
        team.check()
        banks = checked_banks(weight, similarity.scale_free)
        team.check_agreement(lambda: facts_of(banks, similarity, backend, threshold=thresholds.tolist()))
        return redundancy_of_banks(banks, thresholds, similarity, backend, team)


def psi_histogram(
    weight: Weight,
    bins: int = 50,
    *,
    group: ProcessGroup | None = None,
    **options: Unpack[SimilarityOptions],
) -> Tensor:
    """The distribution of Omega: number of pairs in equal bins over [0, 1], without storing Omega.

    Of a signed similarity the bins are over [-1, 1].

    weight: (F2, F1, *K) or a module; of a grouped one, the pairs within the groups
    bins: their number, >= 1; bin b holds edge(b) < Psi <= edge(b + 1), the first also all below and the last all above
    group: a process group of torch.distributed, whose processes all call with the same arguments, share the work and
        have the same result; None: this process alone, or those that a weight is sharded over (DTensor)
    options: see `SimilarityOptions`
    out: (bins,) int64; NaN pairs are in no bin
    Raises what `redundancy` does.
    """
    team = team_for(group, weight)
    with team.together():
        similarity, backend = resolve(options, "psi_histogram", "bins", "group")
        inner = inner_edges(whole_number("bins", bins), similarity)
        team.check()
        banks = checked_banks(weight, similarity.scale_free)
        team.check_agreement(lambda: facts_of(banks, similarity, backend, bins=bins))
        return shared_counts(banks, inner, similarity, backend, team).sum(0)[:-1]


def inner_edges(bins: int, similarity: Similarity) -> Tensor:
    """The edges between equal bins over all values that the similarity has: (bins - 1,) float64."""
    return torch.linspace(similarity.lowest, 1, bins + 1, dtype=torch.float64, device="cpu")[1:-1]


def redundancy_of_banks(
    banks: Sequence[Tensor],
    thresholds: Tensor,
    similarity: Similarity,
    backend: Backend | None,
    team: Team = ALONE,
) -> Tensor:
    """lambda^t over the pairs within each of several filter banks: float64, of the thresholds' shape."""
    return redundancy_of_sets([banks], thresholds, similarity, backend, team)[0]


def redundancy_of_sets(
    sets: Sequence[Sequence[Tensor]],
    thresholds: Tensor,
    similarity: Similarity,
    backend: Backend | None,
    team: Team = ALONE,
) -> Tensor:
    """`redundancy_of_banks` of each of several sets of banks, counted in one call: (sets, *thresholds.shape)."""
    edges = thresholds.flatten()
    if edges.numel() > 1:
        edges, order = edges.sort()
    counts = shared_counts([bank for banks in sets for bank in banks], edges, similarity, backend, team)
    if any(len(banks) != 1 for banks in sets):
        counts = torch.stack([each.sum(0) for each in counts.split([len(banks) for banks in sets])])
    from_last = counts.flip(1).cumsum(1, dtype=torch.float64)  # pairs: NaN, with those above the last edge, ..., all
    of_nan, above, of_all = from_last.tensor_split((1, -1), 1)
    share = (above / of_all.clamp(min=1)).masked_fill_(of_nan > 0, torch.nan)
    if edges.numel() > 1:
        places = order.to(share.device).flip(0).expand(len(sets), -1)
        share = torch.empty_like(share).scatter_(1, places, share)
    return share.view(len(sets), *thresholds.shape)


def omega_of_banks(banks: Sequence[Tensor], similarity: Similarity, backend: Backend | None) -> list[Tensor] | None:
    """Psi of all pairs of each of several filter banks, packed; None where they are too many to be held at once."""
    if sum(bank.shape[0] * (bank.shape[0] - 1) // 2 for bank in banks) > MOST_HELD:
        return None
    return [implementation(backend, bank).pairwise_psi(bank, similarity) for bank in banks]


def share_of_omega(omega: Sequence[Tensor], threshold: float) -> float:
    """lambda^t over the packed Psi of all banks; 0 where there is no pair, NaN where one is NaN."""
    above = pairs = 0
    for psi in _parts(omega):
        if bool(psi.isnan().any()):
            return math.nan
        above += int((psi > threshold).sum())
        pairs += psi.numel()
    return above / max(pairs, 1)


def share_of_chosen(omega: Sequence[Tensor], chosen: Sequence[Tensor], threshold: float) -> float:
    """lambda^t over the pairs of some filters. omega: packed Psi of each bank, none NaN; chosen: which, (F2,) bool"""
    above = pairs = 0
    for psi, own in zip(omega, chosen, strict=True):
        start, filters, rows = 0, len(own), max(_PART // max(len(own), 1), 1)
        for first in range(0, filters, rows):
            i, j = torch.triu_indices(min(rows, filters - first), filters, first + 1, device=own.device)
            both = own[first + i] & own[j]
            above += int(((psi[start : start + len(both)] > threshold) & both).sum())
            pairs += int(both.sum())
            start += len(both)
    return above / max(pairs, 1)


def histogram_of_omega(omega: Sequence[Tensor], bins: int, similarity: Similarity) -> Tensor:
    """`psi_histogram` of the packed Psi of all banks, none of them NaN: (bins,) int64, on the CPU."""
    lowest = similarity.lowest
    edges = inner_edges(bins, similarity).to(omega[0].device, omega[0].dtype)
    first, last = edges.new_full((1,), -torch.inf), edges.new_full((1,), torch.inf)
    lower, upper = torch.cat((first, edges)), torch.cat((edges, last))
    counts = torch.zeros(bins, dtype=torch.int64, device=edges.device)
    for psi in _parts(omega):
        place = ((psi - lowest) * (bins / (1 - lowest))).int().clamp_(0, bins - 1)  # wrong by one where it rounds
        place -= (psi <= lower.index_select(0, place)).int()
        place += (psi > upper.index_select(0, place)).int()
        counts += torch.bincount(place, minlength=bins)
    return counts.cpu()


def _parts(omega: Sequence[Tensor]) -> Sequence[Tensor]:
    """The packed Psi of all banks in parts, of which what is made takes little memory."""
    return (torch.cat(list(omega)) if len(omega) > 1 else omega[0]).split(_PART)


def valued_banks(weight: Weight, scale_free: bool) -> list[Tensor]:
    """The checked filter banks of a weight, detached; raises ValueError on the meta device, which holds no values."""
    banks = [bank.detach() for bank in checked_banks(weight, scale_free)]
    if banks[0].is_meta:
        raise ValueError("weight is on the meta device, where it has no values")
    return banks


def checked_thresholds(threshold: float | Tensor, lowest: float) -> Tensor:
    """The thresholds as a float64 tensor; raises ValueError unless all lie between `lowest` and 1."""
    try:
        # a number does not go to the default device, which may be one without values
        device = threshold.device if isinstance(threshold, Tensor) else "cpu"
        thresholds = torch.as_tensor(threshold, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"threshold must be a number or a tensor of numbers, got {threshold!r}") from error
    thresholds = thresholds.detach()
    if isinstance(threshold, (int, float)):
        are_inside = lowest <= threshold <= 1
    else:
        are_inside = bool(((thresholds >= lowest) & (thresholds <= 1)).all())
    if not are_inside:
        raise ValueError(f"threshold must lie in [{lowest:g}, 1], got {threshold}")
    return thresholds


def checked_threshold(threshold: float | Tensor, lowest: float) -> float:
    """The one threshold as a number; raises ValueError unless it lies between `lowest` and 1."""
    thresholds = checked_thresholds(threshold, lowest)
    if thresholds.numel() != 1:
        raise ValueError(f"threshold must be one number, got {thresholds.numel()}")
    return thresholds.item()
