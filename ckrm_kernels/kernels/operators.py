"""The operators of ops.py on Triton kernels: each prepares its weights, launches over the pairs and returns."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ckrm_kernels.kernels import gradient, listed, plan, prepare, term, tiles
from ckrm_kernels.kernels.configurations import ALL_REGISTERS, LAUNCH, Configuration, configuration, rows_at_once
from ckrm_kernels.ops import TRITON_MOST_POSITIONS, result_dtype

_SMALLEST_EPS = 2.0**-64  # below, float32 arithmetic would hold small weights only
_LARGEST_BUFFER = 2**28  # elements, for many banks in one launch
_INTERPRETED_PROGRAMS = 8  # a device of few programs, so that tiles are split


class Case(NamedTuple):
    """How the exponents are compiled, and how a weight is scaled: psi(c x, c y; c^2 eps) = psi(x, y; eps).

    double: float64 arithmetic, for float64 weights and an eps that is 0 or nearly
    scale: c, a power of two that puts eps c^2 / 2 into [2^-40, 2^-38), so that the reciprocal that three denominators
        share neither overflows nor vanishes
    scalars: eps c^2 and the exponents
    """

    double: bool
    scale: float
    scalars: tuple[float, float, float, float]

    @classmethod
    def of(cls, dtype: torch.dtype, alpha: float, beta: float, gamma: float, eps: float) -> Case:
        """The case of a weight's dtype."""
        double = dtype == torch.float64 or eps < _SMALLEST_EPS
        if double:
            scale = 2.0**150 if 0 < eps < 2.0**-900 else 1.0
        else:
            scale = 2.0 ** math.ceil((-39 - math.log2(eps)) / 2)
        return cls(double, scale, (eps * scale * scale, alpha, beta, gamma))

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic."""
        return torch.float64 if self.double else torch.float32

    @property
    def width(self) -> int:
        """Elements that a step of coordinates takes: in float32 each is split in two tf32 numbers."""
        return plan.COORDINATES_PER_STEP * (1 if self.double else 2)

    def arguments(self, device: torch.device) -> dict[str, Any]:
        """The kernels' arguments that say what psi is."""
        _, alpha, beta, gamma = self.scalars
        kinds = [_kind(alpha), _kind(beta), _kind(gamma)]
        if kinds[1] == kinds[2] == term.POWER.value and beta == gamma:
            kinds[2] = term.SHARED.value
        names = ("eps", "alpha", "beta", "gamma")
        return {
            **self.parameters(device),
            **dict(zip(names, self.scalars, strict=True)),
            "KINDS": tuple(kinds),
            "DOUBLE": self.double,
        }

    def parameters(self, device: torch.device) -> dict[str, Tensor | None]:
        """The scalars and the scale as float64 on the device, where float32 arguments are not enough."""
        if not self.double:
            return {"parameters": None}
        parameters = _parameters((*self.scalars, self.scale), device)
        plan.keep_if_captured(parameters)
        return {"parameters": parameters}


def _kind(exponent: float) -> int:
    kinds = {0.0: term.ZERO, 1.0: term.ONE}
    return int(kinds.get(exponent, term.POWER).value)


@functools.lru_cache(maxsize=64)
def _parameters(scalars: tuple[float, ...], device: torch.device) -> Tensor:
    return plan.on_device(torch.tensor(scalars, dtype=torch.float64, device="cpu"), device)


class Prepared(NamedTuple):
    """Several banks in one buffer, ready for the pair loops."""

    data: Tensor
    places: tuple[plan.Place, ...]
    case: Case
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

    @property
    def tile(self) -> dict[str, int]:
        """The kernels' arguments that say what a program computes."""
        tile = self.configuration.tile
        return {"ROWS": tile.rows, "COLUMNS": tile.columns}


# ---- the operators ---------------------------------------------------------------------------------------------------


