"""Filter banks as the kernels read them: coordinates and moments of several banks in one buffer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ckrm_kernels.kernels import plan, prepare, tables
from ckrm_kernels.kernels.arithmetic import Arithmetic
from ckrm_kernels.kernels.configurations import LAUNCH, Configuration, configuration, filters_at_once, slices_at_once

_LARGEST_BUFFER = 2**28  # elements, for many banks in one launch


class Prepared(NamedTuple):
    """Several banks in one buffer, ready for the kernels that compute psi."""

    data: Tensor
    places: tuple[plan.Place, ...]
    arithmetic: Arithmetic
    configuration: Configuration

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.data.device

    @property
    def steps(self) -> int:
        """Groups of 8 coordinates, the same in all banks; -1 where they differ or are several."""
        found = {place.shape.steps for place in self.places}
        return found.pop() if found in ({0}, {1}) else -1


def prepare_banks(weights: Sequence[Tensor], arithmetic: Arithmetic, together: bool = False) -> Prepared:
    """The weights of one dtype and device in one buffer.

    together: by one launch, whose tables hold where the weights stand in memory; else by one each, whose tables are
        known from the shapes, so that weights that are new at every call find them
    """
    weights = [weight if plan.kernel_dimensions(weight) else weight.contiguous() for weight in weights]
    device = weights[0].device
    shapes = tuple(shape_of(weight) for weight in weights)
    config = configuration(max(shape.steps for shape in shapes), arithmetic.double, device)
    buffer = plan.plan_buffer(shapes, config.tile, arithmetic.width)
    data = _allocate(buffer.size, arithmetic.dtype, device)
    placed = list(zip(weights, buffer.places, strict=True))
    for launched in [placed] if together else [[bank] for bank in placed]:
        _launch_prepare(launched, arithmetic, data)
    return Prepared(data, buffer.places, arithmetic, config)


def indices_by_buffer(
    indices: list[int], weights: Sequence[Tensor], arithmetic: Arithmetic, with_gradient: bool = False
) -> Iterator[list[int]]:
    """The indices of weights in runs whose buffers stay below _LARGEST_BUFFER elements, if one alone does.

    The slices of a run have none, one, or several groups of coordinates each: what is known when a kernel is compiled.
    with_gradient: whether a run has a gradient of each Psi too
    """
    runs: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for index in indices:
        shape = shape_of(weights[index])
        tile = configuration(shape.steps, arithmetic.double, weights[index].device).tile
        (place,), added = plan.plan_buffer((shape,), tile, arithmetic.width)
        added += place.padded**2 if with_gradient else 0
        groups = min(shape.steps, 2)
        if groups in runs and sizes[groups] + added > _LARGEST_BUFFER:
            yield runs.pop(groups)
        sizes[groups] = sizes[groups] + added if groups in runs else added
        runs.setdefault(groups, []).append(index)
    yield from runs.values()


def shape_of(weight: Tensor) -> plan.Shape:
    """The shape of a weight (F2, F1, *K)."""
    return plan.Shape(weight.shape[0], weight.shape[1], math.prod(weight.shape[2:]))


def positions_block(steps: int) -> int:
    """A power of two that holds K - 1 positions and the places of all coordinates, those that only pad too."""
    return plan.power_of_2_above(plan.COORDINATES_PER_STEP * steps)


def _allocate(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    try:
        return torch.empty(size, dtype=dtype, device=device)
    except torch.OutOfMemoryError as error:
        needed = size * dtype.itemsize / 2**30
        raise torch.OutOfMemoryError(
            f"the weight's slices take {needed:.1f} GiB of memory on {device}, more than is free"
        ) from error


def _launch_prepare(placed: list[tuple[Tensor, plan.Place]], arithmetic: Arithmetic, data: Tensor) -> None:
    first, steps = placed[0][0], [place.shape.steps for _, place in placed]
    most, fewest = positions_block(max(steps)), positions_block(min(steps))
    alike = arithmetic.double or most > fewest * slices_at_once(fewest)  # float64 needs the registers of two loops
    small = most if alike else fewest
    block = slices_at_once(small)
    filters = filters_at_once(block)
    rows = tuple(plan.bank_row(weight, first, place) for weight, place in placed)
    banks, programs = plan.prepare_tables(rows, filters, block // filters, first.device)
    tables.keep_if_captured(banks, programs)
    prepare.prepare_kernel[(programs.shape[0],)](
        first,
        banks,
        programs,
        data,
        **arithmetic.of_prepare(first.device),
        SMALL=small,
        POSITIONS=most,
        BLOCK=block,
        FILTERS=filters,
        CONTIGUOUS=all(row.is_contiguous for row in rows),
        **LAUNCH,
    )
