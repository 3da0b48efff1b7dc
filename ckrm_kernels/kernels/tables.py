"""The tables of int64 that kernels read their work from: a NamedTuple a row, and the index of each field for kernels.

Kernels reach an index through this module (`tables.ITEM_SLOT`): Triton compares what a kernel imports by name at every
launch. It keys its cache on disk with such names alone, so every kernel that reads a table imports LAYOUT by name.
"""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor


class BankRow(NamedTuple):
    """How prepare reads a weight, and where it puts the bank."""

    offset: int  # of the weight's first element from the first weight's
    filters: int
    slices: int
    positions: int
    filter_stride: int
    slice_stride: int
    middle_size: int  # of the kernel's last but one dimension
    last_size: int
    first_stride: int
    middle_stride: int
    last_stride: int
    padded: int
    steps: int
    coordinates: int
    moments: int

    @property
    def is_contiguous(self) -> bool:
        """Whether the positions of a slice are neighbours in memory."""
        return self.positions == 1 or (self.last_size == self.positions and self.last_stride == 1)


class ProgramRow(NamedTuple):
    """What a program of prepare does."""

    bank: int
    first_filter: int
    first_slice: int


class ItemRow(NamedTuple):
    """A tile of pairs, or a part of its slices. Places are those of first elements, at the part's first slice."""

    row_coordinates: int
    column_coordinates: int
    row_moments: int
    column_moments: int
    row_stride: int  # of the coordinates, from slice to slice
    column_stride: int
    padded_rows: int
    padded_columns: int
    slices: int  # of this part
    steps: int
    slot: int  # where the sums go


class TileRow(NamedTuple):
    """A tile of pairs whose parts are combined."""

    first_row: int
    first_column: int
    rows: int  # filters of the bank
    columns: int
    slices: int  # of a filter
    output: int  # the bank's first element of the output, or its row of the counts, or its SoftRow
    slot: int  # the first of its parts
    parts: int


class SoftRow(NamedTuple):
    """A bank whose pairs are counted softly, each by a number between 0 and 1."""

    row: int  # of the thresholds and of the values
    filters: int
    padded: int
    of_psi: int  # first element of the gradient of its Psi, (padded, padded)
    first_sum: int
    sums: int


class GradientRow(NamedTuple):
    """A bank whose gradient is computed, and where the bank stands that its filters are compared with."""

    filters: int
    slices: int
    positions: int
    steps: int
    padded: int
    coordinates: int
    moments: int
    other_padded: int
    other_coordinates: int
    other_moments: int
    of_psi: int  # first element of the gradient of Psi, (padded, other_padded)
    output: int  # first element of the bank's gradient


class BlockRow(NamedTuple):
    """What a program of tile gradient does: some filters of a bank, one slice, one step of its coordinates."""

    bank: int
    first_filter: int
    slice: int
    step: int


_ROWS: tuple[Any, ...] = (BankRow, ProgramRow, ItemRow, TileRow, SoftRow, GradientRow, BlockRow)
# Of all fields in their order: after any change of a table, kernels are compiled anew.
LAYOUT = tl.constexpr(zlib.crc32(repr([row._fields for row in _ROWS]).encode()))


def _width(row: type[Any]) -> tl.constexpr:
    return tl.constexpr(len(row._fields))


def _index(row: type[Any], field: str) -> tl.constexpr:
    return tl.constexpr(row._fields.index(field))


BANK_WIDTH = _width(BankRow)
BANK_OFFSET = _index(BankRow, "offset")
BANK_FILTERS = _index(BankRow, "filters")
BANK_SLICES = _index(BankRow, "slices")
BANK_POSITIONS = _index(BankRow, "positions")
BANK_FILTER_STRIDE = _index(BankRow, "filter_stride")
BANK_SLICE_STRIDE = _index(BankRow, "slice_stride")
BANK_MIDDLE_SIZE = _index(BankRow, "middle_size")
BANK_LAST_SIZE = _index(BankRow, "last_size")
BANK_FIRST_STRIDE = _index(BankRow, "first_stride")
BANK_MIDDLE_STRIDE = _index(BankRow, "middle_stride")
BANK_LAST_STRIDE = _index(BankRow, "last_stride")
BANK_PADDED = _index(BankRow, "padded")
BANK_STEPS = _index(BankRow, "steps")
BANK_COORDINATES = _index(BankRow, "coordinates")
BANK_MOMENTS = _index(BankRow, "moments")

