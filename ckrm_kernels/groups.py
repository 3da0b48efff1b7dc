"""Which filters repeat which: a choice of filters to keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Unpack

from ckrm_kernels.backends import Backend, implementation
from ckrm_kernels.distributed import ALONE, Team
from ckrm_kernels.distribution import checked_threshold, valued_banks
from ckrm_kernels.filters import Weight
from ckrm_kernels.functional import all_finite, not_finite
from ckrm_kernels.options import SimilarityOptions, resolve
from ckrm_kernels.sharded import team_for
from ckrm_kernels.sharing import blocks_of, facts_of, own_blocks, shared_counts
from ckrm_kernels.similarity import Similarity

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_BLOCK = 64  # filters that are compared with all others at once
_CUT_FOR = 4  # processes: the same blocks for any number of them, as a block's largest numbers decide its arithmetic
_ROWS_SENT = 1024  # of bits

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class RedundantGroups:
    """A partition of a layer's filters into kept ones and repeats of them; equal where all indices are.

    kept: (D,) int64, ascending indices of the filters to keep, no two of which exceed the threshold
    dropped: (F2 - D,) int64, ascending indices of the others
    representative: (F2,) int64, for each filter the kept one that it repeats most closely; itself for a kept one
    """

    kept: Tensor
    dropped: Tensor
    representative: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RedundantGroups) and self.representative.tolist() == other.representative.tolist()

    def __hash__(self) -> int:
        return hash(tuple(self.representative.tolist()))  # which says the rest


def redundant_groups(
    weight: Weight,
    threshold: float = 0.6,
    *,
    group: ProcessGroup | None = None,
    **options: Unpack[SimilarityOptions],
) -> RedundantGroups:
    """Chooses filters to keep so that no two of them exceed the threshold and every other one repeats a kept one.

    Greedy and deterministic: again and again it keeps the filter that exceeds the threshold with the most undecided
    ones (the first such in order) and drops those; each dropped filter repeats the kept one of its highest Psi.

    weight: (F2, F1, *K) or a module; of a grouped one, filters are compared and kept within their groups
    threshold: a number in [0, 1], of a signed similarity in [-1, 1]; then no filter repeats one of the other sign
    group: a process group of torch.distributed, whose processes all call with the same arguments, share the work and
        have the same result; None: this process alone, or those that a weight is sharded over (DTensor)
    options: see `SimilarityOptions`
    out: `RedundantGroups`, on the weight's device, in the module's order of output channels
    Uses F2 squared bits of the CPU's memory, and no more that grows so.
    Raises what `redundancy` does, and ValueError where a filter holds NaN or Inf, or the Psi of a pair overflows the
    precision.
    """
    team = team_for(group, weight)
    with team.together():
        similarity, backend = resolve(options, "redundant_groups", "threshold", "group")
        limit = checked_threshold(threshold, similarity.lowest)
        team.check()
        banks = valued_banks(weight, similarity.scale_free)
        team.check_agreement(lambda: facts_of(banks, similarity, backend, threshold=limit))
        return groups_of_banks(banks, limit, similarity, backend, team)


def groups_of_banks(
    banks: Sequence[Tensor],
    threshold: float,
    similarity: Similarity,
    backend: Backend | None,
    team: Team = ALONE,
) -> RedundantGroups:
    """The choice within each of several filter banks; the indices count the filters of all banks."""
    bad = not_finite(banks)
    if bad:
        raise ValueError(f"weight has NaN or Inf in filters {bad[:8]}: no choice can be made")
    starts = [0, *accumulate(bank.shape[0] for bank in banks)]
    repeats = _may_repeat(banks, threshold, similarity, backend, team)
    representatives = [
        _representatives(bank, threshold, similarity, backend, team)
        if any_repeat
        else torch.arange(bank.shape[0], device=bank.device)
        for bank, any_repeat in zip(banks, repeats, strict=True)
    ]
    representative = torch.cat([r + start for r, start in zip(representatives, starts, strict=False)])
    own = representative == torch.arange(starts[-1], device=representative.device)
    return RedundantGroups(own.nonzero().flatten(), (~own).nonzero().flatten(), representative)


def kept_of_omega(omega: Tensor, filters: int, threshold: float) -> int:
    """How many filters `redundant_groups` keeps, from Psi of all their pairs, packed and without NaN."""
    above = (omega > threshold).cpu().numpy()
    if not above.any():
        return filters
    similar = np.zeros((filters, filters), dtype=np.bool_)
    similar[~np.tri(filters, dtype=np.bool_)] = above
    similar |= similar.T
    return len(_greedy(np.packbits(similar, axis=1), filters))


def _may_repeat(
    banks: Sequence[Tensor], threshold: float, similarity: Similarity, backend: Backend | None, team: Team
) -> list[bool]:
    """Whether a pair of each bank exceeds the threshold or overflows; counted together, where there are several."""
    if len(banks) == 1:
        return [True]
    edges = torch.tensor([threshold], dtype=torch.float64, device="cpu")
    return shared_counts(banks, edges, similarity, backend, team)[:, 1:].any(1).tolist()


def _representatives(
    bank: Tensor, threshold: float, similarity: Similarity, backend: Backend | None, team: Team
) -> Tensor:
    """(F2, F1, *K) -> (F2,) int64, for each filter the kept one it repeats."""
    filters, compute = bank.shape[0], implementation(backend, bank).cross_psi
    similar = _similar(bank, threshold, similarity, backend, team)
    chosen = torch.zeros(filters, dtype=torch.bool, device="cpu")
    chosen[_greedy(similar, filters)] = True
    kept, dropped = chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
    representative = torch.zeros(filters, dtype=torch.int64, device=bank.device)
    for part in dropped.split(_BLOCK)[team.rank :: team.size] if dropped.numel() else ():
        repeated = torch.from_numpy(_unpacked(similar[part.numpy()], filters)) & chosen
        by_any = repeated.any(0).nonzero().flatten()
        own, others = part.to(bank.device), by_any.to(bank.device)
        psi = compute(bank[own], bank[others], similarity)
        closest = torch.where(repeated[:, by_any].to(bank.device), psi, -torch.inf).argmax(1)
        representative[own] = others[closest]
    team.check()
    representative = team.sum(representative)
    representative[kept.to(bank.device)] = kept.to(bank.device)
    return representative


def _similar(bank: Tensor, threshold: float, similarity: Similarity, backend: Backend | None, team: Team) -> Bits:
    """(F2, F1, *K) -> (F2, F2 bits in whole blocks), symmetric: which pairs exceed the threshold, not the diagonal."""
    filters = bank.shape[0]
    similar = np.zeros((filters, -(-filters // _BLOCK) * _BLOCK // 8), dtype=np.uint8)
    overflowed = False
    for _, rows, columns in own_blocks([bank], blocks_of([bank], _CUT_FOR), team):
        above, has_nan = _above(bank[rows], bank[columns], rows == columns, threshold, similarity, backend)
        overflowed |= has_nan
        similar[rows, _bytes(columns)] = _packed(above)
        if rows != columns:
            similar[columns, _bytes(rows)] = _packed(above.T)
    team.check()
    _unite(similar, team)
    if int(team.sum(torch.tensor(int(overflowed), device="cpu"))):
        raise ValueError("weight overflows its precision; scale_free=True takes its scale out")
    return similar


def _unite(similar: Bits, team: Team) -> None:
    """Gives each process the bits that any has set; each is set by one of them, so that the sum is their union."""
    if team.size == 1:
        return
    rows = np.flatnonzero(team.sum(torch.from_numpy(similar.any(1).astype(np.int32))).numpy())
    for some in _in_blocks(rows, _ROWS_SENT):
        similar[some] = team.sum(torch.from_numpy(similar[some])).numpy()


def _above(
    rows: Tensor,
    columns: Tensor,
    are_same: bool,
    threshold: float,
    similarity: Similarity,
    backend: Backend | None,
) -> tuple[Tensor, bool]:
    """Which pairs of some filters with others exceed the threshold, (Na, Nb), and whether the Psi of one is NaN."""
    psi = implementation(backend, rows).cross_psi(rows, columns, similarity)
    above = psi > threshold
    if not are_same:
        return above, not all_finite(psi)
    upper = above.triu(1)
    return upper | upper.T, not all_finite(psi.triu(1))


def _packed(above: Tensor) -> Bits:
    """Rows of booleans as rows of bits."""
    return np.packbits(above.contiguous().cpu().numpy(), axis=1)


def _bytes(filters: slice) -> slice:
    """The bytes that hold the bits of some filters, of which the first is the first of a byte."""
    return slice(filters.start // 8, -(-filters.stop // 8))


def _unpacked(similar: Bits, filters: int) -> npt.NDArray[np.bool_]:
    """Rows of bits as rows of booleans, (rows, filters)."""
    return np.unpackbits(similar, axis=1, count=filters).view(np.bool_)


def _in_blocks(rows: npt.NDArray[np.int64], size: int = _BLOCK) -> Iterator[npt.NDArray[np.int64]]:
    """The rows, so many at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _numbers_set(similar: Bits, filters: int) -> npt.NDArray[np.uint8]:
    """In how many of some rows of bits, at most 255, each filter's is set."""
    return np.unpackbits(similar, axis=1, count=filters).sum(0, dtype=np.uint8)


def _greedy(similar: Bits, filters: int) -> list[int]:
    """The filters kept, given which pairs exceed the threshold."""
    undecided = np.ones(filters, dtype=np.bool_)
    repeats = np.zeros(filters, dtype=np.int32)  # among the undecided
    for some in _in_blocks(np.flatnonzero(similar.any(1))):
        repeats += _numbers_set(similar[some], filters)
    kept: list[int] = []
    while undecided.any():
        best = int(repeats.argmax())
        if repeats[best] <= 1:  # each that is left repeats one other at most, and of two the first is kept
            for some in _in_blocks(np.flatnonzero(repeats == 1)):
                others = (_unpacked(similar[some], filters) & undecided).argmax(1)
                undecided[some[others < some]] = False
            return kept + undecided.nonzero()[0].tolist()
        decided = _unpacked(similar[best : best + 1], filters)[0] & undecided
        decided[best] = True
        undecided &= ~decided
        places = decided.nonzero()[0]
        for some in _in_blocks(places):
            repeats -= _numbers_set(similar[some], filters)
        repeats[places] = -1  # and below it from now on
        kept.append(best)
    return kept
