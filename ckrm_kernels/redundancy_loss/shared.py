"""The smooth redundancies of many banks, of which each process of a team computes some, and all have all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ckrm_kernels.backends import Backend
from ckrm_kernels.distributed import Team, dealt_out
from ckrm_kernels.functional import soft_redundancy_of_banks_with_gradients
from ckrm_kernels.ops import result_dtype, soft_gradient
from ckrm_kernels.sharing import cost_of
from ckrm_kernels.similarity import Similarity


def shared_soft_redundancy(
    banks: Sequence[Tensor],
    threshold: float | Sequence[Tensor],
    temperature: float,
    similarity: Similarity,
    backend: Backend | None,
    team: Team,
) -> list[Tensor]:
    """`soft_redundancy_of_banks` with gradients: each process of the team computes whole banks, and all have all.

    All must call with equal banks. Gradients are exchanged here, and nothing in the backward pass.
    """
    shares = dealt_out([cost_of(bank) for bank in banks], team.size)
    own = shares[team.rank]
    with team.together():
        levels = threshold if isinstance(threshold, float) else [threshold[index] for index in own]
        computed = soft_redundancy_of_banks_with_gradients(
            [banks[index] for index in own], levels, temperature, similarity, backend
        )
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for rank, share in enumerate(shares):
        parts = computed if rank == team.rank else [_uninitialized(banks[index]) for index in share]
        tensors = team.broadcast([tensor for part in parts for tensor in part], rank)
        found.update(zip(share, zip(tensors[::2], tensors[1::2], strict=True), strict=True))
    values, gradients = zip(*(found[index] for index in range(len(banks))), strict=True)
    return list(_WithGradients.apply(values, gradients, *banks))


def _uninitialized(bank: Tensor) -> tuple[Tensor, Tensor]:
    """As the value of a bank and its gradient are."""
    dtype = result_dtype(bank.dtype)
    return bank.new_empty((), dtype=dtype), bank.new_empty(bank.shape, dtype=dtype)


class _WithGradients(torch.autograd.Function):
    """Values of banks, whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, values: Sequence[Tensor], gradients: Sequence[Tensor], *banks: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [bank.dtype for bank in banks]
        return tuple(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_banks = zip(grads, ctx.saved_tensors, ctx.dtypes, strict=True)
        return None, None, *(soft_gradient(grad, gradient, dtype) for grad, gradient, dtype in of_banks)
