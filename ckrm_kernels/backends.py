"""Which implementation computes on a tensor: compiled kernels where they can run, else the plain PyTorch definition.

On a GPU the order is Triton, CUDA C++, reference. What can't run is found out once for each device, at its first call.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ckrm_kernels import native, ops, reference
from ckrm_kernels.extras import install
from ckrm_kernels.similarity import Similarity

Backend = Literal["reference", "cpu", "triton", "cuda"]
GPU_BACKENDS: tuple[Literal["triton", "cuda"], ...] = ("triton", "cuda")  # the first that can run


def _counts_by_definition(banks: Sequence[Tensor], edges: Tensor, similarity: Similarity) -> Tensor:
    """`reference.psi_counts` of each of many banks: (banks, E + 2) int64."""
    none = edges.new_empty(0, edges.numel() + 2, dtype=torch.int64)
    return torch.cat([none, *(reference.psi_counts(bank, edges, similarity)[None] for bank in banks)])


def _soft_redundancy_by_definition(
    banks: Sequence[Tensor], thresholds: Tensor, temperature: float, similarity: Similarity
) -> Tensor:
    """`reference.soft_redundancy` of each of many banks: (banks,)."""
    ops.check_soft(banks, thresholds, temperature)
    values = (
        reference.soft_redundancy(bank, threshold, temperature, similarity)[None]
        for bank, threshold in zip(banks, thresholds, strict=True)
    )
    return torch.cat([thresholds[:0], *values])


def _soft_redundancy_with_gradients_by_definition(
    banks: Sequence[Tensor], thresholds: Tensor, temperature: float, similarity: Similarity
) -> tuple[Tensor, list[Tensor]]:
    """The same, and the gradient of each."""
    with torch.enable_grad():
        leaves = [bank.to(ops.result_dtype(bank.dtype)).detach().requires_grad_() for bank in banks]
        values = _soft_redundancy_by_definition(leaves, thresholds, temperature, similarity)
    ones = torch.ones_like(values)
    gradients = torch.autograd.grad(values, leaves, ones, materialize_grads=True) if leaves else ()
    return values.detach(), list(gradients)


BY_DEFINITION = ops.Operators(
    reference.pairwise_psi,
    reference.cross_psi,
    reference.psi_of_pairs,
    _counts_by_definition,
    lambda a, b, edges, similarity: ops.counts_of_psi(reference.cross_psi(a, b, similarity), edges),
    _soft_redundancy_by_definition,
    _soft_redundancy_with_gradients_by_definition,
)


def implementation(backend: Backend | None, *tensors: Tensor) -> ops.Operators:
    """What computes on these tensors of one device: the operators of a namespace, or the reference.

    Raises ValueError for an unknown backend, RuntimeError, which says why, for one that can't run, and
    NotImplementedError for kernels that are asked for a derivative that only the reference has: in forward mode, or
    by the transforms of torch.func.
    """
    if backend is not None and backend not in ("reference", "cpu", *GPU_BACKENDS):
        raise ValueError(f'backend must be None, "reference", "cpu", "triton" or "cuda", got {backend!r}')
    if backend == "reference" or (backend is None and _have_tangents(tensors)):
        return BY_DEFINITION
    if _are_transformed(tensors):
        raise NotImplementedError(
            'the kernels have no derivative for torch.func\'s grad, vjp, jacrev and hessian; backend="reference" has '
            "(at more memory), and torch.autograd.grad works with both"
        )
    device = tensors[0].device
    if backend is None:
        kind = device.type
        computes = kind == "meta" or has_kernels(device, kind == "cuda" and are_long(tensors))
        return ops.by_device if computes else BY_DEFINITION
    failure = why_not(backend, device)
    if failure:
        raise RuntimeError(f'backend="{backend}" can\'t run on {device}: {failure}')
    if _have_tangents(tensors):
        raise NotImplementedError(f'backend="{backend}" has no forward-mode derivative; backend="reference" has')
    return {"cpu": ops.by_device, "triton": ops.triton, "cuda": ops.cuda}[backend]


def _have_tangents(tensors: tuple[Tensor, ...]) -> bool:
    """Whether any is a dual number of forward-mode differentiation."""
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def _are_transformed(tensors: tuple[Tensor, ...]) -> bool:
    """Whether a reverse-mode transform of torch.func asks for the gradient of any."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return False
    grad = torch._C._functorch.TransformType.Grad
    reverse = any(each.key() == grad for each in torch._C._functorch.get_interpreter_stack() or ())
    return reverse and torch.is_grad_enabled() and any(map(_needs_gradient, tensors))


