"""Psi of two slices, |L|^alpha C^beta |S|^gamma, times the sign of S where signed, and its gradient.

What the device functions take:
    row, column: of slices i and j, (mu, mu^2 / 2 + eps / 4, sigma, sigma^2 / 2 + eps / 4). The sums of the halves are
        half of the denominators of L and C: halved, exactly, so that no factor of 2 is left
    cov: the covariance plus eps, the numerator of S
    constants: (scale, eps, alpha, beta, gamma)
    KINDS: how luminance, contrast and structure enter the product, each _ZERO, _ONE, _POWER or _SHARED, and whether
        the sign of S is kept

Each factor is a quotient N / D, whose differential is (dN - N / D dD) / D. With g the gradient of psi, P = g psi, and
the denominators D_L = (mu_i^2 + mu_j^2 + eps) / 2, D_C alike in sigma, and D_S = sigma_i sigma_j + eps:

    dP / dmu_i    = alpha P / L (mu_j - L mu_i) / D_L
    dP / dsigma_i = beta P / C (sigma_j - C sigma_i) / D_C - dP / dcov S sigma_j
    dP / dcov     = gamma P / S / D_S
"""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math

import triton
import triton.language as tl

from ckrm_kernels.kernels.arithmetic import Compiled
from ckrm_kernels.kernels.elementary import (
    inverse_or_zero,
    power,
    product_of_powers,
    ratio_or_one,
    reciprocal,
    slope,
    slope_and_power,
    times,
    with_sign_of,
)

# How a factor of psi enters the product, by its exponent; known when a kernel is compiled.
_ZERO = 0  # 0: it is dropped
_ONE = 1  # 1: it is multiplied
_POWER = 2  # any other
_SHARED = 3  # of structure: _POWER, with the exponent of contrast, so that one logarithm serves both

_SMALLEST_EPS = 2.0**-64  # below, float32 arithmetic would hold small weights only
# Beyond, the product of three denominators could overflow float32: such a slice counts as not finite.
_LARGEST_SQUARE = tl.constexpr(2.0**40)


def compiled(double: bool, signed: bool, parameters: list[float]) -> Compiled:
    """How psi is compiled. psi(c x, c y; c^2 eps) = psi(x, y; eps).

    float64 arithmetic, for float64 weights and an eps that is 0 or nearly; in float32 the scale c puts eps c^2 / 2 into
    [2^-40, 2^-38), so that the reciprocal that three denominators share neither overflows nor vanishes.
    """
    alpha, beta, gamma, eps = parameters
    double = double or eps < _SMALLEST_EPS
    scale = _scale(double, eps)
    luminance, contrast, structure = _kind(alpha), _kind(beta), _kind(gamma)
    if contrast == structure == _POWER and beta == gamma:
        structure = _SHARED
    constants = (scale, eps * scale * scale, alpha, beta, gamma)
    return Compiled(double, constants, (luminance, contrast, structure, int(signed)))


def _scale(double: bool, eps: float) -> float:
    if double:
        return 2.0**150 if 0 < eps < 2.0**-900 else 1.0
    return float(2.0 ** math.ceil((-39 - math.log2(eps)) / 2))


def _kind(exponent: float) -> int:
    return {0.0: _ZERO, 1.0: _ONE}.get(exponent, _POWER)


@triton.jit
def of_slice(mu, variance, constants):
    """What a slice has beside mu and sigma, and whether it counts as not finite."""
    _, eps, _, _, _ = constants
    half_mu2, half_var = 0.5 * mu * mu + eps * 0.25, 0.5 * variance + eps * 0.25
    if mu.dtype == tl.float64:
        return half_mu2, half_var, mu != mu
    else:
        return half_mu2, half_var, (half_mu2 > _LARGEST_SQUARE) | (half_var > _LARGEST_SQUARE)


