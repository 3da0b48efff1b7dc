"""The torch.library operators: schema, fake and autograd, one place for each, the same in every namespace.

    torch.ops.ckrm.*          by the tensor's device: on the CPU csrc/cpu, on a GPU what `backends.py` picks
    torch.ops.ckrm_triton.*   kernels/, Triton
    torch.ops.ckrm_cuda.*     csrc/cuda, CUDA C++

Compiled kernels register themselves under their device's dispatch key. Every operator takes filter banks (F2, F1, *K)
of any strides; float16 and bfloat16 are computed in float32 and returned in float32. `psi_counts` takes any number of
banks, each of a shape of its own, of one dtype and device, and so does `soft_redundancy`, which computes its gradient
beside its value; `reference.py` defines them, and the others, on one.
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
    # of every filter of a with every one of b: (E + 2,)
    "cross_psi_counts": f"(Tensor a, Tensor b, Tensor edges, {_SIMILARITY}) -> Tensor",
    # the mean over a bank's pairs of sigmoid((Psi - threshold) / temperature), and its gradient: see `reference.py`
    # banks: (F2, F1, *K) each; thresholds: (banks,) of the dtype that Psi is returned in
    # out: values (banks,), and with_gradient that of each value by its bank, in the same dtype; else no gradients
    "soft_redundancy": "(Tensor[] banks, Tensor thresholds, float temperature, bool with_gradient, "
    f"{_SIMILARITY}) -> (Tensor, Tensor[])",
    # grad (banks,) times the gradients, each in the dtype of its bank
    "soft_redundancy_backward": "(Tensor grad, Tensor[] gradients, Tensor[] banks) -> Tensor[]",
}

_DIFFERENTIABLE = ("pairwise_psi", "cross_psi", "psi_of_pairs")
_FEW_EDGES = 4  # with each of which a Psi is compared
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
    "psi_counts": lambda banks, edges, *similarity: _counts(banks, edges, len(banks)),
    "cross_psi_counts": lambda a, b, edges, *similarity: _counts([a, b], edges),
    "soft_redundancy": lambda banks, thresholds, temperature, with_gradient, *similarity: _soft(
        banks, thresholds, with_gradient
    ),
    "soft_redundancy_backward": lambda grad, gradients, banks: [_gradient_of(bank) for bank in banks],
}


def _counts(banks: Sequence[Tensor], edges: Tensor, *shape: int) -> Tensor:
    _check_device(banks, edges, "edges")
    return edges.new_empty(*shape, edges.shape[0] + 2, dtype=torch.int64)


def _soft(banks: Sequence[Tensor], thresholds: Tensor, with_gradient: bool) -> tuple[Tensor, list[Tensor]]:
    _check_device(banks, thresholds, "thresholds")
    gradients = [_empty(bank, *bank.shape) for bank in banks] if with_gradient else []
    return thresholds.new_empty(len(banks)), gradients


def _check_device(banks: Sequence[Tensor], other: Tensor, name: str) -> None:
    for bank in banks:
        if bank.device != other.device:  # also where one on the meta device brings real ones here
            raise RuntimeError(f"banks and {name} must be on one device, got {bank.device} and {other.device}")


# ---- vmap ------------------------------------------------------------------------------------------------------------


def _vmap_of_lists(operator: Any) -> Callable[..., Any]:
    """For torch.func.vmap, which makes a loop of the other operators but not of one that takes a list."""

    def of_batch(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        def example(argument: Any, dims: Any, index: int) -> Any:
            if isinstance(argument, (list, tuple)) and isinstance(dims, (list, tuple)):
                return [example(each, dim, index) for each, dim in zip(argument, dims, strict=True)]
            return argument if dims is None else argument.select(dims, index)

        found = [
            operator(*(example(each, dims, index) for each, dims in zip(arguments, in_dims, strict=True)))
            for index in range(info.batch_size)
        ]
        if isinstance(found[0], Tensor):
            return torch.stack(found), 0
        values, gradients = zip(*found, strict=True)
        stacked = [torch.stack(each) for each in zip(*gradients, strict=True)]
        return (torch.stack(values), stacked), (0, [0] * len(stacked))

    return of_batch


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


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    banks, parameters = inputs[0], inputs[-1]
    gradients = output[1]
    ctx.mark_non_differentiable(*gradients)
    ctx.save_for_backward(*gradients, *banks)
    ctx.banks, ctx.no_parameters = len(banks), not parameters


def _backward_by_gradients(operator: Any) -> Callable[..., tuple[Any, ...]]:
    """The gradients of `soft_redundancy`, which the forward pass computed."""

    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # asked for once: a checkpoint gives them only once
        if len(saved) < 2 * ctx.banks:
            raise RuntimeError("soft_redundancy was called with with_gradient=False, and has no gradient")
        gradients, banks = list(saved[: ctx.banks]), list(saved[ctx.banks :])
        parameters: Any = [] if ctx.no_parameters else None  # torch takes an empty list for one of tensors
        return operator(grad, gradients, banks), None, None, None, None, None, parameters

    return backward


def _multiplied(grad: Tensor, gradients: Sequence[Tensor], banks: Sequence[Tensor]) -> list[Tensor]:
    """`soft_redundancy_backward` on every device."""
    parts = grad.to(gradients[0].dtype).unbind(0) if gradients else ()
    return [
        soft_gradient(part, gradient, bank.dtype) for part, gradient, bank in zip(parts, gradients, banks, strict=True)
    ]


def soft_gradient(grad: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """That of a bank of the given dtype, by the one of its `soft_redundancy`."""
    return (grad * gradient).to(dtype)


def counts_of_psi(psi: Tensor, edges: Tensor) -> Tensor:
    """How many Psi lie in each interval, as `reference.psi_counts`: (E + 2,) int64.

    psi: of any shape; edges: (E,) ascending, of its dtype
    """
    known = psi if bool(psi.sum().isfinite()) else psi[~psi.isnan()]  # no Psi is infinite
    if edges.numel() > _FEW_EDGES:
        inside = torch.bincount(torch.bucketize(known.flatten(), edges), minlength=edges.numel() + 1)
    else:
        above = [known.numel(), *(int((known > edge).sum()) for edge in edges), 0]
        inside = torch.tensor(above, device=psi.device).diff().neg()
    return torch.cat((inside, inside.new_tensor([psi.numel() - known.numel()])))


def check_soft(banks: Sequence[Tensor], thresholds: Tensor, temperature: float) -> None:
    """Raises RuntimeError for arguments of `soft_redundancy` that don't go together."""
    if not temperature > 0:
        raise RuntimeError(f"temperature must be > 0, got {temperature}")
    if thresholds.dim() != 1 or thresholds.shape[0] != len(banks):
        raise RuntimeError(f"thresholds must be of shape ({len(banks)},), got {tuple(thresholds.shape)}")
    for bank in banks:
        if bank.dtype != banks[0].dtype:
            raise RuntimeError("banks must have one dtype")
        if thresholds.dtype != result_dtype(bank.dtype):
            raise RuntimeError("thresholds must be of the dtype that Psi is returned in")
    _check_device(banks, thresholds, "thresholds")


