"""The public functions on one weight: they check arguments, turn modules into filter banks and apply the layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from ckrm_kernels import ops
from ckrm_kernels.arrays import Array, as_tensor
from ckrm_kernels.backends import Backend, are_long, implementation
from ckrm_kernels.filters import Weight, are_finite, filter_banks
from ckrm_kernels.options import SimilarityOptions, resolve
from ckrm_kernels.sharded import gathered
from ckrm_kernels.similarity import Similarity

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def pairwise_psi(
    weight: Weight,
    *,
    layout: Literal["packed", "square"] = "packed",
    **options: Unpack[SimilarityOptions],
) -> Tensor:
    """Psi(i, j) of all pairs of filters: the mean over their slices of |L|^alpha C^beta |S|^gamma (equations 7, 8).

    Or of another similarity of slices, by the option of that name.

    weight: (F2, F1, *K) floating point, or a convolution, transposed convolution or linear module
    layout: "packed", the pairs i < j in the order of `torch.pdist`, or "square", symmetric with ones on the diagonal
    options: see `SimilarityOptions`
    out: (F2 (F2 - 1) / 2,) or (F2, F2), float32 (float64 for a float64 weight), differentiable; a grouped module
        compares within its groups and adds a leading dimension of their number (a depthwise one, whose groups hold
        one filter each, compares all its filters)
    Equivalent to `reference.pairwise_psi`. NaN or Inf in a filter makes exactly its pairs NaN.
    Raises TypeError or ValueError, naming it, for an argument that is not as above, RuntimeError for a backend that
    can't run on the weight's device, NotImplementedError for a derivative that only backend="reference" has (in forward
    mode, or by torch.func). So do all functions on weights.
    """
    if layout not in ("packed", "square"):
        raise ValueError(f'layout must be "packed" or "square", got {layout!r}')
    similarity, backend = resolve(options, "pairwise_psi", "layout")
    banks = checked_banks(weight, similarity.scale_free)
    results = [implementation(backend, bank).pairwise_psi(bank, similarity) for bank in banks]
    if layout == "square":
        results = [unpack(omega, bank.shape[0]) for omega, bank in zip(results, banks, strict=True)]
    return results[0] if len(results) == 1 else torch.stack(results)


def cross_psi(
    a: Tensor | Array,
    b: Tensor | Array,
    **options: Unpack[SimilarityOptions],
) -> Tensor:
    """Psi of every filter of a with every filter of b, such as one layer trained from two seeds.

    a: (Na, F1, *K), b: (Nb, F1, *K), of one dtype and device
    options: see `SimilarityOptions`; scale_free takes each by its own root mean square
    out: (Na, Nb), float32 (float64 for float64), differentiable in both
    Raises what `pairwise_psi` does, and ValueError or TypeError where a and b differ in their slices, dtype or device.
    """
    similarity, backend = resolve(options, "cross_psi")
    a, b = (checked_weight(gathered(as_tensor(each, name)), name) for each, name in ((a, "a"), (b, "b")))
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"a and b must have slices of one number and shape, got {tuple(a.shape[1:])} and {tuple(b.shape[1:])}"
        )
    if a.dtype != b.dtype:
        raise TypeError(f"a and b must have one dtype, got {a.dtype} and {b.dtype}")
    if a.device != b.device:
        raise ValueError(f"a and b must be on one device, got {a.device} and {b.device}")
    if similarity.scale_free:
        a, b = unit_scale(a), unit_scale(b)
    return implementation(backend, a, b).cross_psi(a, b, similarity)


def psi_of_pairs(
    weight: Weight,
    pairs: Tensor | Array,
    **options: Unpack[SimilarityOptions],
) -> Tensor:
    """Psi of the listed pairs of filters.

    weight: (F2, F1, *K) floating point, or a module that is not grouped
    pairs: (P, 2) int64, different filter indices in [0, F2), in any order
    options: see `SimilarityOptions`
    out: (P,), float32 (float64 for a float64 weight), differentiable in the weight
    Raises what `pairwise_psi` does, ValueError for a grouped module and for pairs that are not as above, IndexError for
    one of a filter that there is not. On a GPU that captures a graph, and under torch.compile, such a pair has a Psi of
    NaN.
    """
    similarity, backend = resolve(options, "psi_of_pairs")
    bank = only_bank(weight, similarity.scale_free)
    pairs = _checked_pairs(pairs, bank)
    return implementation(backend, bank).psi_of_pairs(bank, pairs, similarity)


def counts_of_banks(banks: Sequence[Tensor], edges: Tensor, similarity: Similarity, backend: Backend | None) -> Tensor:
    """Number of pairs of each of any number of filter banks whose Psi lies in each interval; never stores Omega.

    banks: checked, (F2, F1, *K) each, of any shapes, dtypes and devices; those of one dtype and device take one call;
        as they are, whatever similarity.scale_free
    edges: (E,) ascending
    out: (banks, E + 2) int64, on the device of the first bank, or of the edges where there is none: (-inf, e0],
        (e0, e1], ..., (e_last, inf), and the pairs that are NaN
    """
    if not banks:
        return edges.new_zeros(0, edges.numel() + 2, dtype=torch.int64)
    groups = _indices_by_call(banks)
    counts = []
    for indices in groups:
        group = [banks[index].detach() for index in indices]
        limits = edges.to(group[0].device, ops.result_dtype(group[0].dtype))
        counts.append(implementation(backend, *group).psi_counts(group, limits, similarity))
    if len(counts) == 1:
        return counts[0]
    order = torch.tensor([index for indices in groups for index in indices], device=banks[0].device)
    return torch.cat([found.to(banks[0].device) for found in counts])[order.argsort()]


def soft_redundancy_of_banks(
    banks: Sequence[Tensor],
    threshold: float | Sequence[Tensor],
    temperature: float,
    similarity: Similarity,
    backend: Backend | None,
) -> list[Tensor]:
    """`reference.soft_redundancy` of each of any number of filter banks; differentiable, never stores a term.

    banks: checked, (F2, F1, *K) each, of any shapes, dtypes and devices; those of one dtype and device take one call;
        as they are, whatever similarity.scale_free
    threshold: of all banks, or a scalar of each on its device
    out: scalars, float32 (float64 for a float64 bank), each on its bank's device
    """
    values: dict[int, Tensor] = {}
    for indices, group, thresholds in _soft_calls(banks, threshold):
        found = implementation(backend, *group).soft_redundancy(group, thresholds, temperature, similarity)
        values.update(zip(indices, found.unbind(0), strict=True))
    return [values[index] for index in range(len(banks))]


@torch.no_grad()
def soft_redundancy_of_banks_with_gradients(
    banks: Sequence[Tensor],
    threshold: float | Sequence[Tensor],
    temperature: float,
    similarity: Similarity,
    backend: Backend | None,
) -> list[tuple[Tensor, Tensor]]:
    """What `soft_redundancy_of_banks` gives for each bank, and its gradient, of one dtype: `ops.soft_gradient`."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for indices, group, thresholds in _soft_calls([bank.detach() for bank in banks], threshold):
        operators = implementation(backend, *group)
        values, gradients = operators.soft_redundancy_with_gradients(group, thresholds, temperature, similarity)
        found.update(zip(indices, zip(values.unbind(0), gradients, strict=True), strict=True))
    return [found[index] for index in range(len(banks))]


