"""The cosine of two slices that are not centred, <x, y> / (|x| |y|), its absolute value unless signed.

In coordinates, <x, y> / K = cov + mu_i mu_j and |x|^2 / K = mu^2 + sigma^2. In float32 a slice whose root mean square
is below about 1e-19 counts as zero, below about 1e-16 it has lost digits, and above about 1e19 it counts as not finite.

What the device functions take:
    row, column: of slices i and j, (mu, 1 / norm, sigma, nothing), the norm being the root mean square; 0 for 1 / 0
    constants: (scale, what covariances have added to them), 1 and 0
    KINDS: whether the sign is kept
"""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from ckrm_kernels.kernels.arithmetic import Compiled
from ckrm_kernels.kernels.elementary import with_sign_of

# Beyond, a product of two norms could overflow float32: such a slice counts as not finite.
_LARGEST_SQUARE = tl.constexpr(2.0**126)
_SMALLEST_SQUARE = tl.constexpr(2.0**-126)


def compiled(double: bool, signed: bool, parameters: list[float]) -> Compiled:
    """How the cosine is compiled: it takes no parameters, and the scale of weights does not matter."""
    return Compiled(double, (1.0, 0.0), (int(signed),))


@triton.jit
def of_slice(mu, variance, constants):
    """What a slice has beside mu and sigma, and whether it counts as not finite."""
    square = mu * mu + variance
    zero = square < _SMALLEST_SQUARE if mu.dtype == tl.float32 else square == 0.0
    inverse = tl.where(zero, 0.0, 1.0 / tl.sqrt(tl.where(zero, 1.0, square)))
    if mu.dtype == tl.float32:
        return inverse, tl.zeros_like(mu), ~(square <= _LARGEST_SQUARE)
    else:
        return inverse, tl.zeros_like(mu), ~(square < float("inf"))


@triton.jit
def term(row, column, cov, constants, KINDS: tl.constexpr):
    """The cosine of two slices; NaN where a slice's moments are."""
    mu_i, inverse_i, _, _ = row
    mu_j, inverse_j, _, _ = column
    cosine = (cov + mu_i * mu_j) * (inverse_i * inverse_j)
    return cosine if KINDS[0] else tl.abs(cosine)


@triton.jit
def term_of_numbers(row, column, cov, constants, KINDS: tl.constexpr):
    """`term` of two slices of one number, K = 1, where cov = 0."""
    return term(row, column, cov, constants, KINDS)


@triton.jit
def gradient(g, row, column, cov, constants, KINDS: tl.constexpr):
    """What mu_i, sigma_i and the covariance get of g, the gradient of `term`."""
    mu_i, inverse_i, sigma_i, _ = row
    mu_j, inverse_j, _, _ = column
    inverse = inverse_i * inverse_j
    cosine = (cov + mu_i * mu_j) * inverse
    if not KINDS[0]:
        g = with_sign_of(g, cosine)
    of_product = g * inverse
    of_square = g * cosine * inverse_i
    return of_product * mu_j - of_square * (inverse_i * mu_i), of_square * (-inverse_i * sigma_i), of_product


@triton.jit
def gradient_of_numbers(g, row, column, cov, constants, KINDS: tl.constexpr):
    """`gradient` for K = 1, where the cosine is a sign: zeros, and NaN where a slice's moments are."""
    mu_i, inverse_i, _, _ = row
    mu_j, inverse_j, _, _ = column
    none = tl.zeros_like(g)
    return (mu_i * inverse_i + mu_j * inverse_j) * 0.0 + none, none, none
