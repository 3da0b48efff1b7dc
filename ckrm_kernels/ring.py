"""The pairs of a bank whose filters lie with several processes, counted while the filters go round among them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from ckrm_kernels.backends import Backend
from ckrm_kernels.distributed import Team
from ckrm_kernels.functional import counts_of_banks
from ckrm_kernels.sharing import LARGEST_BLOCK, counts_of_rectangle
from ckrm_kernels.similarity import Similarity


def own_filters(bank: Any) -> tuple[int, Tensor]:
    """The filters of a DTensor (F2, F1, *K) that this process takes when they are cut by filters.

    out: the index of the first, and (filters, F1, *K)
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard

    mesh = bank.device_mesh
    by_filters = [Shard(0)] * mesh.ndim
    places = torch.arange(bank.shape[0], device=bank.to_local().device)
    own = DTensor.from_local(places, mesh, [Replicate()] * mesh.ndim).redistribute(placements=by_filters).to_local()
    return int(own[0]) if len(own) else bank.shape[0], bank.redistribute(placements=by_filters).to_local()


def ring_counts(
    first: int, own: Tensor, edges: Tensor, similarity: Similarity, backend: Backend | None, team: Team
) -> Tensor:
    """`counts_of_banks` of one bank of which each process has some filters, and at most those of two others.

    Each process counts the pairs among its own, and its own with those of half of the others, which reach it in turn.

    first: the index of its first filter; own: (filters, F1, *K), consecutive ones
    edges: (E,) ascending
    out: (E + 2,) int64
    """
    counts = counts_of_banks([own], edges, similarity, backend)[0]
    team.check()
    held = team.gathered((first, len(own)))
    guest = own
    for step in range(1, team.size // 2 + 1):
        host = (team.rank + step) % team.size
        guest = _from_next(guest, held[host][1], team)
        rows, columns = (own, guest) if first < held[host][0] else (guest, own)
        if 2 * step == team.size:  # two processes meet each other, and take half of the rows each
            rows = rows.tensor_split(2)[team.rank >= step]
        for some in rows.split(LARGEST_BLOCK):
            for others in columns.split(LARGEST_BLOCK):
                counts += counts_of_rectangle(some, others, edges, similarity, backend)
        team.check()
    return team.sum(counts)


def _from_next(guest: Tensor, filters: int, team: Team) -> Tensor:
    """So many filters from the process of the next rank, while the guests here go to the one before."""
    arriving = guest.new_empty(filters, *guest.shape[1:])
    before, after = (team.rank_of_all((team.rank + step) % team.size) for step in (-1, 1))
    transfers = [
        distributed.P2POp(distributed.isend, guest.contiguous(), before, team.group),
        distributed.P2POp(distributed.irecv, arriving, after, team.group),
    ]
    filled = [transfer for transfer in transfers if transfer.tensor.numel()]
    for work in distributed.batch_isend_irecv(filled) if filled else ():
        work.wait()
    return arriving
