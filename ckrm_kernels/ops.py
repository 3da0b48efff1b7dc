"""The torch.library operators `torch.ops.ckrm.*`: schema, fake and autograd, one place for each.

Kernels register themselves under the device's dispatch key (csrc/cpu for CPU tensors). Every operator takes filter
banks (F2, F1, *K) of any strides; float16 and bfloat16 are computed in float32 and returned in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PSI = "float alpha, float beta, float gamma, float eps"

_library = torch.library.Library("ckrm", "DEF")
for _schema in (
    f"pairwise_psi(Tensor weight, {_PSI}) -> Tensor",
    f"pairwise_psi_backward(Tensor grad, Tensor weight, {_PSI}) -> Tensor",
    f"cross_psi(Tensor a, Tensor b, {_PSI}) -> Tensor",
    f"cross_psi_backward(Tensor grad, Tensor a, Tensor b, {_PSI}) -> (Tensor, Tensor)",
    f"psi_of_pairs(Tensor weight, Tensor pairs, {_PSI}) -> Tensor",
    f"psi_of_pairs_backward(Tensor grad, Tensor weight, Tensor pairs, {_PSI}) -> Tensor",
    f"psi_counts(Tensor weight, Tensor edges, {_PSI}) -> Tensor",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

pairwise_psi = torch.ops.ckrm.pairwise_psi.default
cross_psi = torch.ops.ckrm.cross_psi.default
psi_of_pairs = torch.ops.ckrm.psi_of_pairs.default
psi_counts = torch.ops.ckrm.psi_counts.default
_pairwise_psi_backward = torch.ops.ckrm.pairwise_psi_backward.default
_cross_psi_backward = torch.ops.ckrm.cross_psi_backward.default
_psi_of_pairs_backward = torch.ops.ckrm.psi_of_pairs_backward.default


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that Psi is computed and returned in: float32 for half types, else the weight's own."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _empty(like: Tensor, *shape: Any) -> Tensor:
    return like.new_empty(shape, dtype=result_dtype(like.dtype))


def _gradient_of(weight: Tensor) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


@torch.library.register_fake("ckrm::pairwise_psi")
def _(weight: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    filters = weight.shape[0]
    return _empty(weight, filters * (filters - 1) // 2)


@torch.library.register_fake("ckrm::pairwise_psi_backward")
def _(grad: Tensor, weight: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    return _gradient_of(weight)


@torch.library.register_fake("ckrm::cross_psi")
def _(a: Tensor, b: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    return _empty(a, a.shape[0], b.shape[0])


@torch.library.register_fake("ckrm::cross_psi_backward")
def _(grad: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> tuple[Tensor, Tensor]:
    return _gradient_of(a), _gradient_of(b)


@torch.library.register_fake("ckrm::psi_of_pairs")
def _(weight: Tensor, pairs: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    return _empty(weight, pairs.shape[0])


@torch.library.register_fake("ckrm::psi_of_pairs_backward")
def _(grad: Tensor, weight: Tensor, pairs: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    return _gradient_of(weight)


@torch.library.register_fake("ckrm::psi_counts")
def _(weight: Tensor, edges: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    return weight.new_empty(edges.shape[0] + 2, dtype=torch.int64)


def _save_pairwise(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, *ctx.psi = inputs
    ctx.save_for_backward(weight)


def _pairwise_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _pairwise_psi_backward(grad, *ctx.saved_tensors, *ctx.psi), None, None, None, None


def _save_two(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, *ctx.psi = inputs
    ctx.save_for_backward(first, second)


def _cross_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_cross_psi_backward(grad, *ctx.saved_tensors, *ctx.psi), None, None, None, None


def _pairs_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _psi_of_pairs_backward(grad, *ctx.saved_tensors, *ctx.psi), None, None, None, None, None


def _refuse_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "Psi has no double backward in the kernels; pass backend='reference' to differentiate its gradient"
    )


torch.library.register_autograd("ckrm::pairwise_psi", _pairwise_backward, setup_context=_save_pairwise)
torch.library.register_autograd("ckrm::cross_psi", _cross_backward, setup_context=_save_two)
torch.library.register_autograd("ckrm::psi_of_pairs", _pairs_backward, setup_context=_save_two)
for _name in ("pairwise_psi", "cross_psi", "psi_of_pairs"):
    torch.library.register_autograd(f"ckrm::{_name}_backward", _refuse_double_backward)
