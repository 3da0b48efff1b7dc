"""Psi of listed pairs of filters: a vector of slices of either filter at a time, instead of tiles of filters."""

from __future__ import annotations

import triton
import triton.language as tl

from ckrm_kernels.kernels.elementary import constants_of


@triton.jit
def load_moments_of_slices(buffer, place, i, k, present):
    """What a similarity takes of slices k of filters i; 1 where there is none. place: see listed_kernel."""
    padded, _, moments = place
    at = buffer + (moments + 4 * k * padded + i)
    mu, half_mu2 = tl.load(at, present, other=1.0), tl.load(at + padded, present, other=1.0)
    return mu, half_mu2, tl.load(at + 2 * padded, present, other=1.0), tl.load(at + 3 * padded, present, other=1.0)


@triton.jit
def coordinates_of_slices(place, i, k, steps, DOUBLE: tl.constexpr):
    """Where the coordinates of slices k of filters i start in the buffer. place: see listed_kernel."""
    padded, coordinates, _ = place
    width: tl.constexpr = 8 if DOUBLE else 16
    return coordinates + (k * padded + i) * steps * width


@triton.jit
def load_coordinates_of_slices(buffer, at, present, DOUBLE: tl.constexpr):
    """(slices, 8): one step's coordinates, which start at `at`; 0 where there is none."""
    c = tl.arange(0, 8)
    z = tl.load(buffer + at[:, None] + c[None, :], present[:, None], other=0.0)
    if not DOUBLE:
        z += tl.load(buffer + at[:, None] + 8 + c[None, :], present[:, None], other=0.0)
    return z


@triton.jit
def covariance_of_slices(buffer, i_at, j_at, steps, added, present, DOUBLE: tl.constexpr, SLICES: tl.constexpr):
    """(SLICES,): covariance of slices i with slices j, plus what is added to it."""
    width: tl.constexpr = 8 if DOUBLE else 16
    cov = tl.zeros([SLICES], tl.float64 if DOUBLE else tl.float32) + added
    for step in range(steps):
        x = load_coordinates_of_slices(buffer, i_at + step * width, present, DOUBLE)
        y = load_coordinates_of_slices(buffer, j_at + step * width, present, DOUBLE)
        cov += tl.sum(x * y, 1)
    return cov


@triton.jit
def listed_kernel(
    buffer,
    pairs,
    out,
    count,
    filters,
    slices,
    steps,
    place,
    scalars,
    TERM: tl.constexpr,
    KINDS: tl.constexpr,
    NUMBER: tl.constexpr,
    PAIRS: tl.constexpr,
    SLICES: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """Psi of PAIRS pairs; SLICES slices of each at a time. A pair outside the bank becomes NaN.

    pairs: (count, 2) int64, contiguous
    place: of the bank in the buffer, its (padded, coordinates, moments), see plan.Place
    TERM, KINDS: see arithmetic.Arithmetic; scalars: see constants_of
    """
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    constants = constants_of(scalars, NUMBER, DOUBLE)
    index = tl.arange(0, PAIRS * SLICES)
    pair = tl.program_id(0).to(tl.int64) * PAIRS + index // SLICES
    i = tl.load(pairs + 2 * pair, pair < count, other=0)
    j = tl.load(pairs + 2 * pair + 1, pair < count, other=0)
    valid = (i >= 0) & (i < filters) & (j >= 0) & (j < filters)
    sums = tl.zeros([PAIRS * SLICES], dtype)
    for start in range(0, slices, SLICES):
        k = start + (index % SLICES).to(tl.int64)
        present = (k < slices) & valid
        row = load_moments_of_slices(buffer, place, i, k, present)
        column = load_moments_of_slices(buffer, place, j, k, present)
        i_at = coordinates_of_slices(place, i, k, steps, DOUBLE)
        j_at = coordinates_of_slices(place, j, k, steps, DOUBLE)
        cov = covariance_of_slices(buffer, i_at, j_at, steps, constants[1], present, DOUBLE, PAIRS * SLICES)
        of_pair = TERM(row, column, cov, constants, KINDS)
        sums += tl.where(present, of_pair, 0.0)
    sums = tl.where(valid, sums, float("nan"))
    total = tl.sum(tl.reshape(sums, [PAIRS, SLICES]), 1) / tl.cast(slices, dtype)
    pair = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    tl.store(out + pair, total, pair < count)
