"""Psi counted softly: the sum of sigmoid((Psi - threshold) / temperature) over the pairs of each of many banks.

With it comes its gradient: of every Psi sigmoid' / (temperature pairs), from which `gradient.py` goes on.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from ckrm_kernels.kernels import tables
from ckrm_kernels.kernels.elementary import exp2
from ckrm_kernels.kernels.tables import LAYOUT
from ckrm_kernels.kernels.tiles import sum_of_parts


@triton.jit
def sigmoid_and_slope(x):
    """1 / (1 + exp(-x)) and its derivative, by exp(-|x|), which does not overflow."""
    e = exp2(-tl.abs(x) * 1.4426950408889634)  # log2 of e
    larger = 1.0 / (1.0 + e)
    return tl.where(x < 0.0, e * larger, larger), e * larger * larger


@triton.jit
def number_of_pairs(filters, DTYPE: tl.constexpr):
    """Of a bank with so many filters."""
    return (filters * (filters - 1) // 2).to(DTYPE)


@triton.jit(do_not_specialize=["first_tile"])
def soft_kernel(
    partial,
    tiles,
    banks,
    thresholds,
    temperature,
    of_psi,
    sums,
    first_tile,
    WITH_GRADIENT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STRIP: tl.constexpr,
):
    """Counts STRIP rows of a tile (tables.TileRow) softly, given the sums of its parts.

    banks: table of SoftRow; thresholds: (banks,); temperature: (1,); first_tile: the number of the first of `tiles`
    sums: one of each strip, in the order of the tiles
    of_psi: where WITH_GRADIENT gets what every Psi gets of its bank's mean, at (i, j) and (j, i); holds zeros
    """
    tl.static_assert(LAYOUT >= 0)  # see tables.py
    tile, first = tiles + tl.program_id(0).to(tl.int64) * tables.TILE_WIDTH, tl.program_id(1) * STRIP
    dtype: tl.constexpr = partial.dtype.element_ty
    bank = banks + tl.load(tile + tables.TILE_OUTPUT) * tables.SOFT_WIDTH
    filters = tl.load(bank + tables.SOFT_FILTERS)
    i = (tl.load(tile + tables.TILE_FIRST_ROW) + first + tl.arange(0, STRIP))[:, None]
    j = (tl.load(tile + tables.TILE_FIRST_COLUMN) + tl.arange(0, COLUMNS))[None, :]
    present = (i < j) & (j < filters)
    psi = sum_of_parts(partial, tile, first, ROWS, COLUMNS, STRIP) / tl.load(tile + tables.TILE_SLICES).to(dtype)
    threshold = tl.load(thresholds + tl.load(bank + tables.SOFT_ROW)).to(dtype)
    temperature = tl.load(temperature).to(dtype)
    soft, slope = sigmoid_and_slope((psi - threshold) / temperature)
    place = (first_tile + tl.program_id(0)).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    tl.store(sums + place, tl.sum(tl.where(present, soft, 0.0)))
    if WITH_GRADIENT:
        slope /= temperature * number_of_pairs(filters, dtype)
        target, padded = of_psi + tl.load(bank + tables.SOFT_OF_PSI), tl.load(bank + tables.SOFT_PADDED)
        tl.store(target + i * padded + j, slope, present)
        tl.store(target + j * padded + i, slope, present)


@triton.jit
def soft_mean_kernel(sums, banks, values, BLOCK: tl.constexpr):
    """The mean over a bank's pairs, a program a bank (tables.SoftRow): adds its sums, always in the same order."""
    tl.static_assert(LAYOUT >= 0)  # see tables.py
    bank = banks + tl.program_id(0) * tables.SOFT_WIDTH
    first, number = tl.load(bank + tables.SOFT_FIRST_SUM), tl.load(bank + tables.SOFT_SUMS)
    dtype: tl.constexpr = sums.dtype.element_ty
    total = tl.zeros([BLOCK], dtype)
    for start in range(0, number, BLOCK):
        here = start + tl.arange(0, BLOCK)
        total += tl.load(sums + first + here, here < number, other=0.0)
    mean = tl.sum(total) / number_of_pairs(tl.load(bank + tables.SOFT_FILTERS), dtype)
    tl.store(values + tl.load(bank + tables.SOFT_ROW), mean)
