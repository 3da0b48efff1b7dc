"""From weights to what the pair loops read, and from their gradients back to a weight's.

A slice x becomes its mean mu, its standard deviation sigma and K - 1 coordinates of x - mu in an orthonormal basis
(Helmert's): z_q = (x_0 + ... + x_(q-1) - q x_q) / sqrt(q (q + 1) K). The covariance of two slices is then the dot
product of their coordinates. x_0 is subtracted first, so that a large mean costs no digits.

A program holds some slices of some filters, all positions but x_0 side by side: a weight's positions are neighbours in
memory, and so are a slice's coordinates, and after them those of the next filter.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ckrm_kernels.kernels import tables
from ckrm_kernels.kernels.elementary import constants_of, tf32_parts
from ckrm_kernels.kernels.tables import LAYOUT


@triton.jit
def helmert_norms(q, positions, DTYPE: tl.constexpr):
    """1 / sqrt(q (q + 1) K) for 1 <= q < K, else 0."""
    number = q.to(DTYPE)
    return tl.where(q < positions, 1.0 / tl.sqrt(number * (number + 1.0) * tl.cast(positions, DTYPE)), 0.0)


@triton.jit
def sum_of_rows(first, x):
    """first + the sums of x (rows, columns), in float32 to 36 bits of the largest number: a mean near 0 keeps digits.

    Multiples of a power of two that leave 11 bits to the largest number add up exactly; so the sum of what remains is
    all that is rounded.
    """
    if x.dtype == tl.float32:
        largest = tl.maximum(tl.max(tl.abs(x), 1), tl.abs(first))
        power = (largest.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        shift = tl.minimum(power, 2.0**110) * 12288.0  # 1.5 * 2^13: adding it rounds to multiples
        leading_first = (first + shift) - shift
        leading = (x + shift[:, None]) - shift[:, None]
        return (leading_first + tl.sum(leading, 1)) + ((first - leading_first) + tl.sum(x - leading, 1))
    else:
        return first + tl.sum(x, 1)


@triton.jit
def place_of_coordinate(c, DOUBLE: tl.constexpr):
    """Where coordinate c + 1 of a slice stands, from its first (plan.Place)."""
    width: tl.constexpr = 8 if DOUBLE else 16
    return c // 8 * width + c % 8


@triton.jit
def offset_of_position(bank, q):
    """Of a slice's position q from its first, by the strides of the kernel's dimensions (tables.BankRow)."""
    middle = tl.load(bank + tables.BANK_MIDDLE_SIZE).to(tl.int32)
    last = tl.load(bank + tables.BANK_LAST_SIZE).to(tl.int32)
    return (
        (q // (middle * last)) * tl.load(bank + tables.BANK_FIRST_STRIDE)
        + (q // last % middle) * tl.load(bank + tables.BANK_MIDDLE_STRIDE)
        + (q % last) * tl.load(bank + tables.BANK_LAST_STRIDE)
    )


@triton.jit
def prepare_rows(
    weight,
    bank,
    first_filter,
    first_slice,
    first,
    out,
    constants,
    OF_SLICE: tl.constexpr,
    POSITIONS: tl.constexpr,
    ROWS: tl.constexpr,
    FILTERS: tl.constexpr,
    CONTIGUOUS: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """ROWS slices of one bank (tables.BankRow), from the one numbered `first` of the program's, FILTERS by slices."""
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    width: tl.constexpr = 8 if DOUBLE else 16
    filters, slices = tl.load(bank + tables.BANK_FILTERS), tl.load(bank + tables.BANK_SLICES)
    positions = tl.load(bank + tables.BANK_POSITIONS)
    padded, steps = tl.load(bank + tables.BANK_PADDED), tl.load(bank + tables.BANK_STEPS)
    row = first + tl.arange(0, ROWS)
    f, k = first_filter + row % FILTERS, first_slice + row // FILTERS
    c = tl.arange(0, POSITIONS)
    q = c + 1
    offset = q if CONTIGUOUS else offset_of_position(bank, q)
    slice_at = f * tl.load(bank + tables.BANK_FILTER_STRIDE) + k * tl.load(bank + tables.BANK_SLICE_STRIDE)
    source = weight + tl.load(bank + tables.BANK_OFFSET) + slice_at
    present = k < slices
    read = present & (f < filters)
    inside = read[:, None] & (q < positions)[None, :]
    start = tl.load(source, read, other=0.0).to(dtype) * constants[0]
    x = tl.load(source[:, None] + offset[None, :], inside, other=0.0).to(dtype) * constants[0]
    bad = tl.max((~(tl.abs(x) < float("inf"))).to(tl.int32), 1) > 0
    bad = bad | ~(tl.abs(start) < float("inf"))
    start, x = tl.where(bad, 0.0, start), tl.where(bad[:, None], 0.0, x)
    mu = sum_of_rows(start, x) / tl.cast(positions, dtype)
    x = tl.where(inside, x - start[:, None], 0.0)
    z = (tl.cumsum(x, 1) - (q + 1).to(dtype)[None, :] * x) * helmert_norms(q, positions, dtype)[None, :]
    variance = tl.sum(z * z, 1)
    sigma = tl.sqrt(variance)
    of_mu, of_sigma, beyond = OF_SLICE(mu, variance, constants)
    bad = bad | beyond
    nan = float("nan")
    target = out + tl.load(bank + tables.BANK_MOMENTS) + k * 4 * padded + f
    tl.store(target, tl.where(bad, nan, mu), present)
    tl.store(target + padded, of_mu, present)
    tl.store(target + 2 * padded, tl.where(bad, nan, sigma), present)
    tl.store(target + 3 * padded, of_sigma, present)
    first_coordinate = tl.multiple_of(tl.load(bank + tables.BANK_COORDINATES), 16)
    at = first_coordinate + (k * padded + f) * steps * width
    target = out + at[:, None] + place_of_coordinate(c, DOUBLE)[None, :]
    stored = present[:, None] & (c < 8 * steps)[None, :]
    if DOUBLE:
        tl.store(target, z, stored)
    else:
        high, low = tf32_parts(z)
        tl.store(target, high, stored)
        tl.store(target + 8, low, stored)


