"""The operators of ops.py on Triton kernels: each checks its arguments, prepares its weights, launches and returns."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ckrm_kernels.kernels import tiles
from ckrm_kernels.kernels.arguments import check_alike, check_edges, check_gradient, check_pairs, check_weight
from ckrm_kernels.kernels.arithmetic import Arithmetic
from ckrm_kernels.kernels.launch import (
    launch_listed,
    launch_listed_gradient,
    launch_soft,
    launch_tile_gradient,
    launch_tiles,
    spread_gradient,
)
from ckrm_kernels.kernels.prepared import indices_by_buffer, prepare_banks
from ckrm_kernels.ops import check_soft, result_dtype


def pairwise_psi(weight: Tensor, similarity: str, signed: bool, parameters: Sequence[float]) -> Tensor:
    """Omega, packed: see `reference.pairwise_psi`."""
    arithmetic = Arithmetic.of(weight.dtype, similarity, signed, parameters)
    check_weight(weight)
    n = weight.shape[0]
    out = weight.new_empty(n * (n - 1) // 2, dtype=result_dtype(weight.dtype))
    if n >= 2:
        with _device_of(weight):
            bank = prepare_banks([weight], arithmetic)
            launch_tiles(bank, bank.places, None, out, tiles.PACKED)
    return out


def cross_psi(a: Tensor, b: Tensor, similarity: str, signed: bool, parameters: Sequence[float]) -> Tensor:
    """Psi of a x b: see `reference.cross_psi`."""
    arithmetic = Arithmetic.of(a.dtype, similarity, signed, parameters)
    check_alike(a, b)
    out = a.new_empty(a.shape[0], b.shape[0], dtype=result_dtype(a.dtype))
    if out.numel():
        with _device_of(a):
            banks = prepare_banks([a, b], arithmetic)
            launch_tiles(banks, banks.places[:1], banks.places[1:], out, tiles.RECTANGLE)
    return out


def psi_counts(
    banks: Sequence[Tensor], edges: Tensor, similarity: str, signed: bool, parameters: Sequence[float]
) -> Tensor:
    """Numbers of pairs between edges: see `reference.psi_counts`. One launch each of prepare, tile and combine for all
    banks with slices of one number, for all of 2 to 9, and for all of more.

    banks: (F2, F1, *K) each, of any shapes, one dtype and device; edges: (E,) of the dtype that Psi is returned in
    out: (banks, E + 2) int64
    """
    for bank in banks:
        check_weight(bank)
        check_edges(edges, bank)
        if bank.dtype != banks[0].dtype:
            raise RuntimeError("banks must have one dtype")
        if bank.device != edges.device:
            raise RuntimeError("banks and edges must be on one device")
    arithmetic = Arithmetic.of(edges.dtype, similarity, signed, parameters)
    out = edges.new_zeros(len(banks), edges.numel() + 2, dtype=torch.int64)
    present = [index for index, bank in enumerate(banks) if bank.shape[0] >= 2]
    if not present:
        return out
    for some in indices_by_buffer(present, banks, arithmetic):
        with _device_of(banks[0]):
            prepared = prepare_banks([banks[index] for index in some], arithmetic, together=True)
            launch_tiles(prepared, prepared.places, None, out, tiles.COUNTS, tuple(some), edges.contiguous())
    return out


def soft_redundancy(
    banks: Sequence[Tensor],
    thresholds: Tensor,
    temperature: float,
    with_gradient: bool,
    similarity: str,
    signed: bool,
    parameters: Sequence[float],
) -> tuple[Tensor, list[Tensor]]:
    """See `reference.soft_redundancy`. One launch of each kernel for all banks with slices of one number, for all of 2
    to 9, and for all of more.

    banks, thresholds, out: see ops.SCHEMAS
    """
    for bank in banks:
        check_weight(bank)
    check_soft(banks, thresholds, temperature)
    arithmetic = Arithmetic.of(thresholds.dtype, similarity, signed, parameters)
    values = torch.zeros_like(thresholds, memory_format=torch.contiguous_format)
    gradients = [_gradient_of(bank) for bank in banks] if with_gradient else []
    present = [index for index, bank in enumerate(banks) if bank.shape[0] >= 2]
    if not present:
        return values, [gradient.zero_() for gradient in gradients]
    levels = thresholds.contiguous(), thresholds.new_full((1,), temperature)
    with _device_of(banks[0]):
        for some in indices_by_buffer(present, banks, arithmetic, with_gradient):
            of_run = [gradients[index] for index in some] if with_gradient else None
            _soft_redundancy_of_run([banks[index] for index in some], tuple(some), levels, values, of_run, arithmetic)
    for gradient in gradients:
        if gradient.shape[0] < 2:
            gradient.zero_()
    return values, gradients


def _soft_redundancy_of_run(
    banks: list[Tensor],
    rows: tuple[int, ...],
    levels: tuple[Tensor, Tensor],
    values: Tensor,
    gradients: list[Tensor] | None,
    arithmetic: Arithmetic,
) -> None:
    """Of banks that one launch takes; rows: of the thresholds, which `levels` holds beside the temperature."""
    prepared = prepare_banks(_copied_side_by_side(banks), arithmetic, together=True)
    of_psi = launch_soft(prepared, rows, *levels, values, with_gradient=gradients is not None)
    if gradients is not None:
        out, views = _side_by_side(gradients)
        launch_tile_gradient(prepared, prepared.places, prepared.places, of_psi, out)
        torch._foreach_copy_(gradients, views)


def _copied_side_by_side(banks: list[Tensor]) -> list[Tensor]:
    """The banks in one tensor, copied by one launch: where they stand in it is known from their shapes.

    Else the tables of a launch would hold addresses, which are new at every step where weights are computed, and
    unknown before a CUDA graph is captured.
    """
    _, views = _side_by_side(banks)
    torch._foreach_copy_(views, banks)
    return views


def _side_by_side(like: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """An uninitialised tensor, and views of it, contiguous, of these shapes and their dtype."""
    flat = like[0].new_empty(sum(each.numel() for each in like))
    parts = flat.split([each.numel() for each in like])
    return flat, [part.view(each.shape) for part, each in zip(parts, like, strict=True)]


def psi_of_pairs(weight: Tensor, pairs: Tensor, similarity: str, signed: bool, parameters: Sequence[float]) -> Tensor:
    """Psi of listed pairs: see `reference.psi_of_pairs`."""
    arithmetic = Arithmetic.of(weight.dtype, similarity, signed, parameters)
    check_weight(weight)
    check_pairs(pairs)
    out = weight.new_empty(pairs.shape[0], dtype=result_dtype(weight.dtype))
    if out.numel():
        with _device_of(weight):
            bank = prepare_banks([weight], arithmetic)
            launch_listed(bank, pairs, out)
    return out


def pairwise_psi_backward(
    grad: Tensor, weight: Tensor, similarity: str, signed: bool, parameters: Sequence[float]
) -> Tensor:
    """The weight's gradient, given that of Omega, packed."""
    arithmetic = Arithmetic.of(weight.dtype, similarity, signed, parameters)
    check_weight(weight)
    n = weight.shape[0]
    check_gradient(grad, (n * (n - 1) // 2,), weight)
    out = _gradient_of(weight)
    if n < 2:
        return out.zero_().to(weight.dtype)
    with _device_of(weight):
        bank = prepare_banks([weight], arithmetic)
        (place,) = bank.places
        launch_tile_gradient(bank, bank.places, bank.places, spread_gradient(place, place, grad), out)
    return out.to(weight.dtype)


def cross_psi_backward(
    grad: Tensor, a: Tensor, b: Tensor, similarity: str, signed: bool, parameters: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The gradients of a and b, given that of Psi (Na, Nb)."""
    arithmetic = Arithmetic.of(a.dtype, similarity, signed, parameters)
    check_alike(a, b)
    check_gradient(grad, (a.shape[0], b.shape[0]), a)
    of_a, of_b = _gradient_of(a), _gradient_of(b)
    if grad.numel() == 0:
        return of_a.zero_().to(a.dtype), of_b.zero_().to(b.dtype)
    with _device_of(a):
        banks = prepare_banks([a, b], arithmetic)
        rows, columns = banks.places
        launch_tile_gradient(banks, (rows,), (columns,), spread_gradient(rows, columns, grad), of_a)
        launch_tile_gradient(banks, (columns,), (rows,), spread_gradient(columns, rows, grad.T), of_b)
    return of_a.to(a.dtype), of_b.to(b.dtype)


def psi_of_pairs_backward(
    grad: Tensor, weight: Tensor, pairs: Tensor, similarity: str, signed: bool, parameters: Sequence[float]
) -> Tensor:
    """The weight's gradient, given that of the listed pairs' Psi."""
    arithmetic = Arithmetic.of(weight.dtype, similarity, signed, parameters)
    check_weight(weight)
    check_pairs(pairs)
    check_gradient(grad, (pairs.shape[0],), weight)
    out = _gradient_of(weight)
    if pairs.shape[0] == 0 or weight.shape[0] == 0:
        return out.zero_().to(weight.dtype)
    with _device_of(weight):
        bank = prepare_banks([weight], arithmetic)
        launch_listed_gradient(bank, pairs, grad, out)
    return out.to(weight.dtype)


def _gradient_of(weight: Tensor) -> Tensor:
    """Contiguous and of the dtype that Psi is returned in: torch rounds it to a half type at the end."""
    return torch.empty_like(weight, dtype=result_dtype(weight.dtype), memory_format=torch.contiguous_format)


def _device_of(weight: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(weight.device) if weight.is_cuda else contextlib.nullcontext()
