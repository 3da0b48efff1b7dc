"""The arithmetic of one term, as Triton device functions.

Approximate instructions (lg2, ex2, rcp .approx.ftz, within 2 units in the last place) make a term's cost the three
special-function instructions that it needs. Triton reaches them through inline assembly only, which its interpreter
can't run: there, and for float64, every function has a plain form.

What several functions take:
    row, column: the moments of slices i and j, (mu, mu^2 / 2 + eps / 4, sigma, sigma^2 / 2 + eps / 4). The sums of the
        halves are half of the denominators of L and C: halved, exactly, so that no factor of 2 is left
    constants: (eps, alpha, beta, gamma)
    KINDS: how luminance, contrast and structure enter the product, each ZERO, ONE, POWER or SHARED
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction


@triton.jit
def _probe():
    pass


# Whether kernels run in Triton's interpreter, on the CPU: TRITON_INTERPRET=1 when this was imported.
INTERPRETED = isinstance(_probe, InterpretedFunction)
_APPROXIMATE = tl.constexpr(not INTERPRETED)

# How a factor of psi enters the product, by its exponent; known when a kernel is compiled.
ZERO = tl.constexpr(0)  # 0: it is dropped
ONE = tl.constexpr(1)  # 1: it is multiplied
POWER = tl.constexpr(2)  # any other
SHARED = tl.constexpr(3)  # of structure: POWER, with the exponent of contrast, so that one logarithm serves both

# Counts as 0 in |L|^(alpha - 1), which stays finite in float32 so. |L| is this small only where its numerator cancels.
_SMALLEST_BASE = tl.constexpr(2.0**-100)
# The inverse of the largest float64: a smaller denominator counts as 0.
_SMALLEST_DENOMINATOR = tl.constexpr(2.0**-1024)


@triton.jit
def log2(x):
    """The logarithm to base 2."""
    if _APPROXIMATE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.log2(x)


@triton.jit
def log2_abs(x):
    """log2 |x|"""
    if _APPROXIMATE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise(
            "{.reg .f32 t; abs.ftz.f32 t, $1; lg2.approx.ftz.f32 $0, t;}",
            "=f,f",
            [x],
            tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        return tl.log2(tl.abs(x))


@triton.jit
def exp2(x):
    """2^x"""
    if _APPROXIMATE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.exp2(x)


@triton.jit
def reciprocal(x):
    """1 / x"""
    if _APPROXIMATE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return 1.0 / x


@triton.jit
def times_abs(x, y):
    """x |y|"""
    if _APPROXIMATE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise(
            "{.reg .f32 t; abs.ftz.f32 t, $2; mul.ftz.f32 $0, $1, t;}",
            "=f,f,f",
            [x, y],
            tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        return x * tl.abs(y)


@triton.jit
def ratio_or_one(numerator, denominator):
    """numerator / denominator, and the limit 1 of 0 / 0. For float64, where no eps keeps a denominator from 0."""
    zero = denominator < _SMALLEST_DENOMINATOR
    return tl.where(zero, 1.0, numerator / tl.where(zero, 1.0, denominator))


@triton.jit
def inverse_or_zero(x):
    """1 / x, and 0 where x is 0."""
    zero = x < _SMALLEST_DENOMINATOR
    return tl.where(zero, 0.0, 1.0 / tl.where(zero, 1.0, x))


@triton.jit
def constants_of_psi(scalars, DOUBLE: tl.constexpr):
    """eps, alpha, beta and gamma. scalars: (eps, alpha, beta, gamma, scale) as float32; where DOUBLE, (5,) float64."""
    if DOUBLE:
        return tl.load(scalars), tl.load(scalars + 1), tl.load(scalars + 2), tl.load(scalars + 3)
    else:
        return scalars[0], scalars[1], scalars[2], scalars[3]


@triton.jit
def scale_of_weights(scalars, DOUBLE: tl.constexpr):
    """What every number of a weight is multiplied by: a power of two. scalars: see `constants_of_psi`."""
    if DOUBLE:
        return tl.load(scalars + 4)
    else:
        return scalars[4]


@triton.jit
def luminance_of_means(mu_i, mu_j, half_mu2, eps):
    """L with its sign, and the inverse of half its denominator, half_mu2."""
    numerator = mu_i * mu_j + eps * 0.5
    if numerator.dtype == tl.float64:
        return ratio_or_one(numerator, half_mu2), inverse_or_zero(half_mu2)
    else:
        inverse = reciprocal(half_mu2)
        return numerator * inverse, inverse


@triton.jit
def factors(row, column, cov_plus_eps, eps):
    """L with its sign, C, S with its sign, and the inverses of half the denominators of L and C and of that of S.

    In float32 one reciprocal serves all three.
    """
    mu_i, half_mu2_i, sigma_i, half_var_i = row
    mu_j, half_mu2_j, sigma_j, half_var_j = column
    half_mu2, half_var = half_mu2_i + half_mu2_j, half_var_i + half_var_j
    numerator_l = mu_i * mu_j + eps * 0.5
    denominator_s = sigma_i * sigma_j + eps
    numerator_c = denominator_s - eps * 0.5
    if cov_plus_eps.dtype == tl.float64:
        inverse_l = inverse_or_zero(half_mu2)
        inverse_c = inverse_or_zero(half_var)
        inverse_s = inverse_or_zero(denominator_s)
        luminance = ratio_or_one(numerator_l, half_mu2)
        contrast = ratio_or_one(numerator_c, half_var)
        structure = ratio_or_one(cov_plus_eps, denominator_s)
    else:
        denominator_cs = half_var * denominator_s
        r = reciprocal(half_mu2 * denominator_cs)
        inverse_cs = half_mu2 * r
        inverse_l = denominator_cs * r
        inverse_c = denominator_s * inverse_cs
        inverse_s = half_var * inverse_cs
        luminance = numerator_l * inverse_l
        contrast = numerator_c * inverse_c
        structure = cov_plus_eps * inverse_s
    return luminance, contrast, structure, inverse_l, inverse_c, inverse_s


@triton.jit
def power(x, exponent, KIND: tl.constexpr):
    """|x|^exponent; a plain 1 where the exponent is 0."""
    if KIND == 0:
        return 1.0
    elif KIND == 1:
        return tl.abs(x)
    else:
        return exp2(exponent * log2_abs(x))


@triton.jit
def slope(x, exponent, KIND: tl.constexpr):
    """|x|^(exponent - 1) for an exponent above 0; at x = 0 the limit from above if that is finite, else 0."""
    if KIND == 1:
        return 1.0
    else:
        size = tl.abs(x)
        smallest: tl.constexpr = _SMALLEST_BASE if x.dtype == tl.float32 else 0.0
        return tl.where(size <= smallest, 0.0, exp2((exponent - 1.0) * log2(size)))


@triton.jit
def slope_and_power(x, exponent, KIND: tl.constexpr):
    """`slope`, 0 where the exponent is 0, and `power`, from one logarithm."""
    if KIND == 0:
        return 0.0, 1.0
    else:
        of_power = slope(x, exponent, KIND)
        return of_power, of_power * tl.abs(x)


@triton.jit
def with_sign_of(x, sign):
    """x, or -x where sign is negative."""
    if x.dtype == tl.float32:
        negative = sign.to(tl.int32, bitcast=True) & -2147483648
        return (x.to(tl.int32, bitcast=True) ^ negative).to(tl.float32, bitcast=True)
    else:
        return tl.where(sign < 0.0, -x, x)


@triton.jit
def psi_of_means(row, column, constants, KINDS: tl.constexpr):
    """psi of two slices of one number, K = 1, where C = S = 1."""
    mu_i, half_mu2_i, _, _ = row
    mu_j, half_mu2_j, _, _ = column
    eps, alpha, _, _ = constants
    if KINDS[0] == 0:
        return mu_i * mu_j * 0.0 + 1.0
    else:
        luminance, _ = luminance_of_means(mu_i, mu_j, half_mu2_i + half_mu2_j, eps)
        return power(luminance, alpha, KINDS[0])


@triton.jit
def psi(row, column, cov_plus_eps, constants, KINDS: tl.constexpr):
    """|L|^alpha C^beta |S|^gamma of two slices; NaN where a slice's moments are."""
    LUMINANCE: tl.constexpr = KINDS[0]
    CONTRAST: tl.constexpr = KINDS[1]
    STRUCTURE: tl.constexpr = KINDS[2]
    mu_i, half_mu2_i, sigma_i, half_var_i = row
    mu_j, half_mu2_j, sigma_j, half_var_j = column
    eps, alpha, beta, gamma = constants
    if LUMINANCE == 0 and CONTRAST == 0 and STRUCTURE == 0:
        return mu_i * mu_j * 0.0 + 1.0
    elif cov_plus_eps.dtype == tl.float32 and CONTRAST == 1 and STRUCTURE == 1:
        # C and S in one product: fewer multiplications than by the factors apart
        denominator_s = sigma_i * sigma_j + eps
        denominator_cs = (half_var_i + half_var_j) * denominator_s
        numerator_c = denominator_s - eps * 0.5
        if LUMINANCE == 0:
            return times_abs(numerator_c * reciprocal(denominator_cs), cov_plus_eps)
        else:
            half_mu2 = half_mu2_i + half_mu2_j
            r = reciprocal(half_mu2 * denominator_cs)
            luminance = (mu_i * mu_j + eps * 0.5) * (denominator_cs * r)
            return power(luminance, alpha, LUMINANCE) * times_abs(numerator_c * (half_mu2 * r), cov_plus_eps)
    else:
        luminance, contrast, structure, _, _, _ = factors(row, column, cov_plus_eps, eps)
        of_luminance = power(luminance, alpha, LUMINANCE)
        if STRUCTURE == 3:
            return of_luminance * power(contrast * structure, beta, CONTRAST)
        else:
            return of_luminance * (power(contrast, beta, CONTRAST) * power(structure, gamma, STRUCTURE))