@triton.jit
def term(row, column, cov, constants, KINDS: tl.constexpr):
    """psi of two slices; NaN where a slice's moments are."""
    LUMINANCE: tl.constexpr = KINDS[0]
    CONTRAST: tl.constexpr = KINDS[1]
    STRUCTURE: tl.constexpr = KINDS[2]
    SIGNED: tl.constexpr = KINDS[3]
    mu_i, half_mu2_i, sigma_i, half_var_i = row
    mu_j, half_mu2_j, sigma_j, half_var_j = column
    _, eps, alpha, beta, gamma = constants
    if cov.dtype == tl.float32 and CONTRAST == 1 and STRUCTURE == 1:
        # C and S in one product: fewer multiplications than by the factors apart
        denominator_s = sigma_i * sigma_j + eps
        denominator_cs = (half_var_i + half_var_j) * denominator_s
        numerator_c = denominator_s - eps * 0.5
        if LUMINANCE == 0:
            return times(numerator_c * reciprocal(denominator_cs), cov, SIGNED)
        else:
            half_mu2 = half_mu2_i + half_mu2_j
            r = reciprocal(half_mu2 * denominator_cs)
            luminance = (mu_i * mu_j + eps * 0.5) * (denominator_cs * r)
            of_luminance = power(luminance, alpha, LUMINANCE)
            return of_luminance * times(numerator_c * (half_mu2 * r), cov, SIGNED)
    else:
        luminance, contrast, structure, _, _, _ = _factors(row, column, cov, eps)
        if LUMINANCE == 0 and CONTRAST == 0 and STRUCTURE == 0:
            value = (mu_i + mu_j) * 0.0 + 1.0
        elif LUMINANCE == 2 and CONTRAST == 2 and STRUCTURE >= 2:
            value = product_of_powers(luminance, contrast, structure, alpha, beta, gamma)
        elif STRUCTURE == 3:
            value = power(luminance, alpha, LUMINANCE) * power(contrast * structure, beta, CONTRAST)
        else:
            of_others = power(contrast, beta, CONTRAST) * power(structure, gamma, STRUCTURE)
            value = power(luminance, alpha, LUMINANCE) * of_others
        if SIGNED:
            value = with_sign_of(value, structure)
        return value


@triton.jit
def term_of_numbers(row, column, cov, constants, KINDS: tl.constexpr):
    """`term` of two slices of one number, K = 1, where C = S = 1."""
    mu_i, half_mu2_i, _, _ = row
    mu_j, half_mu2_j, _, _ = column
    _, eps, alpha, _, _ = constants
    if KINDS[0] == 0:
        return (mu_i + mu_j) * 0.0 + 1.0
    else:
        luminance, _ = _luminance_of_means(mu_i, mu_j, half_mu2_i + half_mu2_j, eps)
        return power(luminance, alpha, KINDS[0])


@triton.jit
def _luminance_of_means(mu_i, mu_j, half_mu2, eps):
    """L with its sign, and the inverse of half its denominator, half_mu2."""
    numerator = mu_i * mu_j + eps * 0.5
    if numerator.dtype == tl.float64:
        return ratio_or_one(numerator, half_mu2), inverse_or_zero(half_mu2)
    else:
        inverse = reciprocal(half_mu2)
        return numerator * inverse, inverse


@triton.jit
def _factors(row, column, cov, eps):
    """L with its sign, C, S with its sign, and the inverses of half the denominators of L and C and of that of S.

    In float32 one reciprocal serves all three.
    """
    mu_i, half_mu2_i, sigma_i, half_var_i = row
    mu_j, half_mu2_j, sigma_j, half_var_j = column
    half_mu2, half_var = half_mu2_i + half_mu2_j, half_var_i + half_var_j
    numerator_l = mu_i * mu_j + eps * 0.5
    denominator_s = sigma_i * sigma_j + eps
    numerator_c = denominator_s - eps * 0.5
    if cov.dtype == tl.float64:
        inverse_l = inverse_or_zero(half_mu2)
        inverse_c = inverse_or_zero(half_var)
        inverse_s = inverse_or_zero(denominator_s)
        luminance = ratio_or_one(numerator_l, half_mu2)
        contrast = ratio_or_one(numerator_c, half_var)
        structure = ratio_or_one(cov, denominator_s)
    else:
        denominator_cs = half_var * denominator_s
        r = reciprocal(half_mu2 * denominator_cs)
        inverse_cs = half_mu2 * r
        inverse_l = denominator_cs * r
        inverse_c = denominator_s * inverse_cs
        inverse_s = half_var * inverse_cs
        luminance = numerator_l * inverse_l
        contrast = numerator_c * inverse_c
        structure = cov * inverse_s
    return luminance, contrast, structure, inverse_l, inverse_c, inverse_s


@triton.jit
def gradient(g, row, column, cov, constants, KINDS: tl.constexpr):
    """What mu_i, sigma_i and the covariance get of g, the gradient of `term`."""
    if cov.dtype == tl.float32 and KINDS[1] == 1 and KINDS[2] == 1:
        return _gradient_of_products(g, row, column, cov, constants, KINDS[0], KINDS[3])
    else:
        return _gradient_of_factors(g, row, column, cov, constants, KINDS)


