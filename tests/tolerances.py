"""How far a kernel may be from the float64 reference: a table by dtype, and an allowance where psi is ill-conditioned.

The table holds wherever psi is well-conditioned. |L|^alpha with alpha < 1 is not near L = 0 (nor |S|^gamma with
gamma < 1 near S = 0): there a rounding of the numerator, which nearly cancels, moves the power by orders of magnitude
more than itself. So every slice gets the width of the interval that psi, or a term of its gradient, can fall in when

* the mean, the deviations and the standard deviation are within 4 epsilons of the compute dtype of their exact values,
  plus the rounding of K float64 additions (their absolute size: a mean that nearly cancels has few relative digits);
* each sum (2 mx my + eps, sxy + eps, the denominators) is within 4 epsilons of the sum of its absolute terms.

Away from cancellation the interval is a few epsilons wide. Where it holds the pole of |L|^(alpha - 1), the gradient has
no digits at all: its allowance is infinite, and the test only asks for a finite number. The sign of S, where signed,
may be either one where the interval of S holds 0.

The cosine is well-conditioned: <x, y> and its terms are at most |x| |y|, so no value has an allowance. Its gradient
(y / |y| - cos x / |x|) / |x| is a difference of vectors of length at most 1: it is off by epsilons of 1 / |x|, and by
twice itself where the sign of the cosine, if that is not kept, may be either one.
"""

from __future__ import annotations

import torch
from definition import Psi
from torch import Tensor

from ckrm_kernels.similarity import Similarity

PSI = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 1e-5, torch.bfloat16: 1e-5}
GRADIENT = {torch.float32: 1e-4, torch.float64: 1e-10, torch.float16: 1e-4, torch.bfloat16: 1e-4}

Compared = Psi | Similarity
_Factor = tuple[Tensor, Tensor]  # a magnitude and how far it may be off


def assert_psi_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, allowance: Tensor | float = 0.0) -> None:
    """actual: Psi from a kernel on weights of dtype; expected: float64; allowance: of `psi_allowance`, same shape."""
    _assert_close(actual, expected, PSI[dtype] + allowance)


def assert_gradient_close(
    actual: Tensor, expected: Tensor, dtype: torch.dtype, allowance: Tensor | float = 0.0
) -> None:
    """actual: a gradient of dtype; expected: float64; tolerance: relative to the largest finite expected magnitude."""
    assert actual.dtype == dtype
    if expected.numel() == 0:
        assert actual.shape == expected.shape
        return
    info = torch.finfo(dtype)
    # float32 arithmetic flushes powers below 2^-126, which then miss in products with slopes of up to 2^40
    flushed = 0.0 if dtype == torch.float64 else 2.0**-86
    tolerance = GRADIENT[dtype] * expected.abs().max() + allowance + flushed
    stored = (expected.abs() + tolerance) * info.eps / 2 + info.tiny * info.eps  # rounded to the weight's dtype
    overflows = (actual.isinf()) & (expected * actual.sign() + tolerance + stored > info.max)
    _assert_close(torch.where(overflows, expected, actual.double()), expected, tolerance + stored)


def psi_allowance(a: Tensor, b: Tensor, psi: Compared, dtype: torch.dtype) -> Tensor:
    """How far every Psi(i, j) may be off. a: (Na, F1, *K), b: (Nb, F1, *K), dtype: the kernel's; out: (Na, Nb)."""
    x, y = _slices(a), _slices(b)
    if _name(psi) == "cosine":
        return x.new_zeros(len(x), len(y))
    rows = [_interval(part[:, None], y[None], psi, dtype).mean(-1) for part in x.split(_rows_at_once(y))]
    return torch.cat([x.new_zeros(0, len(y)), *rows])


def gradient_allowance(a: Tensor, b: Tensor, grad: Tensor, psi: Compared, dtype: torch.dtype) -> Tensor:
    """How far the gradient of sum(grad * Psi) in a may be off. grad: (Na, Nb); out: a's shape."""
    x, y = _slices(a), _slices(b)
    at_once = _rows_at_once(y)
    interval = {"psi": _gradient_interval, "cosine": _cosine_gradient_interval}[_name(psi)]
    rows = []
    for part, weights in zip(x.split(at_once), grad.double().abs().split(at_once), strict=True):
        error = interval(part[:, None], y[None], psi, dtype)
        weights = weights[..., None, None]
        rows.append(torch.where(weights > 0, error * weights, 0.0).sum(1) / x.shape[1])
    return torch.cat([x.new_zeros(0, *x.shape[1:]), *rows]).view(a.shape)


def _name(psi: Compared) -> str:
    return psi.arguments[0]


