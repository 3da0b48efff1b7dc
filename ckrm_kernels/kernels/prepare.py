"""From weights to what the pair loops read, and from their gradients back to a weight's.

A slice x becomes its mean mu, its standard deviation sigma and K - 1 coordinates of x - mu in an orthonormal basis
(Helmert's): z_q = (x_0 + ... + x_(q-1) - q x_q) / sqrt(q (q + 1) K). The covariance of two slices is then the dot
product of their coordinates. x_0 is subtracted first, so that a large mean costs no digits.
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
    inside = (q >= 1) & (q < positions)
    number = tl.where(inside, q, 1).to(DTYPE)
    return tl.where(inside, 1.0 / tl.sqrt(number * (number + 1.0) * tl.cast(positions, DTYPE)), 0.0)


@triton.jit
def sum_of_rows(x):
    """(rows, columns) -> (rows,), in float32 to about 36 bits of the largest number: a mean near 0 keeps its digits.

    Multiples of a power of two that leave 11 bits to the largest number add up exactly; so the sum of what remains is
    all that is rounded.
    """
    if x.dtype == tl.float32:
        largest = tl.max(tl.abs(x), 1)
        power = (largest.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        shift = (tl.minimum(power, 2.0**110) * 12288.0)[:, None]  # 1.5 * 2^13: adding it rounds to multiples
        leading = (x + shift) - shift
        return tl.sum(leading, 1) + tl.sum(x - leading, 1)
    else:
        return tl.sum(x, 1)


@triton.jit
def prepare_rows(
    weight,
    bank,
    first,
    out,
    constants,
    OF_SLICE: tl.constexpr,
    POSITIONS: tl.constexpr,
    ROWS: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """ROWS slices of one bank (tables.BankRow), from `first` on."""
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    width: tl.constexpr = 8 if DOUBLE else 16
    filters, slices = tl.load(bank + tables.BANK_FILTERS), tl.load(bank + tables.BANK_SLICES)
    positions = tl.load(bank + tables.BANK_POSITIONS)
    middle, last = tl.load(bank + tables.BANK_MIDDLE_SIZE), tl.load(bank + tables.BANK_LAST_SIZE)
    padded, steps = tl.load(bank + tables.BANK_PADDED), tl.load(bank + tables.BANK_STEPS)
    row = first + tl.arange(0, ROWS)
    f, k = row // slices, row % slices
    q = tl.arange(0, POSITIONS).to(tl.int64)
    offset = (
        (q // (middle * last)) * tl.load(bank + tables.BANK_FIRST_STRIDE)
        + (q // last % middle) * tl.load(bank + tables.BANK_MIDDLE_STRIDE)
        + (q % last) * tl.load(bank + tables.BANK_LAST_STRIDE)
    )
    first_slice = weight + tl.load(bank + tables.BANK_OFFSET)
    slice_at = f * tl.load(bank + tables.BANK_FILTER_STRIDE) + k * tl.load(bank + tables.BANK_SLICE_STRIDE)
    source = first_slice + slice_at[:, None] + offset[None, :]
    inside = (f < filters)[:, None] & (q < positions)[None, :]
    x = tl.load(source, inside, other=0.0).to(dtype) * constants[0]
    bad = tl.max((~(tl.abs(x) < float("inf"))).to(tl.int32), 1) > 0
    x = tl.where(bad[:, None], 0.0, x)
    mu = sum_of_rows(x) / tl.cast(positions, dtype)
    start = tl.sum(tl.where(q[None, :] == 0, x, 0.0), 1)
    x = tl.where(inside, x - start[:, None], 0.0)
    z = (tl.cumsum(x, 1) - (q + 1).to(dtype)[None, :] * x) * helmert_norms(q, positions, dtype)[None, :]
    variance = tl.sum(z * z, 1)
    sigma = tl.sqrt(variance)
    of_mu, of_sigma, beyond = OF_SLICE(mu, variance, constants)
    bad = bad | beyond
    nan = float("nan")
    present = f < padded
    target = out + tl.load(bank + tables.BANK_MOMENTS) + k * 4 * padded + f
    tl.store(target, tl.where(bad, nan, mu), present)
    tl.store(target + padded, of_mu, present)
    tl.store(target + 2 * padded, tl.where(bad, nan, sigma), present)
    tl.store(target + 3 * padded, of_sigma, present)
    place = (q - 1) // 8 * width + (q - 1) % 8
    target = (
        out + tl.load(bank + tables.BANK_COORDINATES) + ((k * padded + f) * steps * width)[:, None] + place[None, :]
    )
    stored = present[:, None] & ((q >= 1) & (q <= 8 * steps))[None, :]
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
    DOUBLE: tl.constexpr,
):
    """Slices of all banks -> coordinates and moments (plan.Place). A slice that is not finite has mu = sigma = NaN.

    weight: the first bank's; banks, programs: tables of BankRow and ProgramRow
    OF_SLICE: see arithmetic.Arithmetic; scalars: see constants_of
    SMALL, POSITIONS: powers of two above K of most banks and of all: those with a larger K take fewer slices at a time
    """
    tl.static_assert(LAYOUT >= 0)  # see tables.py
    program = programs + tl.program_id(0) * tables.PROGRAM_WIDTH
    bank = banks + tl.load(program + tables.PROGRAM_BANK) * tables.BANK_WIDTH
    first = tl.load(program + tables.PROGRAM_FIRST)
    constants = constants_of(scalars, NUMBER, DOUBLE)
    if POSITIONS == SMALL:  # noqa: SIM114  known when compiled, unlike the other
        prepare_rows(weight, bank, first, out, constants, OF_SLICE, SMALL, BLOCK, DOUBLE)
    elif tl.load(bank + tables.BANK_STEPS) * 8 < SMALL:
        prepare_rows(weight, bank, first, out, constants, OF_SLICE, SMALL, BLOCK, DOUBLE)
    else:
        for start in range(0, BLOCK, BLOCK * SMALL // POSITIONS):
            prepare_rows(
                weight, bank, first + start, out, constants, OF_SLICE, POSITIONS, BLOCK * SMALL // POSITIONS, DOUBLE
            )


@triton.jit
def finish_gradient_kernel(
    buffer,
    of_bank,
    out,
    filters,
    slices,
    positions,
    steps,
    place,
    scalars,
    NUMBER: tl.constexpr,
    POSITIONS: tl.constexpr,
    ROWS: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """The gradient of a bank (F2, F1, K), contiguous, from that of its coordinates and moments: prepare's transpose.

    of_bank: the gradients of coordinates [slice][filter][step][width] and of moments [slice][mu, sigma][filter]
    place: of the bank in the buffer, its (padded, coordinates, moments), see plan.Place
    scalars: see constants_of
    """
    scale = constants_of(scalars, NUMBER, DOUBLE)[0]
    of_coordinates, of_moments = of_bank
    padded, coordinates, moments = place
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    width: tl.constexpr = 8 if DOUBLE else 16
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    f, k = row // slices, row % slices
    q = tl.arange(0, POSITIONS)
    present = f < filters
    of_mu = tl.load(of_moments + 2 * k * padded + f, present, other=0.0)
    of_sigma = tl.load(of_moments + (2 * k + 1) * padded + f, present, other=0.0)
    sigma = tl.load(buffer + moments + (4 * k + 2) * padded + f, present, other=0.0)
    none = (sigma == 0.0) | (of_sigma == 0.0)  # also in a filter that is not finite, but in no pair
    of_sigma_over_sigma = tl.where(none, 0.0, of_sigma / tl.where(none, 1.0, sigma))
    at = (k * padded + f)[:, None] * (steps * width) + ((q - 1) // 8 * width + (q - 1) % 8)[None, :]
    inside = present[:, None] & ((q >= 1) & (q < positions))[None, :]
    z = tl.load(buffer + coordinates + at, inside, other=0.0)
    of_z = tl.load(of_coordinates + at, inside, other=0.0)
    if not DOUBLE:
        z += tl.load(buffer + coordinates + at + 8, inside, other=0.0)
        of_z += tl.load(of_coordinates + at + 8, inside, other=0.0)
    u = (of_z + of_sigma_over_sigma[:, None] * z) * helmert_norms(q, positions, dtype)[None, :]
    of_x = (
        tl.sum(u, 1)[:, None]
        - tl.cumsum(u, 1)
        - q.to(dtype)[None, :] * u
        + (of_mu / tl.cast(positions, dtype))[:, None]
    )
    target = out + row[:, None] * positions + q[None, :]
    tl.store(target, of_x * (scale / tl.cast(slices, dtype)), present[:, None] & (q < positions)[None, :])