@triton.jit
def gradient_of_numbers(g, row, column, cov, constants, KINDS: tl.constexpr):
    """`gradient` for K = 1."""
    mu_i, half_mu2_i, _, _ = row
    mu_j, half_mu2_j, _, _ = column
    _, eps, alpha, _, _ = constants
    luminance, inverse = _luminance_of_means(mu_i, mu_j, half_mu2_i + half_mu2_j, eps)
    none = tl.zeros_like(g)
    if KINDS[0] == 0:
        return luminance * 0.0, none, none
    else:
        by_luminance = with_sign_of(g, luminance) * slope(luminance, alpha, KINDS[0]) * inverse
        return by_luminance * _pull(mu_i, mu_j, luminance, alpha, KINDS[0]), none, none


@triton.jit
def _pull(mu_i, mu_j, luminance, alpha, LUMINANCE: tl.constexpr):
    """alpha (mu_j - L mu_i), multiplied before what differs from pair to pair."""
    if LUMINANCE == 1:
        return mu_j - luminance * mu_i
    else:
        return alpha * mu_j - luminance * (alpha * mu_i)


@triton.jit
def _gradient_of_products(g, row, column, cov, constants, LUMINANCE: tl.constexpr, SIGNED: tl.constexpr):
    """`gradient` for beta = gamma = 1, in fewer operations."""
    mu_i, half_mu2_i, sigma_i, half_var_i = row
    mu_j, half_mu2_j, sigma_j, half_var_j = column
    _, eps, alpha, _, _ = constants
    half_var, half_eps = half_var_i + half_var_j, eps * 0.5
    denominator_s = sigma_i * sigma_j + eps
    inverse_cs = reciprocal(half_var * denominator_s)
    by_cov = (denominator_s - half_eps) * inverse_cs  # C over the denominator of S
    if LUMINANCE == 0:
        g_l = g if SIGNED else with_sign_of(g, cov)
        of_mu = by_cov * 0.0
    else:
        inverse_l = reciprocal(half_mu2_i + half_mu2_j)  # of its own: not special functions, instructions are the limit
        luminance = (mu_i * mu_j + half_eps) * inverse_l
        sign = luminance if SIGNED else luminance * cov
        by_luminance = with_sign_of(g, sign) * slope(luminance, alpha, LUMINANCE)
        g_l = by_luminance * luminance
        pull = _pull(mu_i, mu_j, luminance, alpha, LUMINANCE)
        of_mu = by_luminance * (by_cov * cov) * inverse_l * pull
    inverse_s = half_var * inverse_cs  # times eps / 2: 1 - numerator of C / denominator of S, without its cancellation
    by_sigma = inverse_s * (half_eps * sigma_j) - by_cov * denominator_s * sigma_i
    return of_mu, g_l * cov * inverse_cs * by_sigma, g_l * by_cov


@triton.jit
def _gradient_of_factors(g, row, column, cov, constants, KINDS: tl.constexpr):
    """`gradient` for any exponents."""
    LUMINANCE: tl.constexpr = KINDS[0]
    CONTRAST: tl.constexpr = KINDS[1]
    STRUCTURE: tl.constexpr = KINDS[2]
    SIGNED: tl.constexpr = KINDS[3]
    mu_i, _, sigma_i, _ = row
    mu_j, _, sigma_j, _ = column
    _, eps, alpha, beta, gamma = constants
    luminance, contrast, structure, inverse_l, inverse_c, inverse_s = _factors(row, column, cov, eps)
    slope_l, power_l = slope_and_power(luminance, alpha, LUMINANCE)
    slope_c, power_c = slope_and_power(contrast, beta, CONTRAST)
    slope_s, power_s = slope_and_power(structure, gamma, STRUCTURE)
    of_mu, of_sigma, of_cov = luminance * 0.0, luminance * 0.0, luminance * 0.0
    signed_g = with_sign_of(g, structure)
    g_s = (signed_g if SIGNED else g) * power_s
    if LUMINANCE != 0:
        pull = _pull(mu_i, mu_j, luminance, alpha, LUMINANCE)
        of_mu = with_sign_of(g_s, luminance) * slope_l * power_c * inverse_l * pull
    if CONTRAST != 0:
        by_contrast = g_s * power_l * slope_c * inverse_c
        if CONTRAST != 1:
            by_contrast *= beta
        of_sigma = by_contrast * (sigma_j - contrast * sigma_i)
    if STRUCTURE != 0:
        of_cov = (g if SIGNED else signed_g) * slope_s * power_l * power_c * inverse_s
        if STRUCTURE != 1:
            of_cov *= gamma
        of_sigma -= of_cov * structure * sigma_j
    return of_mu, of_sigma, of_cov
