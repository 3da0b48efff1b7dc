"""Psi of tiles of pairs: of all pairs of a bank or of two banks, stored or counted, for many banks in one launch."""

from __future__ import annotations

import triton
import triton.language as tl

from ckrm_kernels.kernels import tables
from ckrm_kernels.kernels.elementary import constants_of, summand
from ckrm_kernels.kernels.tables import LAYOUT

# What becomes of a tile's Psi: packed as torch.pdist does (0), stored as (rows, columns) (1), or counted (2).
PACKED, RECTANGLE, COUNTS = 0, 1, 2


@triton.jit
def add_covariance(cov, buffer, rows_at, columns_at, rows, columns, size, DOUBLE: tl.constexpr):
    """cov plus the products of 8 coordinates; size: elements of a filter.

    In float32 each coordinate stands as two tf32 numbers, [high | low]: against it, [high | low] and [low | high] give
    all four products, and tensor cores float32's accuracy.
    """
    if DOUBLE:
        for c in tl.static_range(8):
            x = tl.load(buffer + rows_at + rows * size + c)
            y = tl.load(buffer + columns_at + columns * size + c)
            cov += x[:, None] * y[None, :]
    else:
        d = tl.arange(0, 16)
        a = tl.load(buffer + rows_at + rows[:, None] * size + d[None, :])
        turned = tl.load(buffer + rows_at + rows[:, None] * size + ((d + 8) % 16)[None, :])
        b = tl.load(buffer + columns_at + columns[None, :] * size + d[:, None])
        cov = tl.dot(a, b, cov, input_precision="tf32")
        cov = tl.dot(turned, b, cov, input_precision="tf32")
    return cov