@triton.jit
def gradient_of_means(g, row, column, constants, KINDS: tl.constexpr):
    """u / alpha of gradient.py, for K = 1."""
    mu_i, half_mu2_i, _, _ = row
    mu_j, half_mu2_j, _, _ = column
    eps, alpha, _, _ = constants
    luminance, inverse = luminance_of_means(mu_i, mu_j, half_mu2_i + half_mu2_j, eps)
    if KINDS[0] == 0:
        return luminance * 0.0
    else:
        by_luminance = with_sign_of(g, luminance) * slope(luminance, alpha, KINDS[0]) * inverse
        return by_luminance * (mu_j - luminance * mu_i)


@triton.jit
def _gradient_of_products(g, row, column, cov_plus_eps, constants, LUMINANCE: tl.constexpr):
    """`gradient` for beta = gamma = 1, in fewer operations.

    g meets the covariance first: so it is converted to the layout of tensor cores, and nothing is computed in two.
    """
    mu_i, half_mu2_i, sigma_i, half_var_i = row
    mu_j, half_mu2_j, sigma_j, half_var_j = column
    eps, alpha, _, _ = constants
    half_mu2, half_var = half_mu2_i + half_mu2_j, half_var_i + half_var_j
    half_eps = eps * 0.5
    denominator_s = sigma_i * sigma_j + eps
    denominator_cs = half_var * denominator_s
    if LUMINANCE == 0:
        inverse_cs = reciprocal(denominator_cs)
    else:
        r = reciprocal(half_mu2 * denominator_cs)
        inverse_cs, inverse_l = half_mu2 * r, denominator_cs * r
    by_cov = (denominator_s - half_eps) * inverse_cs  # C over the denominator of S
    if LUMINANCE == 0:
        g_l = with_sign_of(g, cov_plus_eps)
        of_mu = by_cov * 0.0
    else:
        luminance = (mu_i * mu_j + half_eps) * inverse_l
        by_luminance = with_sign_of(g, luminance * cov_plus_eps) * slope(luminance, alpha, LUMINANCE)
        g_l = by_luminance * luminance
        of_mu = by_luminance * (by_cov * cov_plus_eps) * inverse_l * (mu_j - luminance * mu_i)
    inverse_s = half_var * inverse_cs  # times eps / 2: 1 - numerator of C / denominator of S, without its cancellation
    by_sigma = inverse_s * (half_eps * sigma_j) - by_cov * denominator_s * sigma_i
    return of_mu, g_l * cov_plus_eps * inverse_cs * by_sigma, g_l * by_cov


