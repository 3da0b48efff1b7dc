"""Psi of listed pairs of filters, and its gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from ckrm_kernels.kernels import term


@triton.jit
def load_coordinates(buffer, at, present, DOUBLE: tl.constexpr):
    """(rows, 8): one step's coordinates of the slices that start at `at`."""
    c = tl.arange(0, 8)
    z = tl.load(buffer + at[:, None] + c[None, :], present[:, None], other=0.0)
    if not DOUBLE:
        z += tl.load(buffer + at[:, None] + 8 + c[None, :], present[:, None], other=0.0)
    return z


@triton.jit
def covariance_of_slices(buffer, i_at, j_at, steps, eps, present, DOUBLE: tl.constexpr, BLOCK: tl.constexpr):
    """(BLOCK,): covariance plus eps of slices i with slices j."""
    width: tl.constexpr = 8 if DOUBLE else 16
    cov = tl.zeros([BLOCK], tl.float64 if DOUBLE else tl.float32) + eps
    for step in range(steps):
        x = load_coordinates(buffer, i_at + step * width, present, DOUBLE)
        y = load_coordinates(buffer, j_at + step * width, present, DOUBLE)
        cov += tl.sum(x * y, 1)
    return cov


@triton.jit
def load_moments(buffer, at, padded, present):
    """The moments of slices, as term.py takes them; 1 where there is none."""
    at = buffer + at
    mu, half_mu2 = tl.load(at, present, other=1.0), tl.load(at + padded, present, other=1.0)
    return mu, half_mu2, tl.load(at + 2 * padded, present, other=1.0), tl.load(at + 3 * padded, present, other=1.0)


@triton.jit
def pairs_kernel(
    buffer,
    pairs,
    out,
    count,
    filters,
    slices,
    padded,
    steps,
    coordinates,
    moments,
    parameters,
    eps,
    alpha,
    beta,
    gamma,
    KINDS: tl.constexpr,
    PAIRS: tl.constexpr,
    SLICES: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """Psi of PAIRS pairs; SLICES slices of each at a time. A pair outside the bank becomes NaN.

    pairs: (count, 2) int64, contiguous; coordinates, moments: the bank's place in the buffer
    """
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    width: tl.constexpr = 8 if DOUBLE else 16
    constants = term.constants_of_psi(parameters, eps, alpha, beta, gamma, DOUBLE)
    eps, _, _, _ = constants
    index = tl.arange(0, PAIRS * SLICES)
    pair = tl.program_id(0).to(tl.int64) * PAIRS + index // SLICES
    i = tl.load(pairs + 2 * pair, pair < count, other=0)
    j = tl.load(pairs + 2 * pair + 1, pair < count, other=0)
    valid = (i >= 0) & (i < filters) & (j >= 0) & (j < filters)
    sums = tl.zeros([PAIRS * SLICES], dtype)
    for start in range(0, slices, SLICES):
        k = start + (index % SLICES).to(tl.int64)
        present = (k < slices) & valid
        row = load_moments(buffer, moments + 4 * k * padded + i, padded, present)
        column = load_moments(buffer, moments + 4 * k * padded + j, padded, present)
        i_at = coordinates + (k * padded + i) * steps * width
        j_at = coordinates + (k * padded + j) * steps * width
        cov = covariance_of_slices(buffer, i_at, j_at, steps, eps, present, DOUBLE, PAIRS * SLICES)
        of_pair = term.psi(row, column, cov, constants, KINDS)
        sums += tl.where(present, of_pair, 0.0)
    sums = tl.where(valid, sums, float("nan"))
    total = tl.sum(tl.reshape(sums, [PAIRS, SLICES]), 1) / tl.cast(slices, dtype)
    pair = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    tl.store(out + pair, total, pair < count)