@triton.jit
def covariance_of_tile(
    buffer,
    rows_at,
    columns_at,
    rows,
    columns,
    size,
    steps,
    added,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """(ROWS, COLUMNS): covariance of slices, plus `added`. STEPS: groups of 8 coordinates, 0 or 1; -1: `steps`."""
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    width: tl.constexpr = 8 if DOUBLE else 16
    cov = tl.zeros([ROWS, COLUMNS], dtype) + added
    if STEPS == 1:
        cov = add_covariance(cov, buffer, rows_at, columns_at, rows, columns, size, DOUBLE)
    elif STEPS < 0:
        for step in range(steps):
            at = step * width
            none = tl.zeros([ROWS, COLUMNS], dtype)
            cov += summand(add_covariance(none, buffer, rows_at + at, columns_at + at, rows, columns, size, DOUBLE))
    return cov


@triton.jit
def load_moments(buffer, at, filters, padded):
    """What a similarity takes of filters: mu and its own number, sigma and its own."""
    at = buffer + at + filters
    return tl.load(at), tl.load(at + padded), tl.load(at + 2 * padded), tl.load(at + 3 * padded)


@triton.jit
def sum_over_slices(
    buffer,
    item,
    constants,
    TERM: tl.constexpr,
    KINDS: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """The sum of TERM over the slices of an item (tables.ItemRow). STEPS: see `covariance_of_tile`.

    STAGES: slices on their way at a time, moments too: the launch option would leave out what no dot product reads
    """
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    width: tl.constexpr = 8 if DOUBLE else 16
    rows_at = tl.multiple_of(tl.load(item + tables.ITEM_ROW_COORDINATES), 16)
    columns_at = tl.multiple_of(tl.load(item + tables.ITEM_COLUMN_COORDINATES), 16)
    row_moments = tl.multiple_of(tl.load(item + tables.ITEM_ROW_MOMENTS), 16)
    column_moments = tl.multiple_of(tl.load(item + tables.ITEM_COLUMN_MOMENTS), 16)
    row_stride = tl.multiple_of(tl.load(item + tables.ITEM_ROW_STRIDE), 16)
    column_stride = tl.multiple_of(tl.load(item + tables.ITEM_COLUMN_STRIDE), 16)
    padded_rows = tl.multiple_of(tl.load(item + tables.ITEM_PADDED_ROWS).to(tl.int32), 16)
    padded_columns = tl.multiple_of(tl.load(item + tables.ITEM_PADDED_COLUMNS).to(tl.int32), 16)
    slices, steps = tl.load(item + tables.ITEM_SLICES).to(tl.int32), tl.load(item + tables.ITEM_STEPS).to(tl.int32)
    size = width * STEPS if STEPS > 0 else tl.multiple_of(width * steps, 8)
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    sums = tl.zeros([ROWS, COLUMNS], dtype)
    for _ in tl.range(0, slices, num_stages=STAGES):
        cov = covariance_of_tile(
            buffer, rows_at, columns_at, rows, columns, size, steps, constants[1], STEPS, ROWS, COLUMNS, DOUBLE
        )
        row = load_moments(buffer, row_moments, rows[:, None], padded_rows)
        column = load_moments(buffer, column_moments, columns[None, :], padded_columns)
        sums += TERM(row, column, cov, constants, KINDS)
        rows_at += row_stride
        columns_at += column_stride
        row_moments += 4 * padded_rows
        column_moments += 4 * padded_columns
    return sums


@triton.jit
def tile_kernel(
    buffer,
    items,
    partial,
    scalars,
    TERM: tl.constexpr,
    KINDS: tl.constexpr,
    STEPS: tl.constexpr,
    NUMBER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """One item (tables.ItemRow): a tile, or some of its slices, whose sums go to a slot of `partial`.

    TERM, KINDS: see arithmetic.Arithmetic; scalars: see constants_of
    """
    tl.static_assert(LAYOUT >= 0)  # see tables.py
    item = items + tl.program_id(0).to(tl.int64) * tables.ITEM_WIDTH
    constants = constants_of(scalars, NUMBER, DOUBLE)
    sums = sum_over_slices(buffer, item, constants, TERM, KINDS, STEPS, ROWS, COLUMNS, STAGES, DOUBLE)
    at = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(partial + tl.load(item + tables.ITEM_SLOT) * (ROWS * COLUMNS) + at, sums)


@triton.jit
def write_or_count(
    sums,
    tile,
    first,
    out,
    edges,
    number_of_edges,
    OUTPUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BINS: tl.constexpr,
):
    """Writes or counts Psi of some rows of a tile (tables.TileRow), from `first` on, given the sums of terms."""
    n, m = tl.load(tile + tables.TILE_ROWS), tl.load(tile + tables.TILE_COLUMNS)
    i = (tl.load(tile + tables.TILE_FIRST_ROW) + first + tl.arange(0, ROWS))[:, None]
    j = (tl.load(tile + tables.TILE_FIRST_COLUMN) + tl.arange(0, COLUMNS))[None, :]
    mean = sums / tl.load(tile + tables.TILE_SLICES).to(sums.dtype)
    output = tl.load(tile + tables.TILE_OUTPUT)
    if OUTPUT == 0:
        row = out + output + i * (2 * n - i - 1) // 2 - i - 1
        tl.store(row + j, mean, (i < j) & (j < n))
    elif OUTPUT == 1:
        row = out + output + i * m
        tl.store(row + j, mean, (i < n) & (j < m))
    else:
        value = mean.to(edges.dtype.element_ty)  # of the dtype that Psi is returned in
        interval = tl.where((i < j) & (j < n), interval_of(value, edges, number_of_edges), -1)
        add_counts(
            tl.reshape(interval, [ROWS * COLUMNS]), out + output * (number_of_edges + 2), number_of_edges + 2, BINS
        )


@triton.jit
def interval_of(value, edges, number_of_edges):
    """How many of the ascending edges are below each value, by bisection; number_of_edges + 1 for NaN."""
    low = tl.zeros_like(value).to(tl.int32)
    high = low + number_of_edges
    left = number_of_edges
    while left > 0:
        middle = (low + high) // 2
        below = (low < high) & (tl.load(edges + middle, low < high, other=0.0) < value)
        low, high = tl.where(below, middle + 1, low), tl.where(below, high, middle)
        left //= 2
    return tl.where(value == value, low, number_of_edges + 1)


@triton.jit
def add_counts(interval, counts, intervals, BINS: tl.constexpr):
    """Adds to counts (intervals,) how often each is in `interval`, BINS at a time; -1 is none."""
    bins = tl.arange(0, BINS)
    for first in range(0, intervals, BINS):
        here = (interval >= first) & (interval < first + BINS)
        found = tl.histogram(tl.where(here, interval - first, 0), BINS)
        found -= tl.where(bins == 0, tl.sum((~here).to(tl.int32)), 0)
        tl.atomic_add(counts + first + bins, found.to(tl.int64), (first + bins < intervals) & (found > 0))


@triton.jit
def sum_of_parts(partial, tile, first, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STRIP: tl.constexpr):
    """(STRIP, COLUMNS): the sums of a tile (tables.TileRow), from row `first` on: its parts', in their order."""
    slot, parts = tl.load(tile + tables.TILE_SLOT), tl.load(tile + tables.TILE_PARTS)
    at = (first + tl.arange(0, STRIP))[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    sums = tl.zeros([STRIP, COLUMNS], partial.dtype.element_ty)
    lost = tl.zeros([STRIP, COLUMNS], partial.dtype.element_ty)  # by rounding so far (Kahan)
    for part in range(parts):
        part_sum = tl.load(partial + (slot + part) * (ROWS * COLUMNS) + at) - lost
        total = sums + part_sum
        lost = (total - sums) - part_sum
        sums = total
    return sums


@triton.jit(do_not_specialize=["number_of_edges"])
def combine_kernel(
    partial,
    tiles,
    out,
    edges,
    number_of_edges,
    OUTPUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STRIP: tl.constexpr,
    BINS: tl.constexpr,
):
    """Writes or counts STRIP rows of a tile (tables.TileRow), given the sums of its parts."""
    tl.static_assert(LAYOUT >= 0)  # see tables.py
    tile, first = tiles + tl.program_id(0).to(tl.int64) * tables.TILE_WIDTH, tl.program_id(1) * STRIP
    sums = sum_of_parts(partial, tile, first, ROWS, COLUMNS, STRIP)
    write_or_count(sums, tile, first, out, edges, number_of_edges, OUTPUT, STRIP, COLUMNS, BINS)
