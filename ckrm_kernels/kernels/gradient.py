"""The gradient of Psi with respect to a bank's coordinates and moments, recomputing the terms instead of storing them.

With g the gradient of Psi (i, j), a similarity says what one pair of slices gives to each side:

    u to mu_i        d mu_i    = sum_j u
    w to sigma_i     d sigma_i = sum_j w
    a to cov         d z_i     = sum_j a z_j

Here sigma_i and z_i are taken as independent; finish_gradient_kernel adds d sigma_i z_i / sigma_i to d z_i.

A program owns rows i of one slice and visits all columns j: nothing is added from two programs, so that the result is
the same bits every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ckrm_kernels.kernels import tables
from ckrm_kernels.kernels.elementary import beside, constants_of, summand, tf32_parts
from ckrm_kernels.kernels.listed import (
    coordinates_of_slices,
    covariance_of_slices,
    load_coordinates_of_slices,
    load_moments_of_slices,
)
from ckrm_kernels.kernels.tables import LAYOUT
from ckrm_kernels.kernels.tiles import covariance_of_tile, load_moments


@triton.jit
def spread_gradient_kernel(
    grad, out, n, m, row_stride, column_stride, columns, PACKED: tl.constexpr, BLOCK: tl.constexpr
):
    """A gradient of Psi as (padded rows, padded columns), contiguous, with zeros where there is no pair.

    grad: (n, m) of any strides; where PACKED (n (n - 1) / 2,) of row_stride, which becomes symmetric; columns: of out
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    j = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    if PACKED:
        low, high = tl.minimum(i, j), tl.maximum(i, j)
        place = (low * (2 * n - low - 1) // 2 + (high - low - 1)) * row_stride
        inside = (high < n) & (i != j)
    else:
        place = i * row_stride + j * column_stride
        inside = (i < n) & (j < m)
    tl.store(out + i * columns + j, tl.load(grad + place, inside, other=0.0))


@triton.jit
def load_rows(buffer, at, rows, size):
    """(rows, 32): one step's coordinates, [high | low | low | high]; against `load_columns` their covariance."""
    d = tl.arange(0, 32)
    return tl.load(buffer + at + rows[:, None] * size + ((d + d // 16 * 8) % 16)[None, :])


@triton.jit
def load_columns(buffer, at, columns, size):
    """(32, columns): one step's coordinates, [high | low | high | low]."""
    d = tl.arange(0, 32)
    return tl.load(buffer + at + columns[None, :] * size + (d % 16)[:, None])


@triton.jit
def add_coordinates(of_z, a, buffer, at, size, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DOUBLE: tl.constexpr):
    """of_z plus a (rows, columns) times one step's coordinates of the columns.

    In float32 a is split in two tf32 numbers, and its columns are taken in the order in which no number of a has to
    leave the thread that computed it: tensor cores leave columns 2 q and 2 q + 1 where they read columns q and q + 4.
    """
    if DOUBLE:
        z = tl.load(buffer + at + tl.arange(0, COLUMNS)[:, None] * size + tl.arange(0, 8)[None, :])
        return of_z + tl.sum(a[:, :, None] * z[None, :, :], 1)
    else:
        place = tl.arange(0, 2 * COLUMNS)  # of [8 columns][odd or even][high or low][4 columns]
        column = place // 16 * 8 + place % 4 * 2 + place // 8 % 2
        z = tl.load(buffer + at + column[:, None] * size + tl.arange(0, 16)[None, :])
        high, low = tf32_parts(tl.reshape(a, [ROWS, COLUMNS // 8, 4, 2]))
        parts = tl.permute(tl.join(high, low), [0, 1, 3, 4, 2])
        product = tl.dot(tl.reshape(parts, [ROWS, 2 * COLUMNS]), z, input_precision="tf32")
        return of_z + summand(product)


@triton.jit
def tile_gradient_kernel(
    buffer,
    grad,
    of_buffer,
    banks,
    blocks,
    scalars,
    GRADIENT: tl.constexpr,
    KINDS: tl.constexpr,
    NUMBER: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """One block of rows, one slice, and of the coordinates one step of 8; the moments go with the first step.

    grad: of all banks, (padded rows, padded columns) each, zero where there is no pair
    of_buffer: see prepare.finish_gradient_kernel; banks, blocks: tables of GradientRow and BlockRow
    STEPS: see tiles.covariance_of_tile; STAGES: see tiles.sum_over_slices
    GRADIENT, KINDS: see arithmetic.Arithmetic; scalars: see constants_of
    """
    tl.static_assert(LAYOUT >= 0)  # see tables.py
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    width: tl.constexpr = 8 if DOUBLE else 16
    constants = constants_of(scalars, NUMBER, DOUBLE)
    own = blocks + tl.program_id(0).to(tl.int64) * tables.BLOCK_WIDTH
    bank = banks + tl.load(own + tables.BLOCK_BANK) * tables.GRADIENT_WIDTH
    block = tl.multiple_of(tl.load(own + tables.BLOCK_FIRST_FILTER), 16)
    k, own_step = tl.load(own + tables.BLOCK_SLICE), tl.load(own + tables.BLOCK_STEP).to(tl.int32)
    padded_rows = tl.multiple_of(tl.load(bank + tables.GRADIENT_PADDED).to(tl.int32), 16)
    padded_columns = tl.multiple_of(tl.load(bank + tables.GRADIENT_OTHER_PADDED).to(tl.int32), 16)
    steps = tl.load(bank + tables.GRADIENT_STEPS).to(tl.int32)
    row_size = width * STEPS if STEPS > 0 else tl.multiple_of(width * steps, 8)
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    row_coordinates, row_moments = tl.load(bank + tables.GRADIENT_COORDINATES), tl.load(bank + tables.GRADIENT_MOMENTS)
    column_coordinates = tl.load(bank + tables.GRADIENT_OTHER_COORDINATES)
    column_moments = tl.load(bank + tables.GRADIENT_OTHER_MOMENTS)
    rows_at = tl.multiple_of(row_coordinates + (k * padded_rows + block) * row_size, 8)
    columns_at = tl.multiple_of(column_coordinates + k * padded_columns * row_size, 8)
    row_moments_at = tl.multiple_of(row_moments + 4 * k * padded_rows + block, 16)
    column_moments_at = tl.multiple_of(column_moments + 4 * k * padded_columns, 16)
    grad_at = tl.multiple_of(tl.load(bank + tables.GRADIENT_OF_PSI) + block * padded_columns, 16)
    of_mu = tl.zeros([ROWS, COLUMNS], dtype)
    of_sigma = tl.zeros([ROWS, COLUMNS], dtype)
    of_z = tl.zeros([ROWS, width], dtype)
    row = load_moments(buffer, row_moments_at, rows[:, None], padded_rows)
    if STEPS == 1 and not DOUBLE:
        z_i = load_rows(buffer, rows_at, rows, row_size)
    for _ in tl.range(0, padded_columns, COLUMNS, num_stages=STAGES):
        column = load_moments(buffer, column_moments_at, columns[None, :], padded_columns)
        g = tl.load(grad + grad_at + rows[:, None] * padded_columns + columns[None, :]).to(dtype)
        if STEPS == 1 and not DOUBLE:
            z_j = load_columns(buffer, columns_at, columns, row_size)
            cov = tl.dot(z_i, z_j, tl.zeros([ROWS, COLUMNS], dtype) + constants[1], input_precision="tf32")
        else:
            cov = covariance_of_tile(
                buffer, rows_at, columns_at, rows, columns, row_size, steps, constants[1], STEPS, ROWS, COLUMNS, DOUBLE
            )
        u, w, a = GRADIENT(beside(g, cov), row, column, cov, constants, KINDS)
        of_mu += u
        of_sigma += w
        if STEPS != 0:
            of_z = add_coordinates(of_z, a, buffer, columns_at + own_step * width, row_size, ROWS, COLUMNS, DOUBLE)
        columns_at += COLUMNS * row_size
        column_moments_at += COLUMNS
        grad_at += COLUMNS
    if own_step == 0:
        target = of_buffer + row_moments_at + rows
        tl.store(target, tl.sum(of_mu, 1))
        tl.store(target + 2 * padded_rows, tl.sum(of_sigma, 1))
    if STEPS != 0:
        target = of_buffer + rows_at + rows[:, None] * row_size + own_step * width + tl.arange(0, width)[None, :]
        tl.store(target, of_z)


@triton.jit
def listed_gradient_kernel(
    buffer,
    grad,
    others,
    starts,
    of_buffer,
    filters,
    slices,
    steps,
    place,
    scalars,
    GRADIENT: tl.constexpr,
    KINDS: tl.constexpr,
    NUMBER: tl.constexpr,
    SLICES: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """One filter, SLICES of its slices and one step of 8 coordinates; visits the pairs that the filter is in.

    others, grad: (2 P,) the other filter of each, by filter, and the gradient of its Psi; starts: (F2 + 1,)
    of_buffer: see prepare.finish_gradient_kernel; place: of the bank in the buffer, see listed.listed_kernel
    GRADIENT, KINDS: see arithmetic.Arithmetic; scalars: see constants_of
    """
    padded, _, moments = place
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    width: tl.constexpr = 8 if DOUBLE else 16
    constants = constants_of(scalars, NUMBER, DOUBLE)
    i, own_step = tl.program_id(0).to(tl.int64), tl.program_id(2)
    k = tl.program_id(1).to(tl.int64) * SLICES + tl.arange(0, SLICES)
    present = k < slices
    row = load_moments_of_slices(buffer, place, i, k, present)
    i_at = coordinates_of_slices(place, i, k, steps, DOUBLE)
    of_mu, of_sigma = tl.zeros([SLICES], dtype), tl.zeros([SLICES], dtype)
    of_z = tl.zeros([SLICES, 8], dtype)
    for entry in range(tl.load(starts + i), tl.load(starts + i + 1)):
        j, g = tl.load(others + entry), tl.load(grad + entry).to(dtype)
        valid = (j >= 0) & (j < filters)  # else the pair's Psi is NaN
        g, j = tl.where(valid, g, float("nan")), tl.where(valid, j, 0)
        column = load_moments_of_slices(buffer, place, j, k, present)
        j_at = coordinates_of_slices(place, j, k, steps, DOUBLE)
        cov = covariance_of_slices(buffer, i_at, j_at, steps, constants[1], present, DOUBLE, SLICES)
        u, w, a = GRADIENT(g, row, column, cov, constants, KINDS)
        of_mu += u
        of_sigma += w
        if steps > 0:
            of_z += a[:, None] * load_coordinates_of_slices(buffer, j_at + own_step * width, present, DOUBLE)
    if own_step == 0:
        target = of_buffer + moments + 4 * k * padded + i
        tl.store(target, of_mu, present)
        tl.store(target + 2 * padded, of_sigma, present)
    if steps > 0:
        c = tl.arange(0, 8)
        target = of_buffer + i_at[:, None] + own_step * width + c[None, :]
        tl.store(target, of_z, present[:, None])
        if not DOUBLE:
            tl.store(target + 8, tl.zeros([SLICES, 8], dtype), present[:, None])