def _soft_calls(
    banks: Sequence[Tensor], threshold: float | Sequence[Tensor]
) -> Iterator[tuple[list[int], list[Tensor], Tensor]]:
    """The banks that one call takes: their indices, they and their thresholds."""
    for indices in _indices_by_call(banks):
        group = [banks[index] for index in indices]
        dtype = ops.result_dtype(group[0].dtype)
        if isinstance(threshold, float):
            yield indices, group, group[0].new_full((len(group),), threshold, dtype=dtype)
        else:
            yield indices, group, torch.stack([threshold[index].to(dtype) for index in indices])


def _indices_by_call(banks: Sequence[Tensor]) -> list[list[int]]:
    """The banks, by their indices, that one call of an operator takes: of one dtype and device.

    Slices too long for a backend must not keep the other banks from it.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, bank in enumerate(banks):
        groups.setdefault((bank.device, bank.dtype, are_long([bank])), []).append(index)
    return list(groups.values())


def unpack(omega: Tensor, filters: int) -> Tensor:
    """Packed Omega (N (N - 1) / 2,) as the symmetric matrix (N, N) with ones on the diagonal."""
    i, j = torch.triu_indices(filters, filters, 1, device=omega.device)
    upper = omega.new_zeros(filters, filters).index_put((i, j), omega)
    return upper + upper.T + torch.eye(filters, dtype=omega.dtype, device=omega.device)


def only_bank(weight: Weight, scale_free: bool) -> Tensor:
    """The single filter bank of a weight or module, checked; raises ValueError for a grouped module."""
    banks = checked_banks(weight, scale_free)
    if len(banks) != 1:
        raise ValueError(f"weight has {len(banks)} groups of filters: pass one group's weight")
    return banks[0]


def checked_banks(source: Weight, scale_free: bool) -> Sequence[Tensor]:
    """The filter banks of a weight or module, checked; scale_free: over the root mean square of them all."""
    banks = [checked_weight(bank, "weight") for bank in filter_banks(source)]
    if not scale_free:
        return banks
    return [unit_scale(banks[0])] if len(banks) == 1 else list(unit_scale(torch.stack(banks)).unbind(0))


def checked_weight(weight: Tensor | Array, name: str) -> Tensor:
    """The weight itself; raises TypeError or ValueError, naming it, unless it is a dense filter bank."""
    weight = as_tensor(weight, name)
    if weight.layout != torch.strided or weight.is_quantized or weight.is_nested:
        kind = "quantized" if weight.is_quantized else "nested" if weight.is_nested else str(weight.layout)
        raise TypeError(f"{name} must be a dense tensor, got a {kind} one: convert it first (to_dense, dequantize)")
    if weight.dtype not in _DTYPES:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {weight.dtype}")
    if weight.dim() < 2:
        raise ValueError(f"{name} must have the shape (F2, F1, *K), got {tuple(weight.shape)}")
    if 0 in weight.shape[1:] and weight.shape[0] > 0:
        raise ValueError(f"{name} has filters without slices: shape {tuple(weight.shape)}")
    return weight


def _checked_pairs(pairs: Tensor | Array, weight: Tensor) -> Tensor:
    if not isinstance(pairs, (Tensor, Array)):
        raise ValueError(f"pairs must be an int64 tensor of shape (P, 2), got {type(pairs).__name__}")
    pairs = as_tensor(pairs, "pairs")
    if pairs.dtype != torch.int64 or pairs.dim() != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs must be an int64 tensor of shape (P, 2), got {pairs.dtype} {tuple(pairs.shape)}")
    if pairs.device != weight.device:
        raise ValueError(f"pairs must be on the weight's device {weight.device}, got {pairs.device}")
    if torch.compiler.is_compiling() or pairs.is_meta or pairs.numel() == 0:
        return pairs
    if pairs.is_cuda and torch.cuda.is_current_stream_capturing():  # the kernels give NaN for a pair out of range
        return pairs
    low, high = pairs.aminmax()
    if low < 0 or high >= weight.shape[0]:
        raise IndexError(f"pairs must index filters 0 to {weight.shape[0] - 1}, got {int(low)} to {int(high)}")
    if bool((pairs[:, 0] == pairs[:, 1]).any()):
        raise ValueError("pairs must name two different filters each, got one filter twice")
    return pairs


def all_finite(values: Tensor) -> bool:
    """Whether none of the values is NaN or Inf."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())  # no sum of NaN or Inf is finite


