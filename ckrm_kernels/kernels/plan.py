"""The work of a launch, built on the host: where each bank's prepared slices stand, and which tiles are computed.

One launch covers the tiles of all banks. A tile whose slices are many is split between programs, so that a narrow
layer keeps a GPU busy too: each writes its sums to a slot, and a second kernel adds a tile's slots in order.
Tables are kept by the shapes: a second call of the same shapes copies nothing to the device.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ckrm_kernels.kernels.tables import (
    BankRow,
    BlockRow,
    GradientRow,
    ItemRow,
    ProgramRow,
    SoftRow,
    TileRow,
    on_device,
)

COORDINATES_PER_STEP = 8  # the depth of one tf32 instruction of a tensor core
MOMENTS = 4  # mu and sigma, and after each a number of the similarity's
_ALIGNMENT = 64  # elements
_FEWEST_SLICES, _MOST_SLICES = 8, 256  # of a part of a tile; more would round too often in float32
_MOST_SLOTS = 4096  # of sums of a tile: 64 MiB


class Shape(NamedTuple):
    """A filter bank's filters F2, slices F1 and positions K."""

    filters: int
    slices: int
    positions: int

    @property
    def steps(self) -> int:
        """Groups of 8 that its K - 1 coordinates fill."""
        return divide_up(self.positions - 1, COORDINATES_PER_STEP)


class Tile(NamedTuple):
    """The filters that a program compares: rows against columns."""

    rows: int
    columns: int


class Place(NamedTuple):
    """Where a bank's coordinates [slice][filter][step][width] and moments [slice][moment][filter] stand.

    padded: filters, with those added to fill the tiles; coordinates, moments: first elements in the buffer
    width: elements of a step: 16 where each coordinate is split in two tf32 numbers, else 8
    """

    shape: Shape
    padded: int
    coordinates: int
    moments: int
    width: int

    @property
    def in_buffer(self) -> tuple[int, int, int]:
        """The kernels' argument: none is ever 1, which Triton would compile as a constant, and 3.4 not in a tuple."""
        return self.padded, self.coordinates, self.moments

    @property
    def filter_stride(self) -> int:
        """Elements from one filter's coordinates to the next one's, in a slice."""
        return self.shape.steps * self.width

    @property
    def coordinate_stride(self) -> int:
        """Elements from one slice's coordinates to the next one's."""
        return self.padded * self.filter_stride


class Buffer(NamedTuple):
    """The places of several banks in one buffer, and its size in elements."""

    places: tuple[Place, ...]
    size: int