@triton.jit
def _gradient_of_factors(g, row, column, cov_plus_eps, constants, KINDS: tl.constexpr):
    """`gradient` for any exponents."""
    LUMINANCE: tl.constexpr = KINDS[0]
    CONTRAST: tl.constexpr = KINDS[1]
    STRUCTURE: tl.constexpr = KINDS[2]
    mu_i, _, sigma_i, _ = row
    mu_j, _, sigma_j, _ = column
    eps, alpha, beta, gamma = constants
    luminance, contrast, structure, inverse_l, inverse_c, inverse_s = factors(row, column, cov_plus_eps, eps)
    slope_l, power_l = slope_and_power(luminance, alpha, LUMINANCE)
    slope_c, power_c = slope_and_power(contrast, beta, CONTRAST)
    slope_s, power_s = slope_and_power(structure, gamma, STRUCTURE)
    of_mu, of_sigma, of_cov = luminance * 0.0, luminance * 0.0, luminance * 0.0
    g_s = g * power_s
    if LUMINANCE != 0:
        of_mu = with_sign_of(g_s, luminance) * slope_l * power_c * inverse_l * (mu_j - luminance * mu_i)
    if CONTRAST != 0:
        by_contrast = g_s * power_l * slope_c * inverse_c
        if CONTRAST != 1:
            by_contrast *= beta
        of_sigma = by_contrast * (sigma_j - contrast * sigma_i)
    if STRUCTURE != 0:
        of_cov = with_sign_of(g, structure) * slope_s * power_l * power_c * inverse_s
        if STRUCTURE != 1:
            of_cov *= gamma
        of_sigma -= of_cov * structure * sigma_j
    return of_mu, of_sigma, of_cov