def not_finite(banks: Sequence[Tensor]) -> list[int]:
    """Which filters hold NaN or Inf, counted through all banks (F2, F1, *K)."""
    if all(map(all_finite, banks)):
        return []
    bad: list[int] = (~torch.cat([are_finite(bank) for bank in banks])).nonzero().flatten().tolist()
    return bad


def unit_scale(weight: Tensor) -> Tensor:
    """The weight over the root mean square of its finite values; float32 for half types."""
    weight = weight.to(ops.result_dtype(weight.dtype))
    finite = weight.isfinite()
    known = torch.where(finite, weight, 0)
    peak = known.abs().amax() if weight.numel() else weight.new_ones(())
    peak = _or_one(peak).detach()  # over which the squares neither overflow nor vanish
    mean_square = (known / peak).square().sum() / finite.sum().clamp(min=1)
    return weight / peak / _or_one(mean_square).sqrt()


class OverScale(NamedTuple):
    """Banks over their root mean square, which is the product of their largest value and `scale`."""

    banks: list[Tensor]
    peak: Tensor
    scale: Tensor


def over_scale(banks: Sequence[Tensor]) -> OverScale:
    """`unit_scale` of finite banks of one shape together, bit for bit, in the memory of its result; no autograd."""
    dtype = ops.result_dtype(banks[0].dtype)
    if len(banks) == 1:  # in its order, which is that of the sum
        together = torch.empty_like(banks[0], dtype=dtype).unsqueeze(0)
    else:
        together = torch.empty((len(banks), *banks[0].shape), dtype=dtype, device=banks[0].device)
    own = together.unbind(0)
    for each, bank in zip(own, banks, strict=True):
        each.copy_(bank)
    peak = torch.stack(together.aminmax()).abs().amax() if together.numel() else together.new_ones(())
    peak = _or_one(peak)
    mean_square = together.div_(peak).square_().sum() / max(together.numel(), 1)
    scale = _or_one(mean_square).sqrt()
    for each, bank in zip(own, banks, strict=True):
        each.copy_(bank)
    together.div_(peak).div_(scale)
    return OverScale(list(own), peak, scale)


def _or_one(value: Tensor) -> Tensor:
    """A scalar of numbers that are not negative; 1 where it is 0."""
    return torch.where(value > 0, value, 1)
