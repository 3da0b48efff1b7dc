"""The smooth redundancies of many banks, of which each process of a team computes some, and all have all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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
        ctx.save_for_backward(*banks, *gradients)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        banks, gradients = ctx.saved_tensors[: len(grads)], ctx.saved_tensors[len(grads) :]
        return None, None, *map(_Multiplied.apply, grads, gradients, banks)


class _Multiplied(torch.autograd.Function):
    """The gradient of a bank, on which it depends: with a derivative of its own that is refused."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, gradient: Tensor, bank: Tensor) -> Tensor:
        return soft_gradient(grad, gradient, bank.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            "RedundancyLoss with a group has no double backward; leave the group out and pass backend='reference'"
        )