def _needs_gradient(tensor: Tensor) -> bool:
    """Whether the tensor, or what torch.func has wrapped in it, asks for a gradient."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor) and not tensor.requires_grad:
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.requires_grad


def are_long(tensors: Iterable[Tensor]) -> bool:
    """Whether a weight among them has slices of more numbers than the Triton kernels take."""
    return any(math.prod(tensor.shape[2:]) > ops.TRITON_MOST_POSITIONS for tensor in tensors)


def has_kernels(device: torch.device, long: bool = False) -> bool:
    """Whether `torch.ops.ckrm.*` can compute on the device; warns once if a slower backend must.

    long: see `are_long`
    """
    if device.type == "cpu":
        return native.load_cpu()
    return device.type == "cuda" and gpu_backend(_index(device), long) != "reference"


@functools.cache
def gpu_backend(index: int, long: bool) -> Literal["triton", "cuda", "reference"]:
    """The backend that computes on a GPU if none is forced; warns once where that is not Triton.

    long: see `are_long`
    """
    device, failures = torch.device("cuda", index), []
    backend: Literal["triton", "cuda", "reference"] = "triton"
    limit = f"it takes slices of at most {ops.TRITON_MOST_POSITIONS} numbers"
    if failure := why_not("triton", device) or (limit if long else ""):
        failures.append(f"triton: {failure}")
        backend = "cuda"
    if failures and (failure := why_not("cuda", device)):
        failures.append(f"cuda: {failure}")
        backend = "reference"
    if failures:
        slower = "the CUDA C++ kernels" if backend == "cuda" else "plain PyTorch, much slower than the kernels"
        warnings.warn(
            f"ckrm_kernels runs on {slower} on {device} ({'; '.join(failures)})", RuntimeWarning, stacklevel=4
        )
    return backend


def why_not(backend: Backend, device: torch.device) -> str:
    """Why a backend can't compute on the device; empty if it can. Loads or builds what it needs to know."""
    if backend == "reference":
        return ""
    if backend == "cpu":
        return native.cpu_failure() if device.type == "cpu" else "it needs a tensor on the CPU"
    if backend == "triton":
        return _triton_failure(device.type, _index(device))
    if device.type != "cuda":
        return "it needs a tensor on an NVIDIA GPU"
    return _cuda_failure(_index(device))


@functools.cache
def _triton_failure(kind: str, index: int) -> str:
    _refuse_capture()
    try:
        from ckrm_kernels import kernels
    except ImportError as error:
        return f"Triton is missing ({error}): {install('triton')}"
    return kernels.failure(torch.device(kind, index) if kind == "cuda" else torch.device(kind))


@functools.cache
def _cuda_failure(index: int) -> str:
    """Runs the smallest problem: a library may hold no machine code for this GPU."""
    _refuse_capture()
    failure = native.cuda_failure()
    if not failure:
        device = torch.device("cuda", index)
        try:
            ops.cuda.pairwise_psi(torch.zeros(2, 1, 1, device=device), Similarity())
        except RuntimeError as error:
            name = torch.cuda.get_device_name(device)
            return f"its library does not run on {name} ({error}); set TORCH_CUDA_ARCH_LIST and build it again"
    return failure


def _refuse_capture() -> None:
    """Raises RuntimeError while a CUDA graph is captured: what fails there would be remembered of the backend."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("the first call on a GPU can't be captured in a CUDA graph: make one before")


def _index(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    return torch.cuda.current_device() if device.index is None else device.index


def _tensors_of(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among an operator's arguments, those of lists too."""
    for argument in arguments:
        among = argument if isinstance(argument, (list, tuple)) else [argument]
        yield from (each for each in among if isinstance(each, Tensor))


def _register_by_device() -> None:
    """`torch.ops.ckrm.*` on a GPU: the operators of the backend that `gpu_backend` picks."""
    for name in ops.SCHEMAS:

        def run(*arguments: Any, name: str = name) -> Any:
            tensors = list(_tensors_of(arguments))
            device = tensors[0].device
            backend = gpu_backend(_index(device), are_long(tensors))
            if backend == "reference":
                raise RuntimeError(f"torch.ops.ckrm.{name} has no kernels on {device}; use ckrm_kernels.reference")
            return getattr(getattr(torch.ops, f"ckrm_{backend}"), name)(*arguments)

        torch.library.impl(f"ckrm::{name}", "CUDA", run)


_register_by_device()

# A call that is being compiled keeps the answers instead of tracing into a build: what
# torch.compiler.assume_constant_result does, without its import of torch._dynamo.
for _constant in (has_kernels, why_not):
    vars(_constant)["_dynamo_marked_constant"] = True
