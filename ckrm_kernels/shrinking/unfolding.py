"""A layer as a matrix product: the columns of its inputs, the rows of its outputs, its weight as a matrix.

Row p of a call is output position p, counted over the batch and the positions of each example in the order of the
output. Of groups g, filters f and columns k (the input channels of a group, kernel positions within each)

    output[p, g F + f] = sum over k of columns[p, g, k] matrix[g, f, k] + bias[g F + f].

A transposed convolution is one of stride 1 over its input with zeros between, its kernel turned round.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Unfoldable = _ConvNd | nn.Linear


def row_count(module: Unfoldable, output: Tensor) -> int:
    """How many rows a call of the module has, by its output."""
    return output.numel() // filter_count(module)


def filter_count(module: Unfoldable) -> int:
    """The module's outputs: the filters of all groups."""
    return module.out_channels if isinstance(module, _ConvNd) else module.out_features


def output_size(module: Unfoldable, output: Tensor) -> Sequence[int] | None:
    """The spatial size of a transposed convolution's output, which its input leaves open; None of others."""
    return output.shape[-len(module.kernel_size) :] if isinstance(module, _ConvTransposeNd) else None


def sampled(count: int, at_most: int, seed: int) -> Tensor:
    """Positions (at most `at_most`,) int64, ascending, drawn from range(count) without replacement; a fixed draw."""
    if count <= at_most:
        return torch.arange(count)
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return drawn[:at_most].sort().values


def columns(module: Unfoldable, input: Tensor, positions: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
    """What the module's weight is multiplied with at some positions: (positions, groups, columns), the input's dtype.

    input: of a call: (N, C, *spatial) or (C, *spatial) of a convolution, (..., C) of a linear layer
    positions: (P,) int64, rows of the call
    output_size: the output's, of a transposed convolution that was called with one
    """
    positions = positions.to(input.device)
    if isinstance(module, nn.Linear):
        return input.reshape(-1, module.in_features)[positions].unsqueeze(1)
    dims = len(module.kernel_size)
    if input.ndim == dims + 1:
        input = input.unsqueeze(0)
    windows = _windows(module, input, output_size)
    places = torch.unravel_index(positions, windows.shape[: dims + 1])
    return windows[places].reshape(len(positions), module.groups, -1)


def rows(module: Unfoldable, output: Tensor, positions: Tensor) -> Tensor:
    """The module's outputs at some positions: (positions, filters), the output's dtype."""
    positions = positions.to(output.device)
    if isinstance(module, nn.Linear):
        return output.reshape(-1, module.out_features)[positions]
    dims = len(module.kernel_size)
    if output.ndim == dims + 1:
        output = output.unsqueeze(0)
    output = output.movedim(1, -1)
    return output[torch.unravel_index(positions, output.shape[:-1])]


def matrix(module: Unfoldable, weight: Tensor) -> Tensor:
    """A weight of the module's shape as (groups, filters of a group, columns); a copy where it must be."""
    if isinstance(module, nn.Linear):
        return weight.unsqueeze(0)
    if isinstance(module, _ConvTransposeNd):
        weight = weight.unflatten(0, (module.groups, -1)).transpose(1, 2)
    else:
        weight = weight.unflatten(0, (module.groups, -1))
    return weight.flatten(3).flatten(2)


def weight_of(module: Unfoldable, matrix: Tensor) -> Tensor:
    """The weight whose matrix it is: the inverse of `matrix`."""
    if isinstance(module, nn.Linear):
        return matrix.squeeze(0)
    weight = matrix.unflatten(2, (-1, *module.kernel_size))
    if isinstance(module, _ConvTransposeNd):
        weight = weight.transpose(1, 2)
    return weight.flatten(0, 1)


def _windows(module: _ConvNd, input: Tensor, output_size: Sequence[int] | None) -> Tensor:
    """(N, *output, C, *kernel): a view of the padded input."""
    dims, stride = len(module.kernel_size), module.stride
    if isinstance(module, _ConvTransposeNd):
        padded, stride = _spread(module, input, output_size), (1,) * dims
    else:
        padded = _padded(module, input)
    for dim in range(dims):
        padded = padded.unfold(dim + 2, module.dilation[dim] * (module.kernel_size[dim] - 1) + 1, stride[dim])
    windows = _every(padded, module.dilation, dims + 2).movedim(1, dims + 1)
    return windows.flip(tuple(range(dims + 2, 2 * dims + 2))) if module.transposed else windows


def _every(tensor: Tensor, steps: Sequence[int], first: int) -> Tensor:
    """A view of each step-th element, in the dimensions from the first on."""
    for dim, step in enumerate(steps, start=first):
        tensor = tensor[(slice(None),) * dim + (slice(None, None, step),)]
    return tensor


def _padded(module: _ConvNd, input: Tensor) -> Tensor:
    sides: list[int] = []
    for dim in reversed(range(len(module.kernel_size))):
        if isinstance(module.padding, str):
            both = module.dilation[dim] * (module.kernel_size[dim] - 1) if module.padding == "same" else 0
            sides += [both // 2, both - both // 2]
        else:
            sides += [int(module.padding[dim])] * 2
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(input, sides, mode=mode) if any(sides) else input


def _spread(module: _ConvTransposeNd, input: Tensor, output_size: Sequence[int] | None) -> Tensor:
    """The input with stride - 1 zeros between its elements, padded to as many windows as the output has elements."""
    dims = range(len(module.kernel_size))
    lengths = [(size - 1) * module.stride[dim] + 1 for dim, size in enumerate(input.shape[2:])]
    spread = input.new_zeros((*input.shape[:2], *lengths))
    _every(spread, module.stride, 2).copy_(input)
    sides: list[int] = []
    for dim in reversed(dims):
        reach = module.dilation[dim] * (module.kernel_size[dim] - 1)
        left = reach - int(module.padding[dim])
        if output_size is None:
            right = left + int(module.output_padding[dim])
        else:
            right = int(output_size[dim]) + reach - lengths[dim] - left
        sides += [left, right]
    return F.pad(spread, sides)
