"""The work of a launch, built on the host: where each bank's prepared slices stand, and which tiles are computed.

One launch covers the tiles of all banks. A tile whose slices are many is split between programs, so that a narrow
layer keeps a GPU busy too: each writes its sums to a slot, and a second kernel adds a tile's slots in order.
Tables are kept by the shapes: a second call of the same shapes copies nothing to the device.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

COORDINATES_PER_STEP = 8  # the depth of one tf32 instruction of a tensor core
MOMENTS = 4  # mu, mu^2 / 2 + eps / 4, sigma, sigma^2 / 2 + eps / 4
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
    def coordinate_stride(self) -> int:
        """Elements from one slice's coordinates to the next one's."""
        return self.padded * self.shape.steps * self.width


class Buffer(NamedTuple):
    """The places of several banks in one buffer, and its size in elements."""

    places: tuple[Place, ...]
    size: int


Row = tuple[int, ...]  # of a table


def divide_up(a: int, b: int) -> int:
    """The smallest integer not below a / b."""
    return -(-a // b)


@functools.lru_cache(maxsize=256)
def buffer_of(shapes: tuple[Shape, ...], tile: Tile, width: int) -> Buffer:
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

PREPARE_FIELDS = (
    "offset",  # of the weight's first element from the first bank's
    "filters",
    "slices",
    "positions",
    "filter_stride",
    "slice_stride",
    "middle_size",  # of the kernel's last but one dimension
    "last_size",
    "first_stride",
    "middle_stride",
    "last_stride",
    "padded",
    "steps",
    "coordinates",
    "moments",
)


def tail_of(weight: Tensor) -> tuple[list[int], list[int]] | None:
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


def bank_row(weight: Tensor, first: Tensor, place: Place) -> tuple[int, ...]:
    """How the prepare kernel reads a weight, in the order of PREPARE_FIELDS."""
    tail = tail_of(weight)
    assert tail is not None
    sizes, strides = tail
    offset = (weight.data_ptr() - first.data_ptr()) // weight.element_size()
    shape = place.shape
    return (
        offset,
        *shape,
        *weight.stride()[:2],
        *sizes[1:],
        *strides,
        place.padded,
        shape.steps,
        place.coordinates,
        place.moments,
    )


@functools.lru_cache(maxsize=512)
def prepare_tables(rows: tuple[tuple[int, ...], ...], block: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The banks (B, 15) and the programs (P, 2): bank and first of the block's (filter, slice) rows."""
    padded, slices = PREPARE_FIELDS.index("padded"), PREPARE_FIELDS.index("slices")
    firsts = [torch.arange(0, row[padded] * row[slices], block, device="cpu") for row in rows]
    programs = [torch.stack([torch.full_like(first, index), first], 1) for index, first in enumerate(firsts)]
    return on_device(torch.tensor(rows, device="cpu"), device), on_device(torch.cat(programs), device)


# ---- pairs -----------------------------------------------------------------------------------------------------------

ITEM_FIELDS = (
    "row_coordinates",  # first elements, at the part's first slice
    "column_coordinates",
    "row_moments",
    "column_moments",
    "row_stride",  # of the coordinates, from slice to slice
    "column_stride",
    "padded_rows",
    "padded_columns",
    "slices",  # of this part
    "steps",
    "slot",  # where the sums go
)
TILE_FIELDS = (
    "first_row",
    "first_column",
    "rows",  # filters of the bank
    "columns",
    "slices",  # of a filter
    "output",  # the bank's first element of the output, or its row of the counts
    "slot",  # the first of its parts
    "parts",
)


class Batch(NamedTuple):
    """One launch of the pair kernel, over items (I, 11), and of the reduction of its tiles (T, 8)."""

    items: Tensor
    tiles: Tensor


class PairWork(NamedTuple):
    """Launches whose sums fill the same slots one after the other: one, unless a layer has thousands of filters."""

    batches: tuple[Batch, ...]
    slots: int


