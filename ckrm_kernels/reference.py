"""The definition in plain PyTorch: what every kernel is checked against.

Works on any device and dtype, is differentiable, and holds at most one row of pairs in memory at a time:
O(F2 F1 K), never O(F2 F2 F1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def psi(x: Tensor, y: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    """psi(x, y) = |L|^alpha C^beta |S|^gamma of slices (equations 2, 5 and 6 of the paper).

    x, y: (..., K), broadcast against each other
    out: (...)
    """
    mu_x, z_x, sigma_x = _moments(x)
    mu_y, z_y, sigma_y = _moments(y)
    luminance = _ratio(2 * mu_x * mu_y + eps, mu_x.square() + mu_y.square() + eps)
    contrast = _ratio(2 * sigma_x * sigma_y + eps, sigma_x.square() + sigma_y.square() + eps)
    structure = _ratio((z_x * z_y).mean(-1) + eps, sigma_x * sigma_y + eps)
    return _abs_power(luminance, alpha) * _abs_power(contrast, beta) * _abs_power(structure, gamma)


def cross_psi(a: Tensor, b: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    """Psi of every filter of a with every filter of b: the mean of psi over the F1 slices (equation 7).

    a: (Na, F1, *K), b: (Nb, F1, *K)
    out: (Na, Nb)
    """
    a, b = _slices(a), _slices(b)
    rows = [_row(a[i : i + 1], b, alpha, beta, gamma, eps) for i in range(a.shape[0])]
    return torch.stack(rows) if rows else (a.flatten()[:0] + b.flatten()[:0]).view(0, b.shape[0])


def pairwise_psi(weight: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    """Omega, the Psi of all pairs i < j of filters, packed in the order of `torch.pdist` (equation 8).

    weight: (F2, F1, *K)
    out: (F2 (F2 - 1) / 2,)
    """
    w = _slices(weight)
    rows = [_row(w[i : i + 1], w[i + 1 :], alpha, beta, gamma, eps) for i in range(w.shape[0] - 1)]
    return torch.cat(rows) if rows else w.flatten()[:0]


def psi_of_pairs(
    weight: Tensor, pairs: Tensor, alpha: float, beta: float, gamma: float, eps: float, chunk: int = 1024
) -> Tensor:
    """Psi of the listed pairs of filters.

    weight: (F2, F1, *K), pairs: (P, 2) int64
    out: (P,)
    """
    w = _slices(weight)
    parts = [_row(w[part[:, 0]], w[part[:, 1]], alpha, beta, gamma, eps) for part in pairs.split(chunk)]
    return torch.cat(parts)


def psi_counts(weight: Tensor, edges: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    """Number of pairs by value: how many Psi lie in (-inf, e0], (e0, e1], ..., (e_last, inf), and how many are NaN.

    weight: (F2, F1, *K), edges: (E,) ascending
    out: (E + 2,) int64
    """
    w = _slices(weight.detach())
    edges = edges.to(w.dtype)
    counts = torch.zeros(edges.numel() + 2, dtype=torch.int64, device=w.device)
    for i in range(w.shape[0] - 1):
        omega = _row(w[i : i + 1], w[i + 1 :], alpha, beta, gamma, eps)
        interval = torch.where(omega.isnan(), edges.numel() + 1, torch.bucketize(omega, edges))
        counts += torch.bincount(interval, minlength=counts.numel())
    return counts


def _slices(weight: Tensor) -> Tensor:
    """(F2, F1, *K) -> (F2, F1, K), half types as float32."""
    w = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(-1)
    return w.float() if w.dtype in (torch.float16, torch.bfloat16) else w


def _row(a: Tensor, b: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    """Psi of broadcast filters (n, F1, K) -> (n,). Under autograd the row is recomputed in the backward pass.

    Not under torch.func's transforms, which take no checkpoints: there the rows are kept.
    """

    def mean_psi(a: Tensor, b: Tensor) -> Tensor:
        per_slice = psi(a, b, alpha, beta, gamma, eps)
        return per_slice.mean(-1) + _poison(a) + _poison(b)

    recompute = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if recompute and not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        run: Callable[..., Tensor] = checkpoint
        return run(mean_psi, a, b, use_reentrant=False, preserve_rng_state=False)
    return mean_psi(a, b)


def _poison(filters: Tensor) -> Tensor:
    """0 for finite filters, NaN for the others: NaN or Inf anywhere in a filter makes all its pairs NaN."""
    finite = filters.detach().isfinite().flatten(1).all(1)
    return torch.where(finite, 0.0, torch.nan).to(filters.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, centred values and population standard deviation; exact zeros for a constant slice.

    The gradient of sigma at sigma = 0 is taken as 0.
    """
    shifted = x - x[..., :1]
    mean_shift = shifted.mean(-1)
    centred = shifted - mean_shift.unsqueeze(-1)
    variance = centred.square().mean(-1)
    constant = variance == 0
    sigma = torch.where(constant, 0.0, torch.where(constant, 1.0, variance).sqrt())
    return x[..., 0] + mean_shift, centred, sigma


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 1 where the denominator is 0, or too small to be inverted: the limit as eps -> 0."""
    zero = denominator < 1 / torch.finfo(denominator.dtype).max
    return torch.where(zero, 1.0, numerator / torch.where(zero, 1.0, denominator))


def _abs_power(x: Tensor, exponent: float) -> Tensor:
    """|x|^exponent. At x = 0 the derivative is the limit from above if that is finite, else 0."""
    if exponent == 0:
        return x**0  # ones, whose gradient is zeros
    magnitude = torch.where(x >= 0, x, -x)
    if exponent == 1:
        return magnitude
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, magnitude) ** exponent)
