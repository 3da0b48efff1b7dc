"""Pairs of filters shared out among processes: cut into blocks, dealt out by what they cost, and counted.

A Psi does not depend on the block in which it is computed, and counts are whole numbers, so that their sum over any
number of processes is the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ckrm_kernels.backends import Backend, implementation
from ckrm_kernels.distributed import Team, dealt_out
from ckrm_kernels.functional import counts_of_banks
from ckrm_kernels.ops import result_dtype
from ckrm_kernels.similarity import Similarity

LARGEST_BLOCK = 1024  # filters: its 2^20 Psi are 4 MiB, and its slices are prepared for a thirtieth of their terms
_SMALLEST_BLOCK = 64
_PARTS = 8  # of the work of a process, at least: as even as that is the sharing
_MOMENTS = 11  # positions that the rest of a term costs as much as, by the rates of docs/speed.md
_ORDINARY, _ORDINARY_EPS = 1e3, 1e-9  # within which every arithmetic holds every block


class Block(NamedTuple):
    """The pairs of some filters of a bank with others of it, or among themselves where both are the same ones."""

    bank: int
    rows: slice
    columns: slice

    @property
    def is_triangle(self) -> bool:
        """Whether the pairs are those among some filters."""
        return self.rows == self.columns


def facts_of(
    banks: Sequence[Tensor], similarity: Similarity, backend: Backend | None, **arguments: object
) -> list[str]:
    """What processes that share the work on some banks must all have: the arguments, and the banks to the bit."""
    given = [f"{name} {value}" for name, value in arguments.items()]
    described = [f"a weight {bank.dtype} {tuple(bank.shape)}, checksum {checksum(bank)}" for bank in banks]
    return [*given, repr(similarity), f"backend {backend}", *described]


def checksum(tensor: Tensor) -> int:
    """The sum of the tensor's elements, their bits read as whole numbers, in any order: modulo 2^32 of 4 bytes each."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    # a wider sum of 4 bytes each takes six times as long
    return int(tensor.detach().view(whole).sum(dtype=torch.int64 if whole is torch.int16 else whole))


def cost_of(bank: Tensor) -> float:
    """Of all pairs of a bank (F2, F1, *K), as the time of one position of a term."""
    return _cost(bank, bank.shape[0] * (bank.shape[0] - 1) / 2)


def blocks_of(banks: Sequence[Tensor], processes: int, cut: Sequence[bool] | None = None) -> list[Block]:
    """Blocks that hold each pair of each bank once, a bank in one where it is a small part of a process's work.

    cut: which banks may be in several blocks; None: all
    """
    most = sum(map(cost_of, banks)) / (processes * _PARTS)
    blocks = []
    for index, bank in enumerate(banks):
        size = bank.shape[0]
        if cost_of(bank) > most and (cut is None or cut[index]):
            size = min(max(-(-size // (2 * processes)), _SMALLEST_BLOCK), LARGEST_BLOCK)
            size = -(-size // _SMALLEST_BLOCK) * _SMALLEST_BLOCK
        starts = range(0, bank.shape[0], max(size, 1))
        parts = [slice(start, min(start + size, bank.shape[0])) for start in starts]
        blocks += [Block(index, rows, columns) for at, rows in enumerate(parts) for columns in parts[at:]]
    return blocks


def own_blocks(banks: Sequence[Tensor], blocks: Sequence[Block], team: Team) -> list[Block]:
    """The blocks that this process takes."""
    costs = []
    for block in blocks:
        rows, columns = (each.stop - each.start for each in (block.rows, block.columns))
        costs.append(_cost(banks[block.bank], rows * (rows - 1) / 2 if block.is_triangle else rows * columns))
    return [blocks[place] for place in dealt_out(costs, team.size)[team.rank]]


def shared_counts(
    banks: Sequence[Tensor], edges: Tensor, similarity: Similarity, backend: Backend | None, team: Team
) -> Tensor:
    """`counts_of_banks`, of which each process of the team computes a part, and all have the result."""
    if team.size == 1 or not banks:
        return counts_of_banks(banks, edges, similarity, backend)
    blocks = blocks_of(banks, team.size, [is_ordinary(bank, similarity) for bank in banks])
    own = own_blocks(banks, blocks, team)
    counts = torch.zeros(len(banks), edges.numel() + 2, dtype=torch.int64, device=banks[0].device)
    triangles, rectangles = ([block for block in own if block.is_triangle is kind] for kind in (True, False))
    of_triangles = counts_of_banks([banks[each.bank][each.rows] for each in triangles], edges, similarity, backend)
    for block, found in zip(triangles, of_triangles, strict=True):
        counts[block.bank] += found.to(counts.device)
    for index, rows, columns in rectangles:
        bank = banks[index].detach()
        found = counts_of_rectangle(bank[rows], bank[columns], edges, similarity, backend)
        counts[index] += found.to(counts.device)
    team.check()
    return team.sum(counts)


def counts_of_rectangle(
    rows: Tensor, columns: Tensor, edges: Tensor, similarity: Similarity, backend: Backend | None
) -> Tensor:
    """How many Psi of filters with others lie in each interval, as `counts_of_banks`: (E + 2,) int64.

    rows: (Na, F1, *K), columns: (Nb, F1, *K)
    """
    limits = edges.to(rows.device, result_dtype(rows.dtype))
    return implementation(backend, rows, columns).cross_psi_counts(rows, columns, limits, similarity)


def is_ordinary(bank: Tensor, similarity: Similarity) -> bool:
    """Whether any block of it is computed in the arithmetic of the whole, which the largest numbers decide."""
    is_usual = similarity.eps == 0 or similarity.eps >= _ORDINARY_EPS
    return is_usual and bank.numel() > 0 and max(map(abs, torch.stack(bank.aminmax()).tolist())) <= _ORDINARY


def _cost(bank: Tensor, pairs: float) -> float:
    return pairs * bank.shape[1] * (bank.shape[2:].numel() + _MOMENTS)
