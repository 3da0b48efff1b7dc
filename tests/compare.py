"""The operators of a namespace (`ops`) against the float64 reference, forward and backward, from poisoned memory.

Of any similarity: `psi` is a `Similarity`, or the exponents and eps of psi.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tolerances import (
    PSI,
    Compared,
    assert_gradient_close,
    assert_psi_close,
    gradient_allowance,
    packed_to_square,
    psi_allowance,
)
from torch import Tensor

from ckrm_kernels import reference
from ckrm_kernels.ops import result_dtype
from ckrm_kernels.similarity import Similarity

ops = torch.ops.ckrm
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Whatever torch allocates without filling it holds NaN, or the largest integer."""
    fill, deterministic = (
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.are_deterministic_algorithms_enabled(),
    )
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(deterministic)


def assert_fresh(out: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """A contiguous result of its own, as the fake operators promise."""
    assert out.shape == shape
    assert out.dtype == dtype
    assert out.is_contiguous()


def expected_psi(w: Tensor, pairs: Tensor, psi: Compared) -> Tensor:
    """The reference on a list of pairs, many at once."""
    similarity = psi if isinstance(psi, Similarity) else Similarity("psi", *psi)
    return reference.psi_of_pairs(w, pairs, similarity, chunk=max(1, 2**19 // w.shape[1:].numel()))


def all_pairs(filters: int) -> Tensor:
    """(F2 (F2 - 1) / 2, 2) in packed order."""
    return torch.triu_indices(filters, filters, 1).T


def check_pairwise(w: Tensor, psi: Compared, grad: Tensor | None = None, ops: Any = ops) -> None:
    """w: (F2, F1, *K); grad: (F2 (F2 - 1) / 2,) of the result's dtype, random if None."""
    filters, dtype = w.shape[0], result_dtype(w.dtype)
    with poisoned():
        packed = ops.pairwise_psi(w, *psi.arguments)
    assert_fresh(packed, (filters * (filters - 1) // 2,), dtype)
    exact = w.detach().double().requires_grad_()
    i, j = all_pairs(filters).T
    expected = expected_psi(exact, all_pairs(filters), psi)
    assert_psi_close(packed, expected, w.dtype, psi_allowance(w, w, psi, w.dtype)[i, j])

    grad = torch.randn_like(packed) if grad is None else grad
    with poisoned():
        of_weight = ops.pairwise_psi_backward(grad, w, *psi.arguments)
    assert_fresh(of_weight, w.shape, w.dtype)
    (expected,) = torch.autograd.grad(expected, exact, grad.double())
    allowance = gradient_allowance(w, w, packed_to_square(grad.double(), filters), psi, w.dtype)
    assert_gradient_close(of_weight, expected, w.dtype, allowance)


def check_cross(a: Tensor, b: Tensor, psi: Compared, grad: Tensor | None = None, ops: Any = ops) -> None:
    """a: (Na, F1, *K), b: (Nb, F1, *K); grad: (Na, Nb) of the result's dtype, random if None."""
    with poisoned():
        square = ops.cross_psi(a, b, *psi.arguments)
    assert_fresh(square, (a.shape[0], b.shape[0]), result_dtype(a.dtype))
    exact = [t.detach().double().requires_grad_() for t in (a, b)]
    pairs = torch.cartesian_prod(torch.arange(a.shape[0]), a.shape[0] + torch.arange(b.shape[0]))
    expected = expected_psi(torch.cat(exact), pairs, psi).view(a.shape[0], b.shape[0])
    assert_psi_close(square, expected, a.dtype, psi_allowance(a, b, psi, a.dtype))

    grad = torch.randn_like(square) if grad is None else grad
    with poisoned():
        of_a, of_b = ops.cross_psi_backward(grad, a, b, *psi.arguments)
    expected = torch.autograd.grad(expected, exact, grad.double())
    for of, of_exact, x, y, g in ((of_a, expected[0], a, b, grad), (of_b, expected[1], b, a, grad.T)):
        assert_fresh(of, x.shape, x.dtype)
        assert_gradient_close(of, of_exact, x.dtype, gradient_allowance(x, y, g, psi, x.dtype))


def check_pairs(w: Tensor, pairs: Tensor, psi: Compared, grad: Tensor | None = None, ops: Any = ops) -> None:
    """w: (F2, F1, *K), pairs: (P, 2); grad: (P,) of the result's dtype, random if None."""
    filters = w.shape[0]
    with poisoned():
        listed = ops.psi_of_pairs(w, pairs, *psi.arguments)
    assert_fresh(listed, (pairs.shape[0],), result_dtype(w.dtype))
    exact = w.detach().double().requires_grad_()
    expected = expected_psi(exact, pairs, psi)
    i, j = pairs.unbind(1)
    assert_psi_close(listed, expected, w.dtype, psi_allowance(w, w, psi, w.dtype)[i, j])

    grad = torch.randn_like(listed) if grad is None else grad
    with poisoned():
        of_weight = ops.psi_of_pairs_backward(grad, w, pairs, *psi.arguments)
    assert_fresh(of_weight, w.shape, w.dtype)
    (expected,) = torch.autograd.grad(expected, exact, grad.double())
    weights = torch.zeros(filters, filters, dtype=torch.float64)
    weights.index_put_((torch.cat([i, j]), torch.cat([j, i])), grad.double().abs().repeat(2), accumulate=True)
    assert_gradient_close(of_weight, expected, w.dtype, gradient_allowance(w, w, weights, psi, w.dtype))


def check_counts(w: Tensor, edges: Tensor, psi: Compared, ops: Any = ops) -> None:
    """edges: (E,) ascending, of the result's dtype. The counts are exactly those of the operator's own Psi."""
    check_counts_of_banks([w], edges, psi, ops)


def check_counts_of_banks(banks: Sequence[Tensor], edges: Tensor, psi: Compared, ops: Any = ops) -> None:
    """banks: of one dtype, (F2, F1, *K) each. A bank's counts do not depend on the others."""
    with poisoned():
        counts = ops.psi_counts(banks, edges, *psi.arguments)
        packed = [ops.pairwise_psi(w, *psi.arguments) for w in banks]
    assert_fresh(counts, (len(banks), edges.shape[0] + 2), torch.int64)
    for w, omega, row in zip(banks, packed, counts, strict=True):
        _check_counts_of_one(w, omega, row, edges, psi)


def _check_counts_of_one(w: Tensor, packed: Tensor, counts: Tensor, edges: Tensor, psi: Compared) -> None:
    intervals = torch.where(packed.isnan(), edges.numel() + 1, torch.bucketize(packed, edges.contiguous()))
    assert counts.tolist() == torch.bincount(intervals, minlength=edges.numel() + 2).tolist()

    i, j = all_pairs(w.shape[0]).T
    expected = expected_psi(w.double(), all_pairs(w.shape[0]), psi)
    tolerance = PSI[w.dtype] + psi_allowance(w, w, psi, w.dtype)[i, j]
    for e, edge in enumerate(edges.double().tolist()):
        at_most = int(counts[: e + 1].sum())
        assert int((expected + tolerance <= edge).sum()) <= at_most <= int((expected - tolerance <= edge).sum())


def check_soft(banks: Sequence[Tensor], thresholds: Tensor, temperature: float, psi: Compared, ops: Any = ops) -> None:
    """banks: of one dtype, (F2, F1, *K) each; thresholds: (banks,) of the result's dtype."""
    with poisoned():
        values, gradients = ops.soft_redundancy(banks, thresholds, temperature, True, *psi.arguments)
        alone, none = ops.soft_redundancy(banks, thresholds, temperature, False, *psi.arguments)
    assert list(none) == []
    assert torch.equal(values.nan_to_num(-1), alone.nan_to_num(-1))
    assert_fresh(values, (len(banks),), thresholds.dtype)
    for w, threshold, value, gradient in zip(banks, thresholds.double(), values, gradients, strict=True):
        _check_soft_of_one(w, threshold, temperature, psi, value, gradient)


def _check_soft_of_one(
    w: Tensor, threshold: Tensor, temperature: float, psi: Compared, value: Tensor, gradient: Tensor
) -> None:
    """How far the sigmoid is off follows from how far Psi is, since sigmoid' <= 1/4."""
    filters, dtype, pairs = w.shape[0], w.dtype, all_pairs(w.shape[0])
    assert_fresh(gradient, w.shape, result_dtype(dtype))
    exact = w.detach().double().requires_grad_()
    omega = expected_psi(exact, pairs, psi)
    soft = ((omega - threshold) / temperature).sigmoid()
    expected = soft.sum() / max(len(pairs), 1)
    off = PSI[dtype] + psi_allowance(w, w, psi, dtype)[pairs[:, 0], pairs[:, 1]]
    allowed = (off / 4 / temperature).clamp(max=1).sum().item() / max(len(pairs), 1)
    assert (value.isnan() and expected.isnan()) or abs(value.item() - expected.item()) <= allowed
    (of_bank,) = torch.autograd.grad(expected, exact)
    slope = (soft * (1 - soft)).detach() / temperature / max(len(pairs), 1)
    allowance = gradient_allowance(w, w, packed_to_square(slope, filters), psi, dtype)
    assert_gradient_close(gradient, of_bank, result_dtype(dtype), allowance)


def degenerate_slices(dtype: torch.dtype) -> Tensor:
    """(11, 1, 4): zero, constant, repeated, flipped and uncorrelated slices, and means of exactly zero."""
    rows = [
        [0, 0, 0, 0],
        [1, 1, 1, 1],
        [-1, -1, -1, -1],
        [0.5, 0.5, 0.5, 0.5],
        [1, -1, 1, -1],
        [1, 1, -1, -1],
        [1, 2, 3, 4],
        [4, 3, 2, 1],
        [-1, -2, -3, -4],
        [1, 2, 3, 4],
        [1, 0, 0, 0],
    ]
    return torch.tensor(rows, dtype=dtype)[:, None]


def weight(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, scale: float = 0.1, seed: int = 0) -> Tensor:
    """Random filters; where there are enough, some repeat, some are flipped, constant or zero."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, dtype=torch.float64, generator=generator) * scale + 0.05 * scale
    if shape[0] >= 5:
        w[1], w[2] = w[0], -w[0]
        w[3, :1] = 0.3 * scale
        w[4, -1:] = 0
    return w.to(dtype)


def some_pairs(filters: int, count: int, seed: int = 0) -> Tensor:
    """(count, 2): any pairs of different filters."""
    generator = torch.Generator().manual_seed(seed)
    i = torch.randint(filters, (count,), generator=generator)
    step = torch.randint(1, filters, (count,), generator=generator)
    return torch.stack([i, (i + step) % filters], 1)


def mixed_banks(dtype: torch.dtype) -> list[Tensor]:
    """Banks of many shapes, none of which knows of the others: among them empty, strided and not finite ones."""
    shapes = [(7, 3, 7, 7), (66, 9, 3, 3), (0, 2, 3), (5, 2, 1), (1, 4, 3, 3), (6, 70), (8, 40, 3, 3), (4, 3, 2, 2, 2)]
    banks = [weight(shape, dtype, seed=index) for index, shape in enumerate(shapes)]
    channels_last = weight((9, 5, 3, 3), dtype).to(memory_format=torch.channels_last)
    spoilt = weight((6, 3, 3, 3), dtype)
    spoilt[2, 1, 0, 0], spoilt[4] = math.nan, math.inf
    return [*banks, channels_last, weight((9, 12), dtype).T[:, 1:8, None], spoilt]


def check_all(w: Tensor, psi: Compared, ops: Any = ops) -> None:
    """Every operator, forward and backward, on w (F2, F1, *K)."""
    check_pairwise(w, psi, ops=ops)
    check_cross(w[: w.shape[0] // 2 + 1], w[w.shape[0] // 3 :], psi, ops=ops)
    check_pairs(w, some_pairs(w.shape[0], 67), psi, ops=ops)
    check_counts(w, torch.tensor([0.1, 0.35, 0.6, 0.95], dtype=result_dtype(w.dtype)), psi, ops=ops)


def all_results(
    w: Tensor, pairs: Tensor, edges: Tensor, grads: Sequence[Tensor], psi: Compared, ops: Any = ops
) -> list[Tensor]:
    """What every operator gives on w; grads: of the packed pairs, of w x w and of the listed pairs."""
    with poisoned():
        return [
            ops.pairwise_psi(w, *psi.arguments),
            ops.cross_psi(w, w, *psi.arguments),
            ops.psi_of_pairs(w, pairs, *psi.arguments),
            ops.psi_counts([w], edges, *psi.arguments),
            ops.pairwise_psi_backward(grads[0], w, *psi.arguments),
            *ops.cross_psi_backward(grads[1], w, w, *psi.arguments),
            ops.psi_of_pairs_backward(grads[2], w, pairs, *psi.arguments),
        ]


def strided(w: Tensor) -> dict[str, Tensor]:
    """The same filters (F2, F1, 3, 3) in other memory."""
    buffer = torch.full((w.numel() + 1,), math.nan, dtype=w.dtype)
    buffer[1:] = w.flatten()
    return {
        "misaligned": buffer[1:].view(w.shape),
        "channels last": w.to(memory_format=torch.channels_last),
        "transposed": w.transpose(0, 1).contiguous().transpose(0, 1),
        "positions outermost": w.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "every second": torch.stack([w, torch.full_like(w, math.nan)], -1).flatten(-2)[..., ::2],
        "padded": torch.nn.functional.pad(w, (1, 1, 2, 1, 1, 0), value=math.nan)[:, 1:, 2:-1, 1:-1],
    }