def pairwise_psi(weight: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    """Omega, packed: see `reference.pairwise_psi`."""
    _check_weight(weight)
    n = weight.shape[0]
    out = weight.new_empty(n * (n - 1) // 2, dtype=result_dtype(weight.dtype))
    if n >= 2:
        with _device_of(weight):
            bank = _prepared([weight], Case.of(weight.dtype, alpha, beta, gamma, eps))
            _run_pairs(bank, bank.places, None, out, tiles.PACKED)
    return out


def cross_psi(a: Tensor, b: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    """Psi of a x b: see `reference.cross_psi`."""
    _check_alike(a, b)
    out = a.new_empty(a.shape[0], b.shape[0], dtype=result_dtype(a.dtype))
    if out.numel():
        with _device_of(a):
            banks = _prepared([a, b], Case.of(a.dtype, alpha, beta, gamma, eps))
            _run_pairs(banks, banks.places[:1], banks.places[1:], out, tiles.RECTANGLE)
    return out


def psi_counts(banks: Sequence[Tensor], edges: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    """Numbers of pairs between edges, in one launch each of prepare, pairs and reduce: see `reference.psi_counts`.

    banks: (F2, F1, *K) each, of any shapes, one dtype and device; edges: (E,) of the dtype that Psi is returned in
    out: (banks, E + 2) int64
    """
    for bank in banks:
        _check_weight(bank)
        _check_edges(edges, bank)
        if bank.dtype != banks[0].dtype:
            raise RuntimeError("banks must have one dtype")
        if bank.device != edges.device:
            raise RuntimeError("banks and edges must be on one device")
    out = edges.new_zeros(len(banks), edges.numel() + 2, dtype=torch.int64)
    present = [index for index, bank in enumerate(banks) if bank.shape[0] >= 2]
    if not present:
        return out
    case = Case.of(banks[0].dtype, alpha, beta, gamma, eps)
    for some in _that_fit(present, banks, case):
        with _device_of(banks[0]):
            prepared = _prepared([banks[index] for index in some], case, together=True)
            _run_pairs(prepared, prepared.places, None, out, tiles.COUNTS, tuple(some), edges.contiguous())
    return out


def psi_of_pairs(weight: Tensor, pairs: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    """Psi of listed pairs: see `reference.psi_of_pairs`."""
    _check_weight(weight)
    _check_pairs(pairs)
    out = weight.new_empty(pairs.shape[0], dtype=result_dtype(weight.dtype))
    if out.numel():
        with _device_of(weight):
            bank = _prepared([weight], Case.of(weight.dtype, alpha, beta, gamma, eps))
            (place,) = bank.places
            block_of_pairs = 8
            _launch(
                listed.pairs_kernel,
                (triton.cdiv(out.numel(), block_of_pairs),),
                bank.data,
                pairs.contiguous(),
                out,
                out.numel(),
                *_whereabouts(place),
                **bank.case.arguments(weight.device),
                PAIRS=block_of_pairs,
                SLICES=16,
            )
    return out


def pairwise_psi_backward(grad: Tensor, weight: Tensor, alpha: float, beta: float, gamma: float, eps: float) -> Tensor:
    """The weight's gradient, given that of Omega, packed."""
    _check_weight(weight)
    n = weight.shape[0]
    _check_gradient(grad, (n * (n - 1) // 2,), weight)
    out = _gradient_of(weight)
    if n < 2:
        return out.zero_().to(weight.dtype)
    with _device_of(weight):
        bank = _prepared([weight], Case.of(weight.dtype, alpha, beta, gamma, eps))
        _run_gradient(bank, bank.places[0], bank.places[0], grad, out)
    return out.to(weight.dtype)


def cross_psi_backward(
    grad: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float, gamma: float, eps: float
) -> tuple[Tensor, Tensor]:
    """The gradients of a and b, given that of Psi (Na, Nb)."""
    _check_alike(a, b)
    _check_gradient(grad, (a.shape[0], b.shape[0]), a)
    of_a, of_b = _gradient_of(a), _gradient_of(b)
    if grad.numel() == 0:
        return of_a.zero_().to(a.dtype), of_b.zero_().to(b.dtype)
    with _device_of(a):
        banks = _prepared([a, b], Case.of(a.dtype, alpha, beta, gamma, eps))
        _run_gradient(banks, banks.places[0], banks.places[1], grad, of_a)
        _run_gradient(banks, banks.places[1], banks.places[0], grad.T, of_b)
    return of_a.to(a.dtype), of_b.to(b.dtype)


def psi_of_pairs_backward(
    grad: Tensor, weight: Tensor, pairs: Tensor, alpha: float, beta: float, gamma: float, eps: float
) -> Tensor:
    """The weight's gradient, given that of the listed pairs' Psi."""
    _check_weight(weight)
    _check_pairs(pairs)
    _check_gradient(grad, (pairs.shape[0],), weight)
    out = _gradient_of(weight)
    if pairs.shape[0] == 0 or weight.shape[0] == 0:
        return out.zero_().to(weight.dtype)
    with _device_of(weight):
        bank = _prepared([weight], Case.of(weight.dtype, alpha, beta, gamma, eps))
        (place,) = bank.places
        filters, order = pairs.T.flatten().sort(stable=True)
        starts = torch.searchsorted(filters, torch.arange(weight.shape[0] + 1, device=weight.device))
        others, grads = pairs.flip(1).T.flatten()[order], grad.repeat(2)[order]
        of_coordinates, of_moments = _empty_gradients(bank, place)
        slices = 32
        grid = (weight.shape[0], triton.cdiv(place.shape.slices, slices), max(1, place.shape.steps))
        _launch(
            gradient.listed_gradient_kernel,
            grid,
            bank.data,
            grads,
            others,
            starts,
            of_coordinates,
            of_moments,
            *_whereabouts(place),
            **bank.case.arguments(weight.device),
            SLICES=slices,
            **ALL_REGISTERS,
        )
        _write_gradient(bank, place, of_coordinates, of_moments, out)
    return out.to(weight.dtype)


# ---- launches --------------------------------------------------------------------------------------------------------


def _prepared(weights: Sequence[Tensor], case: Case, together: bool = False) -> Prepared:
    """The weights of one dtype and device in one buffer.

    together: by one launch, whose tables hold where the weights stand in memory; else by one each, whose tables are
        known from the shapes, so that weights that are new at every call find them
    """
    weights = [weight if plan.tail_of(weight) else weight.contiguous() for weight in weights]
    device = weights[0].device
    shapes = tuple(_shape_of(weight) for weight in weights)
    config = configuration(max(shape.steps for shape in shapes), case.double, device)
    buffer = plan.buffer_of(shapes, config.tile, case.width)
    data = _buffer(buffer.size, case.dtype, device)
    placed = list(zip(weights, buffer.places, strict=True))
    for some in [placed] if together else [[one] for one in placed]:
        _launch_prepare(some, case, data)
    return Prepared(data, buffer.places, case, config)


def _launch_prepare(placed: list[tuple[Tensor, plan.Place]], case: Case, data: Tensor) -> None:
    first, shapes = placed[0][0], [place.shape for _, place in placed]
    rows = tuple(plan.bank_row(weight, first, place) for weight, place in placed)
    most, fewest = (_positions_block(shape) for shape in (max(shapes, key=_steps_of), min(shapes, key=_steps_of)))
    small = fewest if most <= fewest * rows_at_once(fewest, case.double) else most
    block = rows_at_once(small, case.double)
    banks, programs = plan.prepare_tables(rows, block, first.device)
    plan.keep_if_captured(banks, programs)
    _launch(
        prepare.prepare_kernel,
        (programs.shape[0],),
        first,
        banks,
        programs,
        data,
        **case.parameters(first.device),
        scale=case.scale,
        eps=case.scalars[0],
        SMALL=small,
        POSITIONS=most,
        BLOCK=block,
        DOUBLE=case.double,
    )


def _that_fit(indices: list[int], weights: Sequence[Tensor], case: Case) -> Iterator[list[int]]:
    """The indices of weights in runs whose buffers stay below _LARGEST_BUFFER elements, if one alone does."""
    some: list[int] = []
    size = 0
    for index in indices:
        shape = _shape_of(weights[index])
        tile = configuration(shape.steps, case.double, weights[index].device).tile
        more = plan.buffer_of((shape,), tile, case.width).size
        if some and size + more > _LARGEST_BUFFER:
            yield some
            some, size = [], 0
        some.append(index)
        size += more
    if some:
        yield some


def _shape_of(weight: Tensor) -> plan.Shape:
    return plan.Shape(weight.shape[0], weight.shape[1], math.prod(weight.shape[2:]))


def _buffer(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    try:
        return torch.empty(size, dtype=dtype, device=device)
    except torch.OutOfMemoryError as error:
        needed = size * dtype.itemsize / 2**30
        raise torch.OutOfMemoryError(
            f"the weight's slices take {needed:.1f} GiB of memory on {device}, more than is free"
        ) from error


def _steps_of(shape: plan.Shape) -> int:
    return shape.steps


def _positions_block(shape: plan.Shape) -> int:
    """A power of two that holds K positions and the places of all coordinates, those that only pad too."""
    return int(triton.next_power_of_2(plan.COORDINATES_PER_STEP * shape.steps + 1))


def _run_pairs(
    banks: Prepared,
    rows: tuple[plan.Place, ...],
    columns: tuple[plan.Place, ...] | None,
    out: Tensor,
    output: int,
    outputs: tuple[int, ...] = (0,),
    edges: Tensor | None = None,
) -> None:
    """Launches the pair kernel and the one that adds the parts of its tiles and writes Psi, or counts."""
    config = banks.configuration
    work_items = plan.pair_work(rows, columns, outputs, config.tile, _programs(banks.device, config), banks.device)
    partial = torch.empty(work_items.slots, *config.tile, dtype=banks.case.dtype, device=banks.device)
    edges = out if edges is None else edges
    for batch in work_items.batches:
        plan.keep_if_captured(*batch)
        _launch(
            tiles.pair_kernel,
            (batch.items.shape[0],),
            banks.data,
            batch.items,
            partial,
            **banks.case.arguments(banks.device),
            STEPS=banks.steps,
            **banks.tile,
            **config.options,
        )
        strip = min(8, config.tile.rows)
        _launch(
            tiles.reduce_kernel,
            (batch.tiles.shape[0], config.tile.rows // strip),
            partial,
            batch.tiles,
            out,
            edges,
            edges.numel() if output == tiles.COUNTS else 0,
            OUTPUT=output,
            **banks.tile,
            STRIP=strip,
        )


def _run_gradient(banks: Prepared, rows: plan.Place, columns: plan.Place, grad: Tensor, out: Tensor) -> None:
    """The gradient of the bank `rows` into out, given that of Psi: (rows, columns), or packed where they are one."""
    packed = grad.dim() == 1
    spread = grad.new_empty(rows.padded, columns.padded)
    _launch(
        gradient.spread_kernel,
        (rows.padded // 32, columns.padded // 32),
        grad,
        spread,
        rows.shape.filters,
        columns.shape.filters,
        grad.stride(0),
        0 if packed else grad.stride(1),
        columns.padded,
        PACKED=packed,
        BLOCK=32,
    )
    of_coordinates, of_moments = _empty_gradients(banks, rows)
    tile = banks.configuration.gradient_tile
    steps = rows.shape.steps
    _launch(
        gradient.gradient_kernel,
        (rows.shape.slices, triton.cdiv(rows.shape.filters, tile.rows), max(1, steps)),
        banks.data,
        spread,
        of_coordinates,
        of_moments,
        rows.padded,
        columns.padded,
        rows.coordinates,
        columns.coordinates,
        rows.moments,
        columns.moments,
        steps,
        **banks.case.arguments(banks.device),
        STEPS=steps if steps < 2 else -1,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        **banks.configuration.gradient_options,
    )
    _write_gradient(banks, rows, of_coordinates, of_moments, out)


def _gradient_of(weight: Tensor) -> Tensor:
    """Contiguous and of the dtype that Psi is returned in: torch rounds it to a half type at the end."""
    return torch.empty_like(weight, dtype=result_dtype(weight.dtype), memory_format=torch.contiguous_format)


def _empty_gradients(banks: Prepared, place: plan.Place) -> tuple[Tensor, Tensor]:
    of_coordinates = torch.empty(
        place.shape.slices * place.coordinate_stride, dtype=banks.case.dtype, device=banks.device
    )
    return of_coordinates, of_coordinates.new_empty(2 * place.shape.slices * place.padded)


def _write_gradient(
    banks: Prepared, place: plan.Place, of_coordinates: Tensor, of_moments: Tensor, out: Tensor
) -> None:
    positions = _positions_block(place.shape)
    block = rows_at_once(positions, banks.case.double)
    _launch(
        prepare.weight_gradient_kernel,
        (triton.cdiv(place.shape.filters * place.shape.slices, block),),
        banks.data,
        of_coordinates,
        of_moments,
        out,
        *place.shape,
        place.padded,
        place.shape.steps,
        place.coordinates,
        place.moments,
        **banks.case.parameters(banks.device),
        scale=banks.case.scale,
        POSITIONS=positions,
        ROWS=block,
        DOUBLE=banks.case.double,
    )


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    kernel[grid](*arguments, **constants, **LAUNCH)


def _whereabouts(place: plan.Place) -> tuple[int, int, int, int, int, int]:
    """Filters, slices, padded filters, steps, and where the coordinates and moments stand."""
    shape = place.shape
    return shape.filters, shape.slices, place.padded, shape.steps, place.coordinates, place.moments


def _programs(device: torch.device, config: Configuration) -> int:
    """How many programs of the pair kernel the device runs at a time."""
    if device.type != "cuda":
        return _INTERPRETED_PROGRAMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count) * config.resident


def _device_of(weight: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(weight.device) if weight.is_cuda else contextlib.nullcontext()


# ---- checks ----------------------------------------------------------------------------------------------------------
# The public functions check their arguments before; these hold for whoever calls torch.ops directly, and say what
# csrc says.


def _check_weight(weight: Tensor) -> None:
    if weight.dim() < 2:
        raise RuntimeError(f"weight must have the shape (F2, F1, *K), got {weight.dim()} dimensions")
    if weight.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise RuntimeError("weight must be float32, float64, float16 or bfloat16")
    shape = _shape_of(weight)
    if shape.filters > 0 and shape.slices * shape.positions == 0:
        raise RuntimeError("weight has filters without slices")
    if shape.positions > TRITON_MOST_POSITIONS:
        raise RuntimeError(
            f"weight has slices of {shape.positions} numbers, the Triton kernels take at most {TRITON_MOST_POSITIONS}"
        )


def _check_alike(a: Tensor, b: Tensor) -> None:
    _check_weight(a)
    _check_weight(b)
    if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype or a.device != b.device:
        raise RuntimeError("a and b must have slices of one number and shape, one dtype and one device")


def _check_pairs(pairs: Tensor) -> None:
    if pairs.dim() != 2 or pairs.shape[1] != 2 or pairs.dtype != torch.int64:
        raise RuntimeError("pairs must be an int64 tensor of shape (P, 2)")


def _check_edges(edges: Tensor, weight: Tensor) -> None:
    if edges.dim() != 1 or edges.dtype != result_dtype(weight.dtype):
        raise RuntimeError("edges must be one-dimensional and of the dtype that Psi is returned in")


def _check_gradient(grad: Tensor, shape: tuple[int, ...], weight: Tensor) -> None:
    if tuple(grad.shape) != shape or grad.dtype != result_dtype(weight.dtype):
        raise RuntimeError(f"grad must have the shape {shape} and the dtype that Psi is returned in")
