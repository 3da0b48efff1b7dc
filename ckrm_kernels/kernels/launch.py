"""Launches over prepared banks: tile and combine, listed, and the gradient of either."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ckrm_kernels.kernels import gradient, listed, plan, prepare, tables, tiles
from ckrm_kernels.kernels.configurations import ALL_REGISTERS, LAUNCH, Configuration, filters_at_once, slices_at_once
from ckrm_kernels.kernels.prepared import Prepared, positions_block

_INTERPRETED_PROGRAMS = 8  # a device of few programs, so that tiles are split
_ROWS_OF_COMBINE = 8  # of a tile, that a program combines
_MOST_BINS = 1024  # of intervals, that a program counts at a time


def launch_tiles(
    banks: Prepared,
    rows: tuple[plan.Place, ...],
    columns: tuple[plan.Place, ...] | None,
    out: Tensor,
    output: int,
    outputs: tuple[int, ...] = (0,),
    edges: Tensor | None = None,
) -> None:
    """Psi of rows x columns into out, or where columns is None that of all pairs of each bank.

    output: what becomes of Psi, see tiles.py; outputs: where in out that of each bank goes, see tables.TileRow
    edges: (E,) where Psi is counted
    """
    config, arithmetic = banks.configuration, banks.arithmetic
    tile_plan = plan.plan_tiles(rows, columns, outputs, config.tile, _programs(banks.device, config), banks.device)
    partial = torch.empty(tile_plan.slots, *config.tile, dtype=arithmetic.dtype, device=banks.device)
    edges = out if edges is None else edges
    number_of_edges = edges.numel() if output == tiles.COUNTS else 0
    bins = min(plan.power_of_2_above(number_of_edges + 2), _MOST_BINS)
    sides = {"ROWS": config.tile.rows, "COLUMNS": config.tile.columns}
    strip = min(_ROWS_OF_COMBINE, config.tile.rows)
    for batch in tile_plan.batches:
        tables.keep_if_captured(*batch)
        tiles.tile_kernel[(batch.items.shape[0],)](
            banks.data,
            batch.items,
            partial,
            **arithmetic.of_term(banks.device, banks.steps),
            STEPS=banks.steps,
            STAGES=config.stages,
            **sides,
            **config.options,
            **LAUNCH,
        )
        tiles.combine_kernel[(batch.tiles.shape[0], config.tile.rows // strip)](
            partial,
            batch.tiles,
            out,
            edges,
            number_of_edges,
            OUTPUT=output,
            **sides,
            STRIP=strip,
            BINS=bins,
            **LAUNCH,
        )


def launch_listed(bank: Prepared, pairs: Tensor, out: Tensor) -> None:
    """Psi of listed pairs (P, 2) into out (P,)."""
    (place,) = bank.places
    pairs_per_program = 8
    listed.listed_kernel[(plan.divide_up(out.numel(), pairs_per_program),)](
        bank.data,
        pairs.contiguous(),
        out,
        out.numel(),
        place.shape.filters,
        place.shape.slices,
        place.shape.steps,
        place.in_buffer,
        **bank.arithmetic.of_term(bank.device),
        PAIRS=pairs_per_program,
        SLICES=16,
        **ALL_REGISTERS,
        **LAUNCH,
    )


def launch_tile_gradient(banks: Prepared, rows: plan.Place, columns: plan.Place, grad: Tensor, out: Tensor) -> None:
    """The gradient of the bank `rows` into out, given that of Psi: (rows, columns), or packed where they are one."""
    packed = grad.dim() == 1
    spread, side = grad.new_empty(rows.padded, columns.padded), 32
    gradient.spread_gradient_kernel[(rows.padded // side, columns.padded // side)](
        grad,
        spread,
        rows.shape.filters,
        columns.shape.filters,
        grad.stride(0),
        0 if packed else grad.stride(1),
        columns.padded,
        PACKED=packed,
        BLOCK=side,
        **LAUNCH,
    )
    of_bank = _empty_gradients(banks, rows)
    side_of_rows, side_of_columns = banks.configuration.gradient_tile
    steps = rows.shape.steps
    gradient.tile_gradient_kernel[(rows.shape.slices, plan.divide_up(rows.shape.filters, side_of_rows), max(1, steps))](
        banks.data,
        spread,
        of_bank,
        rows.in_buffer,
        columns.in_buffer,
        steps,
        **banks.arithmetic.of_gradient(banks.device, steps),
        STEPS=steps if steps < 2 else -1,
        ROWS=side_of_rows,
        COLUMNS=side_of_columns,
        STAGES=banks.configuration.gradient_stages,
        **banks.configuration.gradient_options,
        **LAUNCH,
    )
    _launch_finish_gradient(banks, rows, of_bank, out)


def launch_listed_gradient(bank: Prepared, pairs: Tensor, grad: Tensor, out: Tensor) -> None:
    """The gradient of the bank into out, given that of the Psi of listed pairs (P, 2)."""
    (place,) = bank.places
    shape, slices_per_program = place.shape, 32
    filters, order = pairs.T.flatten().sort(stable=True)
    starts = torch.searchsorted(filters, torch.arange(shape.filters + 1, device=bank.device))
    others, grads = pairs.flip(1).T.flatten()[order], grad.repeat(2)[order]
    of_bank = _empty_gradients(bank, place)
    gradient.listed_gradient_kernel[
        (shape.filters, plan.divide_up(shape.slices, slices_per_program), max(1, shape.steps))
    ](
        bank.data,
        grads,
        others,
        starts,
        of_bank,
        shape.filters,
        shape.slices,
        shape.steps,
        place.in_buffer,
        **bank.arithmetic.of_gradient(bank.device),
        SLICES=slices_per_program,
        **ALL_REGISTERS,
        **LAUNCH,
    )
    _launch_finish_gradient(bank, place, of_bank, out)


def _empty_gradients(banks: Prepared, place: plan.Place) -> tuple[Tensor, Tensor]:
    """Of a bank's coordinates and moments, see prepare.finish_gradient_kernel."""
    slices = place.shape.slices
    of_coordinates = banks.data.new_empty(slices * place.coordinate_stride)
    return of_coordinates, banks.data.new_empty(2 * slices * place.padded)


def _launch_finish_gradient(banks: Prepared, place: plan.Place, of_bank: tuple[Tensor, Tensor], out: Tensor) -> None:
    """The gradient of a weight into out, contiguous."""
    shape, positions = place.shape, positions_block(place.shape.steps)
    block = slices_at_once(positions)
    filters = filters_at_once(block)
    programs = plan.divide_up(shape.filters, filters) * plan.divide_up(shape.slices, block // filters)
    prepare.finish_gradient_kernel[(programs,)](
        banks.data,
        of_bank,
        out,
        *shape,
        shape.steps,
        place.in_buffer,
        **banks.arithmetic.of_weight(banks.device),
        POSITIONS=positions,
        BLOCK=block,
        FILTERS=filters,
        **LAUNCH,
    )


@functools.cache
def _programs(device: torch.device, config: Configuration) -> int:
    """How many programs of the tile kernel the device runs at a time."""
    if device.type != "cuda":
        return _INTERPRETED_PROGRAMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count) * config.resident