@functools.lru_cache(maxsize=256)
def pair_work(
    rows: tuple[Place, ...],
    columns: tuple[Place, ...] | None,
    outputs: tuple[int, ...],
    tile: Tile,
    programs: int,
    device: torch.device,
) -> PairWork:
    """The tiles of rows x columns, or where columns is None those that touch the triangle i < j of each bank.

    outputs: see TILE_FIELDS; programs: how many the device runs at a time
    """
    corners = [
        (a, b, output, i, j)
        for a, b, output in zip(rows, columns or rows, outputs, strict=True)
        for i in range(0, a.shape.filters, tile.rows)
        for j in range(0, b.shape.filters, tile.columns)
        if columns is not None or min(j + tile.columns, b.shape.filters) > i + 1
    ]
    length = _part_length([a.shape.slices for a, *_ in corners], programs)
    items: list[Row] = []
    tiles: list[Row] = []
    batches, most = [], 0
    for a, b, output, i, j in corners:
        slices, parts = a.shape.slices, divide_up(a.shape.slices, length)
        if items and len(items) + parts > _MOST_SLOTS:
            batches.append(_batch(items, tiles, device))
            items, tiles = [], []
        tiles.append((i, j, a.shape.filters, b.shape.filters, slices, output, len(items), parts))
        for part in range(parts):
            first, last = part * slices // parts, (part + 1) * slices // parts
            items.append(_item(a, b, i, j, first, last - first, len(items)))
        most = max(most, len(items))
    return PairWork((*batches, _batch(items, tiles, device)), most)


def _batch(items: list[Row], tiles: list[Row], device: torch.device) -> Batch:
    """The longest items first, so that none starts when the others are done."""
    slices, steps = ITEM_FIELDS.index("slices"), ITEM_FIELDS.index("steps")
    items.sort(key=lambda item: -item[slices] * max(1, item[steps]))
    return Batch(
        on_device(torch.tensor(items, device="cpu"), device), on_device(torch.tensor(tiles, device="cpu"), device)
    )


def _item(a: Place, b: Place, i: int, j: int, first: int, slices: int, slot: int) -> tuple[int, ...]:
    """In the order of ITEM_FIELDS."""
    per_filter = a.shape.steps * a.width
    return (
        a.coordinates + first * a.coordinate_stride + i * per_filter,
        b.coordinates + first * b.coordinate_stride + j * per_filter,
        a.moments + first * MOMENTS * a.padded + i,
        b.moments + first * MOMENTS * b.padded + j,
        a.coordinate_stride,
        b.coordinate_stride,
        a.padded,
        b.padded,
        slices,
        a.shape.steps,
        slot,
    )


def _part_length(slices: list[int], programs: int) -> int:
    """The length of parts, at least 8: twice as many as programs, unless there are more tiles, even their load out."""
    longest, wanted = min(max(slices, default=1), _MOST_SLICES), 2 * programs
    length = max(_FEWEST_SLICES, divide_up(sum(slices), wanted))
    if len(slices) < wanted:
        while length < longest and sum(divide_up(s, length) for s in slices) > wanted:
            length += 1
    return min(length, _MOST_SLICES)


def keep_if_captured(*tables: Tensor) -> None:
    """Keeps tables that a CUDA graph is being captured with: its replays read them, whatever the caches drop."""
    if tables[0].is_cuda and torch.cuda.is_current_stream_capturing():
        _captured.extend(tables)


_captured: list[Tensor] = []


def on_device(table: Tensor, device: torch.device) -> Tensor:
    """A table, from the CPU; raises RuntimeError while a CUDA graph is captured, which must find it in the caches."""
    if device.type != "cuda":
        return table.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("the first call with these shapes can't be captured in a CUDA graph: make one before")
    # On a thread of its own: while torch.compile warms its graphs up, they own what the calling thread allocates.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(table.to, device).result()