@triton.jit
def prepare_kernel(
    weight,
    banks,
    programs,
    out,
    scalars,
    OF_SLICE: tl.constexpr,
    NUMBER: tl.constexpr,
    SMALL: tl.constexpr,
    POSITIONS: tl.constexpr,
    BLOCK: tl.constexpr,
    FILTERS: tl.constexpr,
    CONTIGUOUS: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """Slices of all banks -> coordinates and moments (plan.Place). A slice that is not finite has mu = sigma = NaN.

    weight: the first bank's; banks, programs: tables of BankRow and ProgramRow
    OF_SLICE: see arithmetic.Arithmetic; scalars: see constants_of
    SMALL, POSITIONS: powers of two that hold K - 1 of most banks and of all: a larger K takes fewer slices at a time
    BLOCK: slices of a program, of FILTERS filters; CONTIGUOUS: whether the positions of every slice are neighbours
    """
    tl.static_assert(LAYOUT >= 0)  # see tables.py
    program = programs + tl.program_id(0) * tables.PROGRAM_WIDTH
    bank = banks + tl.load(program + tables.PROGRAM_BANK) * tables.BANK_WIDTH
    f = tl.multiple_of(tl.load(program + tables.PROGRAM_FIRST_FILTER), FILTERS)
    k = tl.load(program + tables.PROGRAM_FIRST_SLICE)
    constants = constants_of(scalars, NUMBER, DOUBLE)
    if POSITIONS == SMALL:  # noqa: SIM114  known when compiled, unlike the other
        prepare_rows(weight, bank, f, k, 0, out, constants, OF_SLICE, SMALL, BLOCK, FILTERS, CONTIGUOUS, DOUBLE)
    elif tl.load(bank + tables.BANK_STEPS) * 8 <= SMALL:
        prepare_rows(weight, bank, f, k, 0, out, constants, OF_SLICE, SMALL, BLOCK, FILTERS, CONTIGUOUS, DOUBLE)
    else:
        rows: tl.constexpr = BLOCK * SMALL // POSITIONS
        for start in range(0, BLOCK, rows):
            prepare_rows(
                weight, bank, f, k, start, out, constants, OF_SLICE, POSITIONS, rows, FILTERS, CONTIGUOUS, DOUBLE
            )


@triton.jit
def finish_gradient_kernel(
    buffer,
    of_buffer,
    out,
    banks,
    programs,
    scalars,
    NUMBER: tl.constexpr,
    POSITIONS: tl.constexpr,
    BLOCK: tl.constexpr,
    FILTERS: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """The gradients of banks (F2, F1, K), contiguous, from those of their coordinates and moments: prepare's transpose.

    of_buffer: the gradient of what prepare leaves, each number where its own stands, of moments that of mu and sigma
    banks, programs: tables of GradientRow and ProgramRow
    scalars: see constants_of; POSITIONS, BLOCK, FILTERS: see prepare_kernel
    """
    tl.static_assert(LAYOUT >= 0)  # see tables.py
    scale = constants_of(scalars, NUMBER, DOUBLE)[0]
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    width: tl.constexpr = 8 if DOUBLE else 16
    program = programs + tl.program_id(0).to(tl.int64) * tables.PROGRAM_WIDTH
    bank = banks + tl.load(program + tables.PROGRAM_BANK) * tables.GRADIENT_WIDTH
    filters, slices = tl.load(bank + tables.GRADIENT_FILTERS), tl.load(bank + tables.GRADIENT_SLICES)
    positions = tl.load(bank + tables.GRADIENT_POSITIONS)
    padded, steps = tl.load(bank + tables.GRADIENT_PADDED), tl.load(bank + tables.GRADIENT_STEPS)
    row = tl.arange(0, BLOCK)
    f = tl.multiple_of(tl.load(program + tables.PROGRAM_FIRST_FILTER), FILTERS) + row % FILTERS
    k = tl.load(program + tables.PROGRAM_FIRST_SLICE) + row // FILTERS
    c = tl.arange(0, POSITIONS)
    q = c + 1
    present = (f < filters) & (k < slices)
    moments_at = tl.load(bank + tables.GRADIENT_MOMENTS) + 4 * k * padded + f
    of_mu = tl.load(of_buffer + moments_at, present, other=0.0)
    of_sigma = tl.load(of_buffer + moments_at + 2 * padded, present, other=0.0)
    sigma = tl.load(buffer + moments_at + 2 * padded, present, other=0.0)
    none = (sigma == 0.0) | (of_sigma == 0.0)  # also in a filter that is not finite, but in no pair
    of_sigma_over_sigma = tl.where(none, 0.0, of_sigma / tl.where(none, 1.0, sigma))
    first_coordinate = tl.multiple_of(tl.load(bank + tables.GRADIENT_COORDINATES), 16)
    at = (first_coordinate + (k * padded + f) * (steps * width))[:, None] + place_of_coordinate(c, DOUBLE)[None, :]
    inside = present[:, None] & (q < positions)[None, :]
    z = tl.load(buffer + at, inside, other=0.0)
    of_z = tl.load(of_buffer + at, inside, other=0.0)
    if not DOUBLE:
        z += tl.load(buffer + at + 8, inside, other=0.0)
        of_z += tl.load(of_buffer + at + 8, inside, other=0.0)
    u = (of_z + of_sigma_over_sigma[:, None] * z) * helmert_norms(q, positions, dtype)[None, :]
    scale /= tl.cast(slices, dtype)
    of_first = tl.sum(u, 1) + of_mu / tl.cast(positions, dtype)
    of_x = of_first[:, None] - tl.cumsum(u, 1) - q.to(dtype)[None, :] * u
    target = out + tl.load(bank + tables.GRADIENT_OUTPUT) + (f * slices + k) * positions
    tl.store(target, of_first * scale, present)
    tl.store(target[:, None] + q[None, :], of_x * scale, inside)