def _refuse_double_backward(ctx: Any, *grads: Any) -> None:
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
    cross_psi_counts: Callable[..., Tensor]
    soft_redundancy: Callable[..., Tensor]
    soft_redundancy_with_gradients: Callable[..., tuple[Tensor, list[Tensor]]]  # of the dtype of the values


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
    library.impl("cross_psi_counts", _counts_by(here.cross_psi.default), "CompositeExplicitAutograd")
    soft, multiplied = here.soft_redundancy.default, here.soft_redundancy_backward.default
    library.impl("soft_redundancy_backward", _multiplied, "CompositeExplicitAutograd")
    torch.library.register_autograd(
        f"{namespace}::soft_redundancy", _backward_by_gradients(multiplied), setup_context=_save_gradients
    )
    torch.library.register_autograd(f"{namespace}::soft_redundancy_backward", _refuse_double_backward)
    for name in ("psi_counts", "soft_redundancy"):
        torch.library.register_vmap(f"{namespace}::{name}", _vmap_of_lists(getattr(here, name).default))
    plain = {
        name: _taking_similarity(getattr(here, name).default, name in _DIFFERENTIABLE)
        for name in (*_DIFFERENTIABLE, "psi_counts", "cross_psi_counts")
    }
    return Operators(
        **plain, soft_redundancy=_soft_values(soft), soft_redundancy_with_gradients=_soft_with_gradients(soft)
    )


def _counts_by(cross_psi: Any) -> Callable[..., Tensor]:
    """`cross_psi_counts` where there is no kernel of its own: no name holds the Psi while others are made."""
    return lambda a, b, edges, *similarity: counts_of_psi(cross_psi(a, b, *similarity), edges)


def _soft_values(operator: Any) -> Callable[..., Tensor]:
    """`soft_redundancy`, called with banks, thresholds, temperature and a `Similarity`: differentiable values."""

    def call(banks: Sequence[Tensor], thresholds: Tensor, temperature: float, similarity: Any) -> Tensor:
        with_gradient = torch.is_grad_enabled() and any(bank.requires_grad for bank in banks)
        values: Tensor = operator(list(banks), thresholds, temperature, with_gradient, *similarity.arguments)[0]
        return values

    return call


def _soft_with_gradients(operator: Any) -> Callable[..., tuple[Tensor, list[Tensor]]]:
    """The same, called with banks that autograd does not watch: the values, and the gradient of each."""

    def call(
        banks: Sequence[Tensor], thresholds: Tensor, temperature: float, similarity: Any
    ) -> tuple[Tensor, list[Tensor]]:
        values, gradients = operator(list(banks), thresholds, temperature, True, *similarity.arguments)
        return values, gradients

    return call


by_device, triton, cuda = _operators("ckrm"), _operators("ckrm_triton"), _operators("ckrm_cuda")