def _rows_at_once(y: Tensor) -> int:
    return max(1, 2**19 // max(1, y.numel()))


def packed_to_square(packed: Tensor, filters: int) -> Tensor:
    """(N (N - 1) / 2,) as a symmetric matrix (N, N) with zeros on the diagonal."""
    square = packed.new_zeros(filters, filters)
    i, j = torch.triu_indices(filters, filters, 1)
    square[i, j] = packed
    return square + square.T


def _assert_close(actual: Tensor, expected: Tensor, tolerance: Tensor) -> None:
    assert actual.shape == expected.shape
    actual = actual.double()
    both_nan = actual.isnan() & expected.isnan()
    off = torch.where(both_nan, 0.0, (actual - expected).abs())
    wrong = ~both_nan & ~((off <= tolerance) & actual.isfinite())
    if wrong.any():
        tolerance = torch.as_tensor(tolerance, dtype=torch.float64).expand_as(off)
        worst = torch.where(wrong, (off / tolerance).nan_to_num(torch.inf), 0.0).argmax()
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} off; worst at flat index {int(worst)}: got "
            f"{actual.flatten()[worst]:.9g}, expected {expected.flatten()[worst]:.9g}, "
            f"tolerance {tolerance.flatten()[worst]:.3g}"
        )


def _slices(weight: Tensor) -> Tensor:
    return weight.detach().double().reshape(*weight.shape[:2], weight.shape[2:].numel())


def _epsilons(dtype: torch.dtype) -> float:
    return 4 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps


class _Moments:
    """Mean, deviations and standard deviation of slices (n, F1, K), each with how far a kernel's may be off."""

    def __init__(self, x: Tensor, dtype: torch.dtype) -> None:
        shifted = x - x[..., :1]
        self.mean = x[..., 0] + shifted.mean(-1)
        self.deviation = shifted - shifted.mean(-1, keepdim=True)
        self.sigma = self.deviation.square().mean(-1).sqrt()
        sums = (x.shape[-1] + 1) * 2**-53 * x.abs().mean(-1)
        varies = self.sigma > 0  # constant slices are exact: their deviations are zeros
        self.mean_off = _epsilons(dtype) * self.mean.abs() + sums
        self.sigma_off = torch.where(varies, _epsilons(dtype) * self.sigma + sums, 0.0)
        self.deviation_off = _epsilons(dtype) * self.deviation.abs() + torch.where(varies, sums, 0.0)[..., None]


class _Ratio:
    """|numerator / denominator| with its uncertainty; 1 where the denominator is 0 or too small to be inverted."""

    def __init__(self, numerator: Tensor, numerator_off: Tensor, denominator: Tensor, denominator_off: Tensor) -> None:
        self.zero = denominator < 1 / torch.finfo(denominator.dtype).max
        self.denominator = torch.where(self.zero, 1.0, denominator)
        self.denominator_off = denominator_off
        self.signed = torch.where(self.zero, 1.0, numerator / self.denominator)
        self.value = self.signed.abs()
        self.off = torch.where(self.zero, 0.0, (numerator_off + self.value * denominator_off) / self.denominator)

    def over(self, value: Tensor, off: Tensor) -> _Factor:
        """value / denominator, 0 where the denominator is."""
        value = torch.where(self.zero, 0.0, value / self.denominator)
        return value, torch.where(self.zero, 0.0, (off + value * self.denominator_off) / self.denominator)


def _ratios(x: _Moments, y: _Moments, psi: Compared, dtype: torch.dtype) -> tuple[_Ratio, _Ratio, _Ratio]:
    rounding, eps = _epsilons(dtype), psi.eps

    def similarity(p: Tensor, p_off: Tensor, q: Tensor, q_off: Tensor) -> _Ratio:
        product, squares = 2 * p * q, p**2 + q**2 + eps
        product_off = 2 * (p.abs() * q_off + q.abs() * p_off) + rounding * (product.abs() + eps)
        squares_off = 2 * (p.abs() * p_off + q.abs() * q_off) + rounding * squares
        return _Ratio(product + eps, product_off, squares, squares_off)

    luminance = similarity(x.mean, x.mean_off, y.mean, y.mean_off)
    contrast = similarity(x.sigma, x.sigma_off, y.sigma, y.sigma_off)
    covariance = (x.deviation * y.deviation).mean(-1)
    sigmas = x.sigma * y.sigma
    sigmas_off = x.sigma * y.sigma_off + y.sigma * x.sigma_off + rounding * (sigmas + eps)
    structure = _Ratio(covariance + eps, sigmas_off, sigmas + eps, sigmas_off)
    return luminance, contrast, structure


def _interval(x: Tensor, y: Tensor, psi: Compared, dtype: torch.dtype) -> Tensor:
    """How far psi(x, y) may be off, (n, F1)."""
    ratios = _ratios(_Moments(x, dtype), _Moments(y, dtype), psi, dtype)
    return _product(*_powers(ratios, psi))[1].clamp(max=2.0 if psi.signed else 1.0)