@triton.jit
def gradient(g, row, column, cov_plus_eps, constants, KINDS: tl.constexpr):
    """u / alpha, w and A of gradient.py: what mu_i, sigma_i and the covariance get from one slice of a pair."""
    if cov_plus_eps.dtype == tl.float32 and KINDS[1] == 1 and KINDS[2] == 1:
        return _gradient_of_products(g, row, column, cov_plus_eps, constants, KINDS[0])
    else:
        return _gradient_of_factors(g, row, column, cov_plus_eps, constants, KINDS)


@triton.jit
def tf32_parts(x):
    """x as the sum of two numbers, exactly, of which a tensor core reads all bits but the last few of the second.

    Not pure, so that the compiler converts the parts to the layout of a dot product instead of computing x anew in it.
    """
    if _APPROXIMATE:
        return tl.inline_asm_elementwise(
            "{and.b32 $0, $2, 0xffffe000; sub.f32 $1, $2, $0;}",
            "=&f,=f,f",
            [x],
            (tl.float32, tl.float32),
            is_pure=False,
            pack=1,
        )
    else:
        high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        return high, x - high


@triton.jit
def summand(product):
    """The result of a dot product, to be added outside of the tensor cores, which cut off the sums that they add to.

    Otherwise the compiler would make the sum the dot product's own: a long one would shrink.
    """
    if _APPROXIMATE and product.dtype == tl.float32:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [product], tl.float32, is_pure=True, pack=1)
    else:
        return product
