"""Launches over prepared banks: tile and combine, tile and soft count, listed, and the gradients."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ckrm_kernels.kernels import gradient, listed, plan, prepare, soft, tables, tiles
from ckrm_kernels.kernels.configurations import ALL_REGISTERS, LAUNCH, Configuration, filters_at_once, slices_at_once
from ckrm_kernels.kernels.prepared import Prepared, positions_block

_INTERPRETED_PROGRAMS = 8  # a device of few programs, so that tiles are split
_ROWS_OF_COMBINE = 8  # of a tile, that a program combines
_MOST_BINS = 1024  # of intervals, that a program counts at a time
_SUMS_AT_ONCE = 1024  # of soft counts, that a program adds


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
    config = banks.configuration
    tile_plan, partial = _plan_of_tiles(banks, rows, columns, outputs)
    edges = out if edges is None else edges
    number_of_edges = edges.numel() if output == tiles.COUNTS else 0
    for batch in tile_plan.batches:
        _launch_sums(banks, batch, partial)
        tiles.combine_kernel[(batch.tiles.shape[0], _strips(config))](
            partial,
            batch.tiles,
            out,
            edges,
            number_of_edges,
            OUTPUT=output,
            ROWS=config.tile.rows,
            COLUMNS=config.tile.columns,
            STRIP=config.tile.rows // _strips(config),
            BINS=min(plan.power_of_2_above(number_of_edges + 2), _MOST_BINS),
            **LAUNCH,
        )


def launch_soft(
    banks: Prepared,
    rows: tuple[int, ...],
    thresholds: Tensor,
    temperature: Tensor,
    values: Tensor,
    with_gradient: bool,
) -> Tensor:
    """The soft share of each bank's pairs into values, at its row of these and of the thresholds (see soft.py).

    out: with_gradient what every Psi gets of it, (padded, padded) of each bank side by side; else of no elements
    """
    config, places = banks.configuration, banks.places
    tile_plan, partial = _plan_of_tiles(banks, places, None, tuple(range(len(places))))
    strips = _strips(config)
    table = plan.soft_table(places, rows, config.tile, strips, banks.device)
    tables.keep_if_captured(table)
    sums = partial.new_empty(sum(batch.tiles.shape[0] for batch in tile_plan.batches) * strips)
    of_psi = partial.new_zeros(sum(place.padded**2 for place in places) if with_gradient else 0)
    first_tile = 0
    for batch in tile_plan.batches:
        _launch_sums(banks, batch, partial)
        soft.soft_kernel[(batch.tiles.shape[0], strips)](
            partial,
            batch.tiles,
            table,
            thresholds,
            temperature,
            of_psi,
            sums,
            first_tile,
            WITH_GRADIENT=with_gradient,
            ROWS=config.tile.rows,
            COLUMNS=config.tile.columns,
            STRIP=config.tile.rows // strips,
            **LAUNCH,
        )
        first_tile += batch.tiles.shape[0]
    soft.soft_mean_kernel[(len(places),)](sums, table, values, BLOCK=_SUMS_AT_ONCE, **LAUNCH)
    return of_psi


def _plan_of_tiles(
    banks: Prepared,
    rows: tuple[plan.Place, ...],
    columns: tuple[plan.Place, ...] | None,
    outputs: tuple[int, ...],
) -> tuple[plan.TilePlan, Tensor]:
    """The tiles, and memory for their sums."""
    config = banks.configuration
    tile_plan = plan.plan_tiles(rows, columns, outputs, config.tile, _programs(banks.device, config), banks.device)
    return tile_plan, banks.data.new_empty(tile_plan.slots, *config.tile)


def _launch_sums(banks: Prepared, batch: plan.Batch, partial: Tensor) -> None:
    """The sums of a batch's items, each to its slot."""
    config = banks.configuration
    tables.keep_if_captured(*batch)
    tiles.tile_kernel[(batch.items.shape[0],)](
        banks.data,
        batch.items,
        partial,
        **banks.arithmetic.of_term(banks.device, banks.steps),
        STEPS=banks.steps,
        STAGES=config.stages,
        ROWS=config.tile.rows,
        COLUMNS=config.tile.columns,
        **config.options,
        **LAUNCH,
    )


def _strips(config: Configuration) -> int:
    """Into which a tile is cut, a program each, when its parts are combined."""
    return max(1, config.tile.rows // _ROWS_OF_COMBINE)


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


def spread_gradient(rows: plan.Place, columns: plan.Place, grad: Tensor) -> Tensor:
    """The gradient of Psi as `launch_tile_gradient` takes it; grad: (rows, columns), or packed where they are one."""
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
    return spread


def launch_tile_gradient(
    banks: Prepared, rows: tuple[plan.Place, ...], columns: tuple[plan.Place, ...], of_psi: Tensor, out: Tensor
) -> None:
    """The gradients of the banks `rows` into out, one after another.

    of_psi: the gradient of the Psi of each with its bank of `columns`, (padded rows, padded columns), one after another
    """
    device, steps = banks.device, banks.steps
    side_of_rows, side_of_columns = banks.configuration.gradient_tile
    table = plan.gradient_table(rows, columns, device)
    blocks = plan.gradient_blocks(rows, columns, side_of_rows, device)
    tables.keep_if_captured(table, blocks)
    of_buffer = torch.empty_like(banks.data)
    gradient.tile_gradient_kernel[(blocks.shape[0],)](
        banks.data,
        of_psi,
        of_buffer,
        table,
        blocks,
        **banks.arithmetic.of_gradient(device, steps),
        STEPS=steps,
        ROWS=side_of_rows,
        COLUMNS=side_of_columns,
        STAGES=banks.configuration.gradient_stages,
        **banks.configuration.gradient_options,
        **LAUNCH,
    )
    _launch_finish_gradient(banks, rows, table, of_buffer, out)


def launch_listed_gradient(bank: Prepared, pairs: Tensor, grad: Tensor, out: Tensor) -> None:
    """The gradient of the bank into out, given that of the Psi of listed pairs (P, 2)."""
    (place,) = bank.places
    shape, slices_per_program = place.shape, 32
    filters, order = pairs.T.flatten().sort(stable=True)
    starts = torch.searchsorted(filters, torch.arange(shape.filters + 1, device=bank.device))
    others, grads = pairs.flip(1).T.flatten()[order], grad.repeat(2)[order]
    of_buffer = torch.empty_like(bank.data)
    gradient.listed_gradient_kernel[
        (shape.filters, plan.divide_up(shape.slices, slices_per_program), max(1, shape.steps))
    ](
        bank.data,
        grads,
        others,
        starts,
        of_buffer,
        shape.filters,
        shape.slices,
        shape.steps,
        place.in_buffer,
        **bank.arithmetic.of_gradient(bank.device),
        SLICES=slices_per_program,
        **ALL_REGISTERS,
        **LAUNCH,
    )
    table = plan.gradient_table(bank.places, bank.places, bank.device)
    _launch_finish_gradient(bank, bank.places, table, of_buffer, out)


def _launch_finish_gradient(
    banks: Prepared, places: tuple[plan.Place, ...], table: Tensor, of_buffer: Tensor, out: Tensor
) -> None:
    """The gradients of weights into out, one after another, given those of their banks; table: of GradientRow."""
    positions = positions_block(max(place.shape.steps for place in places))
    block = slices_at_once(positions)
    filters = filters_at_once(block)
    programs = plan.finish_programs(places, filters, block // filters, banks.device)
    tables.keep_if_captured(table, programs)
    prepare.finish_gradient_kernel[(programs.shape[0],)](
        banks.data,
        of_buffer,
        out,
        table,
        programs,
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