def divide_up(a: int, b: int) -> int:
    """The smallest integer not below a / b."""
    return -(-a // b)


def power_of_2_above(number: int) -> int:
    """The smallest power of two not below it."""
    return 1 << max(0, number - 1).bit_length()


@functools.lru_cache(maxsize=256)
def plan_buffer(shapes: tuple[Shape, ...], tile: Tile, width: int) -> Buffer:
    """Gives every bank its place."""
    places, size = [], 0
    for shape in shapes:
        padded = divide_up(shape.filters, max(tile)) * max(tile)
        coordinates = size
        moments = coordinates + padded * shape.slices * shape.steps * width
        size = divide_up(moments + MOMENTS * padded * shape.slices, _ALIGNMENT) * _ALIGNMENT
        places.append(Place(shape, padded, coordinates, moments, width))
    return Buffer(tuple(places), size)


# ---- prepare ---------------------------------------------------------------------------------------------------------


def kernel_dimensions(weight: Tensor) -> tuple[list[int], list[int]] | None:
    """The sizes and strides of the kernel's dimensions as three; None if they are more, even merged."""
    sizes: list[int] = []
    strides: list[int] = []
    for size, stride in zip(weight.shape[2:], weight.stride()[2:], strict=True):
        if size == 1:
            continue
        if sizes and strides[-1] == size * stride:
            sizes[-1], strides[-1] = sizes[-1] * size, stride
        else:
            sizes.append(size)
            strides.append(stride)
    if len(sizes) > 3:
        return None
    return [1] * (3 - len(sizes)) + sizes, [0] * (3 - len(sizes)) + strides


def bank_row(weight: Tensor, first: Tensor, place: Place) -> BankRow:
    """How prepare reads a weight; first: the weight that it has a pointer to."""
    dimensions = kernel_dimensions(weight)
    assert dimensions is not None
    (_, middle_size, last_size), (first_stride, middle_stride, last_stride) = dimensions
    shape = place.shape
    return BankRow(
        offset=(weight.data_ptr() - first.data_ptr()) // weight.element_size(),
        filters=shape.filters,
        slices=shape.slices,
        positions=shape.positions,
        filter_stride=weight.stride(0),
        slice_stride=weight.stride(1),
        middle_size=middle_size,
        last_size=last_size,
        first_stride=first_stride,
        middle_stride=middle_stride,
        last_stride=last_stride,
        padded=place.padded,
        steps=shape.steps,
        coordinates=place.coordinates,
        moments=place.moments,
    )


@functools.lru_cache(maxsize=512)
def prepare_tables(
    banks: tuple[BankRow, ...], filters: int, slices: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The tables of BankRow and of ProgramRow; filters, slices: of a program."""
    counts = [(bank.padded, bank.slices) for bank in banks]
    return _table(banks, device), on_device(_programs(counts, filters, slices), device)


def _programs(counts: Sequence[tuple[int, int]], filters: int, slices: int) -> Tensor:
    """Rows of ProgramRow; counts: of each bank's filters and slices; filters, slices: of a program."""
    of_banks = []
    for index, (all_filters, all_slices) in enumerate(counts):
        first_filter, first_slice = torch.cartesian_prod(
            torch.arange(0, all_filters, filters, device="cpu"), torch.arange(0, all_slices, slices, device="cpu")
        ).T
        columns = {
            "bank": torch.full_like(first_filter, index),
            "first_filter": first_filter,
            "first_slice": first_slice,
        }
        of_banks.append(torch.stack([columns[field] for field in ProgramRow._fields], 1))
    return torch.cat(of_banks)


# ---- tiles -----------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """One launch of tile, over a table of ItemRow, and of combine, over one of TileRow."""

    items: Tensor
    tiles: Tensor


class TilePlan(NamedTuple):
    """Launches whose sums fill the same slots one after the other: one, unless a layer has thousands of filters."""

    batches: tuple[Batch, ...]
    slots: int


@functools.lru_cache(maxsize=256)
def plan_tiles(
    rows: tuple[Place, ...],
    columns: tuple[Place, ...] | None,
    outputs: tuple[int, ...],
    tile: Tile,
    programs: int,
    device: torch.device,
) -> TilePlan:
    """The tiles of rows x columns, or where columns is None those that touch the triangle i < j of each bank.

    outputs: of each bank, see TileRow; programs: how many the device runs at a time
    """
    corners = [
        (a, b, output, i, j)
        for a, b, output in zip(rows, columns or rows, outputs, strict=True)
        for i, j in _corners(a.shape.filters, b.shape.filters, tile, columns is None)
    ]
    length = _part_length([a.shape.slices for a, *_ in corners], programs)
    items: list[ItemRow] = []
    tiles: list[TileRow] = []
    batches, slots = [], 0
    for a, b, output, i, j in corners:
        slices, parts = a.shape.slices, divide_up(a.shape.slices, length)
        if items and len(items) + parts > _MOST_SLOTS:
            batches.append(_batch(items, tiles, device))
            items, tiles = [], []
        tiles.append(
            TileRow(
                first_row=i,
                first_column=j,
                rows=a.shape.filters,
                columns=b.shape.filters,
                slices=slices,
                output=output,
                slot=len(items),
                parts=parts,
            )
        )
        for part in range(parts):
            first, last = part * slices // parts, (part + 1) * slices // parts
            items.append(_item(a, b, i, j, first, last - first, len(items)))
        slots = max(slots, len(items))
    return TilePlan((*batches, _batch(items, tiles, device)), slots)


def _corners(rows: int, columns: int, tile: Tile, triangular: bool) -> list[tuple[int, int]]:
    """The first filters of each tile of rows x columns; triangular: of those that touch the triangle i < j."""
    return [
        (i, j)
        for i in range(0, rows, tile.rows)
        for j in range(0, columns, tile.columns)
        if not triangular or min(j + tile.columns, columns) > i + 1
    ]


def _batch(items: list[ItemRow], tiles: list[TileRow], device: torch.device) -> Batch:
    """The longest items first, so that none starts when the others are done."""
    items.sort(key=lambda item: -item.slices * max(1, item.steps))
    return Batch(_table(items, device), _table(tiles, device))


def _item(a: Place, b: Place, i: int, j: int, first: int, slices: int, slot: int) -> ItemRow:
    """The tile of a and b whose first filters are i and j, from slice `first` on."""
    return ItemRow(
        row_coordinates=a.coordinates + first * a.coordinate_stride + i * a.filter_stride,
        column_coordinates=b.coordinates + first * b.coordinate_stride + j * b.filter_stride,
        row_moments=a.moments + first * MOMENTS * a.padded + i,
        column_moments=b.moments + first * MOMENTS * b.padded + j,
        row_stride=a.coordinate_stride,
        column_stride=b.coordinate_stride,
        padded_rows=a.padded,
        padded_columns=b.padded,
        slices=slices,
        steps=a.shape.steps,
        slot=slot,
    )


def _part_length(slices: list[int], programs: int) -> int:
    """The length of parts, at least 8: twice as many as programs, unless there are more tiles, even their load out."""
    longest, wanted = min(max(slices, default=1), _MOST_SLICES), 2 * programs
    length = max(_FEWEST_SLICES, divide_up(sum(slices), wanted))
    if len(slices) < wanted:
        while length < longest and sum(divide_up(s, length) for s in slices) > wanted:
            length += 1
    return min(length, _MOST_SLICES)


# ---- soft counts -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def soft_table(
    places: tuple[Place, ...], rows: tuple[int, ...], tile: Tile, strips: int, device: torch.device
) -> Tensor:
    """The table of SoftRow; rows: of the thresholds; strips: into which a tile of `plan_tiles` is cut, a sum each."""
    tiles = [len(_corners(place.shape.filters, place.shape.filters, tile, True)) for place in places]
    table = [
        SoftRow(
            row=row,
            filters=place.shape.filters,
            padded=place.padded,
            of_psi=of_psi,
            first_sum=first * strips,
            sums=number * strips,
        )
        for place, row, of_psi, first, number in zip(
            places, rows, starts([place.padded**2 for place in places]), starts(tiles), tiles, strict=True
        )
    ]
    return _table(table, device)


# ---- gradients -------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=512)
def gradient_table(rows: tuple[Place, ...], columns: tuple[Place, ...], device: torch.device) -> Tensor:
    """The table of GradientRow of the banks `rows`, each compared with one of `columns`; all gradients side by side."""
    of_psi = starts([row.padded * column.padded for row, column in zip(rows, columns, strict=True)])
    outputs = starts([math.prod(row.shape) for row in rows])
    table = [
        GradientRow(
            filters=row.shape.filters,
            slices=row.shape.slices,
            positions=row.shape.positions,
            steps=row.shape.steps,
            padded=row.padded,
            coordinates=row.coordinates,
            moments=row.moments,
            other_padded=column.padded,
            other_coordinates=column.coordinates,
            other_moments=column.moments,
            of_psi=first_of_psi,
            output=output,
        )
        for row, column, first_of_psi, output in zip(rows, columns, of_psi, outputs, strict=True)
    ]
    return _table(table, device)


@functools.lru_cache(maxsize=512)
def gradient_blocks(rows: tuple[Place, ...], columns: tuple[Place, ...], filters: int, device: torch.device) -> Tensor:
    """The table of BlockRow; filters: of a block. The longest first, so that none starts when the others are done."""
    longest_first = sorted(range(len(rows)), key=lambda index: -columns[index].padded * max(1, rows[index].shape.steps))
    of_banks = []
    for index in longest_first:
        shape = rows[index].shape
        step, first_filter, slice_ = torch.cartesian_prod(
            torch.arange(max(1, shape.steps), device="cpu"),
            torch.arange(0, shape.filters, filters, device="cpu"),
            torch.arange(shape.slices, device="cpu"),
        ).T
        fields = {"bank": torch.full_like(step, index), "first_filter": first_filter, "slice": slice_, "step": step}
        of_banks.append(torch.stack([fields[field] for field in BlockRow._fields], 1))
    return on_device(torch.cat(of_banks), device)


@functools.lru_cache(maxsize=512)
def finish_programs(places: tuple[Place, ...], filters: int, slices: int, device: torch.device) -> Tensor:
    """The table of ProgramRow of finish gradient; filters, slices: of a program."""
    return on_device(_programs([place.shape[:2] for place in places], filters, slices), device)


def starts(sizes: Sequence[int]) -> list[int]:
    """Where each of several begins that stand side by side."""
    return [0, *itertools.accumulate(sizes)][:-1]


def _table(rows: Sequence[tuple[int, ...]], device: torch.device) -> Tensor:
    return on_device(torch.tensor(rows, dtype=torch.int64, device="cpu"), device)
