"""The torch.library operators: schema, fake and autograd, one place for each, the same in every namespace.

    torch.ops.ckrm.*          by the tensor's device: on the CPU csrc/cpu, on a GPU what `backends.py` picks
    torch.ops.ckrm_triton.*   kernels/, Triton
    torch.ops.ckrm_cuda.*     csrc/cuda, CUDA C++

Compiled kernels register themselves under their device's dispatch key. Every operator takes filter banks (F2, F1, *K)
of any strides; float16 and bfloat16 are computed in float32 and returned in float32. `psi_counts` takes any number of
banks, each of a shape of its own, of one dtype and device; `reference.py` defines it, and the others, on one.
After its tensors an operator takes the arguments of a `Similarity`: its name, whether it is signed, its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_SIMILARITY = "str similarity, bool signed, float[] parameters"
_SIMILARITY_ARGUMENTS = 3
SCHEMAS = {
    "pairwise_psi": f"(Tensor weight, {_SIMILARITY}) -> Tensor",
    "pairwise_psi_backward": f"(Tensor grad, Tensor weight, {_SIMILARITY}) -> Tensor",
    "cross_psi": f"(Tensor a, Tensor b, {_SIMILARITY}) -> Tensor",
    "cross_psi_backward": f"(Tensor grad, Tensor a, Tensor b, {_SIMILARITY}) -> (Tensor, Tensor)",
    "psi_of_pairs": f"(Tensor weight, Tensor pairs, {_SIMILARITY}) -> Tensor",
    "psi_of_pairs_backward": f"(Tensor grad, Tensor weight, Tensor pairs, {_SIMILARITY}) -> Tensor",
    "psi_counts": f"(Tensor[] banks, Tensor edges, {_SIMILARITY}) -> Tensor",
}

_DIFFERENTIABLE = ("pairwise_psi", "cross_psi", "psi_of_pairs")
_PLAIN = (Tensor, torch.nn.Parameter)  # not their subclasses, which may say themselves what operators do
TRITON_MOST_POSITIONS = 2**13  # of a slice: a program holds them all in one block, and larger ones compile for minutes


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that Psi is computed and returned in: float32 for half types, else the weight's own."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


# ---- fakes -----------------------------------------------------------------------------------------------------------


def _empty(like: Tensor, *shape: Any) -> Tensor:
    return like.new_empty(shape, dtype=result_dtype(like.dtype))


def _gradient_of(weight: Tensor) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


_FAKES: dict[str, Callable[..., Any]] = {
    "pairwise_psi": lambda weight, *similarity: _empty(weight, weight.shape[0] * (weight.shape[0] - 1) // 2),
    "pairwise_psi_backward": lambda grad, weight, *similarity: _gradient_of(weight),
    "cross_psi": lambda a, b, *similarity: _empty(a, a.shape[0], b.shape[0]),
    "cross_psi_backward": lambda grad, a, b, *similarity: (_gradient_of(a), _gradient_of(b)),
    "psi_of_pairs": lambda weight, pairs, *similarity: _empty(weight, pairs.shape[0]),
    "psi_of_pairs_backward": lambda grad, weight, pairs, *similarity: _gradient_of(weight),
    "psi_counts": lambda banks, edges, *similarity: _counts(banks, edges),
}


def _counts(banks: Sequence[Tensor], edges: Tensor) -> Tensor:
    for bank in banks:
        if bank.device != edges.device:  # also where one on the meta device brings real ones here
            raise RuntimeError(f"banks and edges must be on one device, got {bank.device} and {edges.device}")
    return edges.new_empty(len(banks), edges.shape[0] + 2, dtype=torch.int64)


# ---- vmap ------------------------------------------------------------------------------------------------------------


def _vmap_of_counts(operator: Any) -> Callable[..., tuple[Tensor, int]]:
    """For torch.func.vmap, which makes a loop of the other operators but not of one that takes a list."""

    def counts_of_batch(
        info: Any, in_dims: tuple[Any, ...], banks: Sequence[Tensor], edges: Tensor, *similarity: Any
    ) -> tuple[Tensor, int]:
        def example(tensor: Tensor, dim: int | None, index: int) -> Tensor:
            return tensor if dim is None else tensor.select(dim, index)

        of_banks, of_edges = in_dims[:2]
        counts = [
            operator(
                [example(bank, dim, index) for bank, dim in zip(banks, of_banks, strict=True)],
                example(edges, of_edges, index),
                *similarity,
            )
            for index in range(info.batch_size)
        ]
        return torch.stack(counts), 0

    return counts_of_batch


# ---- autograd --------------------------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:-_SIMILARITY_ARGUMENTS])
    ctx.similarity = inputs[-_SIMILARITY_ARGUMENTS:]


def _backward_through(operator: Any) -> Callable[..., tuple[Tensor | None, ...]]:
    """The gradients of a forward operator's tensors by its backward operator; None for what can't have one."""

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # asked for once: a checkpoint gives them only once
        gradients = operator(grad, *saved, *ctx.similarity)
        found = (gradients,) if isinstance(gradients, Tensor) else tuple(gradients)
        return *found, *(None,) * (len(saved) - len(found) + _SIMILARITY_ARGUMENTS)

    return backward


def _refuse_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "Psi has no double backward in the kernels; pass backend='reference' to differentiate its gradient"
    )


# ---- namespaces ------------------------------------------------------------------------------------------------------


class Operators(NamedTuple):
    """The differentiable operators of one namespace, or of the reference: each takes a `Similarity` last."""

    pairwise_psi: Callable[..., Tensor]
    cross_psi: Callable[..., Tensor]
    psi_of_pairs: Callable[..., Tensor]
    psi_counts: Callable[..., Tensor]


_libraries: list[torch.library.Library] = []  # an operator lives as long as its library


def _taking_similarity(operator: Any, is_differentiable: bool) -> Callable[..., Tensor]:
    """The operator, called with its tensors and a `Similarity`."""

    def call(*arguments: Any) -> Tensor:
        tensors, similarity = arguments[:-1], arguments[-1]
        if is_differentiable and _need_no_autograd(tensors):
            # its kernel is registered in Python, which is half the time of a small call
            with torch._C._AutoDispatchBelowAutograd():
                return operator(*tensors, *similarity.arguments)
        return operator(*tensors, *similarity.arguments)

    return call


def _need_no_autograd(tensors: Sequence[Any]) -> bool:
    """Whether autograd would only pass a call on: plain tensors, none recorded, and nothing that watches operators."""
    if torch.compiler.is_compiling():
        return False
    recording = torch.is_grad_enabled()
    return (
        all(type(each) in _PLAIN and not (recording and each.requires_grad) for each in tensors)
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_function_stack() == 0
        and torch._C._len_torch_dispatch_stack() == 0
    )


def _operators(namespace: str) -> Operators:
    library = torch.library.Library(namespace, "DEF")
    _libraries.append(library)
    for name, schema in SCHEMAS.items():
        library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"{namespace}::{name}", _FAKES[name])
    here = getattr(torch.ops, namespace)
    for name in _DIFFERENTIABLE:
        backward = getattr(here, f"{name}_backward").default
        torch.library.register_autograd(f"{namespace}::{name}", _backward_through(backward), setup_context=_save)
        torch.library.register_autograd(f"{namespace}::{name}_backward", _refuse_double_backward)
    torch.library.register_vmap(f"{namespace}::psi_counts", _vmap_of_counts(here.psi_counts.default))
    return Operators(
        *(_taking_similarity(getattr(here, name).default, name in _DIFFERENTIABLE) for name in Operators._fields)
    )


by_device, triton, cuda = _operators("ckrm"), _operators("ckrm_triton"), _operators("ckrm_cuda")