def _gradient_interval(x: Tensor, y: Tensor, psi: Compared, dtype: torch.dtype) -> Tensor:
    """How far d psi(x, y) / dx may be off, (n, F1, K): the sum over its four terms."""
    mx, my = _Moments(x, dtype), _Moments(y, dtype)
    luminance, contrast, structure = _ratios(mx, my, psi, dtype)
    ratios = (luminance, contrast, structure)
    power = _powers(ratios, psi)
    slope = [_slope(r.value, r.off, p) for r, p in zip(ratios, (psi.alpha, psi.beta), strict=False)]
    slope.append(_slope(structure.value, structure.off, psi.gamma, keeps_sign=psi.signed))

    def pull(r: _Ratio, p: Tensor, p_off: Tensor, q: Tensor, q_off: Tensor) -> _Factor:
        """2 (q - r p) / denominator: the derivative of a similarity of p and q in p."""
        off = q_off + r.off * p.abs() + r.value * p_off + _epsilons(dtype) * (q.abs() + r.value * p.abs())
        return r.over(2 * (q - r.signed * p).abs(), 2 * off)

    sigma = torch.where(mx.sigma > 0, mx.sigma, 1.0)[..., None]
    unit = torch.where(mx.sigma[..., None] > 0, mx.deviation.abs() / sigma, 0.0)
    unit_off = torch.where(mx.sigma[..., None] > 0, (mx.deviation_off + unit * mx.sigma_off[..., None]) / sigma, 0.0)
    of_mean = _product(slope[0], power[1], power[2], pull(luminance, mx.mean, mx.mean_off, my.mean, my.mean_off))
    of_sigma = _product(power[0], slope[1], power[2], pull(contrast, mx.sigma, mx.sigma_off, my.sigma, my.sigma_off))
    s_over_sigma = structure.over(structure.value * my.sigma, structure.off * my.sigma + structure.value * my.sigma_off)
    of_scale = _product(power[0], power[1], slope[2], s_over_sigma)
    per_covariance = structure.over(torch.ones_like(my.sigma), torch.zeros_like(my.sigma))
    of_covariance = _product(power[0], power[1], slope[2], per_covariance)
    along = ((unit, unit_off), (my.deviation.abs(), my.deviation_off))
    terms = [
        (of_mean[0][..., None], of_mean[1][..., None]),
        _product(_column(of_sigma), along[0]),
        _product(_column(of_scale), along[0]),
        _product(_column(of_covariance), along[1]),
    ]
    total = sum(off + _epsilons(dtype) * value for value, off in terms)
    return torch.as_tensor(total).nan_to_num(nan=torch.inf, posinf=torch.inf) / x.shape[-1]


def _column(factor: _Factor) -> _Factor:
    return factor[0][..., None], factor[1][..., None]


def _product(*factors: _Factor) -> _Factor:
    value, high = torch.ones(()), torch.ones(())
    for v, off in factors:
        value, high = value.double() * v, high.double() * (v + off)
    return value, (high - value).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _powers(ratios: tuple[_Ratio, _Ratio, _Ratio], psi: Compared) -> list[_Factor]:
    """Those of L, C and S; the last may have either sign where it is kept and S may be on either side of 0."""
    exponents = (psi.alpha, psi.beta, psi.gamma)
    powers = [_power(r.value, r.off, exponent) for r, exponent in zip(ratios, exponents, strict=True)]
    structure, (value, off) = ratios[2], powers[2]
    either_sign = psi.signed & (structure.value <= structure.off) & (structure.off > 0)
    return [*powers[:2], (value, torch.where(either_sign, 2 * value + off, off))]


def _power(v: Tensor, off: Tensor, exponent: float) -> _Factor:
    """v^exponent for v >= 0."""
    value, low, high = v**exponent, (v - off).clamp(min=0) ** exponent, (v + off) ** exponent
    return value, torch.maximum(high - value, value - low)


def _slope(v: Tensor, off: Tensor, exponent: float, keeps_sign: bool = False) -> _Factor:
    """|d v^exponent / dv|; 0 at v = 0 if infinite.

    Its sign is open where v may be on either side of 0, unless the power keeps that of v.
    """
    if exponent == 0:
        return torch.zeros_like(v), torch.zeros_like(v)
    at_zero = (v == 0) if exponent < 1 else torch.zeros_like(v, dtype=torch.bool)
    value = torch.where(at_zero, 0.0, exponent * torch.where(at_zero, 1.0, v) ** (exponent - 1))
    low, high = (exponent * x ** (exponent - 1) for x in ((v - off).clamp(min=0), v + off))
    either_sign = torch.maximum(low, high) + value
    one_sign = torch.maximum((high - value).abs(), (value - low).abs())
    open_sign = (v <= off) & (not keeps_sign)
    return value, torch.where(off == 0, 0.0, torch.where(open_sign, either_sign, one_sign))


def _cosine_gradient_interval(x: Tensor, y: Tensor, cosine: Compared, dtype: torch.dtype) -> Tensor:
    """How far the gradient of the cosine in x may be off, (n, F1, K).

    The cosine is off by the moments and the norms of both sides, the product and the sum: six roundings, and those
    of K float64 additions in each. The gradient has two terms of that, and a quotient.
    """
    norms = x.norm(dim=-1) * y.norm(dim=-1)
    off = 6 * (_epsilons(dtype) + (x.shape[-1] + 1) * 2**-53)
    either_sign = (not cosine.signed) & ((x * y).sum(-1).abs() <= off * norms)
    of_unit = torch.where(norms > 0, 3 * off + 2.0 * either_sign, 0.0) / torch.where(norms > 0, x.norm(dim=-1), 1.0)
    return of_unit[..., None].expand(*norms.shape, x.shape[-1])