PROGRAM_WIDTH = _width(ProgramRow)
PROGRAM_BANK = _index(ProgramRow, "bank")
PROGRAM_FIRST_FILTER = _index(ProgramRow, "first_filter")
PROGRAM_FIRST_SLICE = _index(ProgramRow, "first_slice")

ITEM_WIDTH = _width(ItemRow)
ITEM_ROW_COORDINATES = _index(ItemRow, "row_coordinates")
ITEM_COLUMN_COORDINATES = _index(ItemRow, "column_coordinates")
ITEM_ROW_MOMENTS = _index(ItemRow, "row_moments")
ITEM_COLUMN_MOMENTS = _index(ItemRow, "column_moments")
ITEM_ROW_STRIDE = _index(ItemRow, "row_stride")
ITEM_COLUMN_STRIDE = _index(ItemRow, "column_stride")
ITEM_PADDED_ROWS = _index(ItemRow, "padded_rows")
ITEM_PADDED_COLUMNS = _index(ItemRow, "padded_columns")
ITEM_SLICES = _index(ItemRow, "slices")
ITEM_STEPS = _index(ItemRow, "steps")
ITEM_SLOT = _index(ItemRow, "slot")

TILE_WIDTH = _width(TileRow)
TILE_FIRST_ROW = _index(TileRow, "first_row")
TILE_FIRST_COLUMN = _index(TileRow, "first_column")
TILE_ROWS = _index(TileRow, "rows")
TILE_COLUMNS = _index(TileRow, "columns")
TILE_SLICES = _index(TileRow, "slices")
TILE_OUTPUT = _index(TileRow, "output")
TILE_SLOT = _index(TileRow, "slot")
TILE_PARTS = _index(TileRow, "parts")

SOFT_WIDTH = _width(SoftRow)
SOFT_ROW = _index(SoftRow, "row")
SOFT_FILTERS = _index(SoftRow, "filters")
SOFT_PADDED = _index(SoftRow, "padded")
SOFT_OF_PSI = _index(SoftRow, "of_psi")
SOFT_FIRST_SUM = _index(SoftRow, "first_sum")
SOFT_SUMS = _index(SoftRow, "sums")

GRADIENT_WIDTH = _width(GradientRow)
GRADIENT_FILTERS = _index(GradientRow, "filters")
GRADIENT_SLICES = _index(GradientRow, "slices")
GRADIENT_POSITIONS = _index(GradientRow, "positions")
GRADIENT_STEPS = _index(GradientRow, "steps")
GRADIENT_PADDED = _index(GradientRow, "padded")
GRADIENT_COORDINATES = _index(GradientRow, "coordinates")
GRADIENT_MOMENTS = _index(GradientRow, "moments")
GRADIENT_OTHER_PADDED = _index(GradientRow, "other_padded")
GRADIENT_OTHER_COORDINATES = _index(GradientRow, "other_coordinates")
GRADIENT_OTHER_MOMENTS = _index(GradientRow, "other_moments")
GRADIENT_OF_PSI = _index(GradientRow, "of_psi")
GRADIENT_OUTPUT = _index(GradientRow, "output")

BLOCK_WIDTH = _width(BlockRow)
BLOCK_BANK = _index(BlockRow, "bank")
BLOCK_FIRST_FILTER = _index(BlockRow, "first_filter")
BLOCK_SLICE = _index(BlockRow, "slice")
BLOCK_STEP = _index(BlockRow, "step")


# ---- on the device ---------------------------------------------------------------------------------------------------


def on_device(table: Tensor, device: torch.device) -> Tensor:
    """A table, from the CPU; raises RuntimeError while a CUDA graph is captured, which must find it in the caches."""
    if device.type != "cuda":
        return table.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("the first call with these shapes can't be captured in a CUDA graph: make one before")
    # On a thread of its own: while torch.compile warms its graphs up, they own what the calling thread allocates.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(table.to, device).result()


def keep_if_captured(*tables: Tensor) -> None:
    """Keeps tables that a CUDA graph is being captured with: its replays read them, whatever the caches drop."""
    if tables[0].is_cuda and torch.cuda.is_current_stream_capturing():
        _captured.extend(tables)


_captured: list[Tensor] = []
