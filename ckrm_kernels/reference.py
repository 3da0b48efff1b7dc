"""The definition in plain PyTorch, over all pairs and over lists: what every kernel is checked against.

Works on any device and dtype, is differentiable, and holds at most one row of pairs in memory at a time:
O(F2 F1 K), never O(F2 F2 F1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ckrm_kernels.similarity import Similarity


def cross_psi(a: Tensor, b: Tensor, similarity: Similarity) -> Tensor:
    """Psi of every filter of a with every filter of b: the mean over the F1 slices (equation 7).

    a: (Na, F1, *K), b: (Nb, F1, *K)
    out: (Na, Nb)
    """
    a, b = _slices(a), _slices(b)
    rows = [_row(a[i : i + 1], b, similarity) for i in range(a.shape[0])]
    return torch.stack(rows) if rows else (a.flatten()[:0] + b.flatten()[:0]).view(0, b.shape[0])


def pairwise_psi(weight: Tensor, similarity: Similarity) -> Tensor:
    """Omega, the Psi of all pairs i < j of filters, packed in the order of `torch.pdist` (equation 8).

    weight: (F2, F1, *K)
    out: (F2 (F2 - 1) / 2,)
    """
    w = _slices(weight)
    rows = [_row(w[i : i + 1], w[i + 1 :], similarity) for i in range(w.shape[0] - 1)]
    return torch.cat(rows) if rows else w.flatten()[:0]


def psi_of_pairs(weight: Tensor, pairs: Tensor, similarity: Similarity, chunk: int = 1024) -> Tensor:
    """Psi of the listed pairs of filters.

    weight: (F2, F1, *K), pairs: (P, 2) int64
    out: (P,)
    """
    w = _slices(weight)
    parts = [_row(w[part[:, 0]], w[part[:, 1]], similarity) for part in pairs.split(chunk)]
    return torch.cat(parts)


def psi_counts(weight: Tensor, edges: Tensor, similarity: Similarity) -> Tensor:
    """Number of pairs by value: how many Psi lie in (-inf, e0], (e0, e1], ..., (e_last, inf), and how many are NaN.

    weight: (F2, F1, *K), edges: (E,) ascending
    out: (E + 2,) int64
    """
    w = _slices(weight.detach())
    edges = edges.to(w.dtype)
    counts = torch.zeros(edges.numel() + 2, dtype=torch.int64, device=w.device)
    for i in range(w.shape[0] - 1):
        omega = _row(w[i : i + 1], w[i + 1 :], similarity)
        interval = torch.where(omega.isnan(), edges.numel() + 1, torch.bucketize(omega, edges))
        counts += torch.bincount(interval, minlength=counts.numel())
    return counts


def soft_redundancy(weight: Tensor, threshold: Tensor, temperature: float, similarity: Similarity) -> Tensor:
    """The mean over all pairs of sigmoid((Psi - threshold) / temperature), which goes to lambda^threshold as the
    temperature goes to 0; 0 where there is no pair.

    weight: (F2, F1, *K), threshold: ()
    out: ()
    """
    omega = pairwise_psi(weight, similarity)
    return ((omega - threshold) / temperature).sigmoid().sum() / max(omega.numel(), 1)


def _slices(weight: Tensor) -> Tensor:
    """(F2, F1, *K) -> (F2, F1, K), half types as float32."""
    w = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(-1)
    return w.float() if w.dtype in (torch.float16, torch.bfloat16) else w


def _row(a: Tensor, b: Tensor, similarity: Similarity) -> Tensor:
    """Psi of broadcast filters (n, F1, K) -> (n,). Under autograd the row is recomputed in the backward pass.

    Not under torch.func's transforms, which take no checkpoints: there the rows are kept.
    """

    def mean_over_slices(a: Tensor, b: Tensor) -> Tensor:
        return similarity.of_slices(a, b).mean(-1) + _poison(a) + _poison(b)

    recompute = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if recompute and not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        run: Callable[..., Tensor] = checkpoint
        return run(mean_over_slices, a, b, use_reentrant=False, preserve_rng_state=False)
    return mean_over_slices(a, b)


def _poison(filters: Tensor) -> Tensor:
    """0 for finite filters, NaN for the others: NaN or Inf anywhere in a filter makes all its pairs NaN."""
    finite = filters.detach().isfinite().flatten(1).all(1)
    return torch.where(finite, 0.0, torch.nan).to(filters.dtype)
