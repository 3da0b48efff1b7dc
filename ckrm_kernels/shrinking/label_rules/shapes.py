"""Operations that only move elements: run on the labels themselves wherever they can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ckrm_kernels.shrinking.label_rules.call import Along, Call, Rule, named
from ckrm_kernels.shrinking.label_rules.products import frozen
from ckrm_kernels.shrinking.labels import Vector


def moved(call: Call) -> Along:
    """The operation moves the labels as it moves the elements."""
    if len(list(call.tensors())) > 1:
        return frozen(call)
    return _settled(call, {dim: call.run(call.first, dim) for dim in call.first.along})


def reshaped(call: Call) -> Along:
    """The elements in their order in another shape, whose sizes may be constants."""
    computed = _computed_sizes(call)
    planes = {dim: call.first.plane(dim).reshape(call.shape) for dim in call.first.along}
    return _settled(call, planes, computed)


def _computed_sizes(call: Call) -> list[bool]:
    """For each dimension of the result whether its size is computed, not a constant."""
    sizes, rank = call.source.numbers or (), len(call.shape)
    computed = [True] * rank
    if call.name == "unflatten":
        first, count = call["dim"] % len(call.first.shape), len(call["sizes"])
        computed[first : first + count] = [is_computed for _, is_computed in sizes[-count:]]
    elif len(sizes) == rank and "dim" not in call.arguments:
        computed = [is_computed for _, is_computed in sizes]
    return computed


def _settled(call: Call, planes: Mapping[int, torch.Tensor], computed: Sequence[bool] | None = None) -> Along:
    along: Along = {}
    for plane in planes.values():
        for dim, vector in call.settle(plane, computed).items():
            if dim in along and call.classes.all_fixed(along[dim]):
                del along[dim]
            if dim not in along:
                along[dim] = vector
            elif not call.classes.all_fixed(vector):
                call.fix(torch.cat([vector, along.pop(dim)]), "two dimensions with filters made one")
    return along


def rolled(call: Call) -> Along:
    """Round a dimension: right for one width only."""
    tensor = call["self"]
    dims = call["dims"] or list(range(len(tensor.shape)))
    places = {dim % len(tensor.shape) for dim in ([dims] if isinstance(dims, int) else dims)}
    for dim in places & set(tensor.along):
        call.fix(tensor.along[dim], "rolled along its filters")
    return {dim: vector for dim, vector in tensor.along.items() if dim not in places}


def expanded(call: Call) -> Along:
    """A dimension of size 1 repeated may follow whatever width it meets, unless its size is a constant."""
    tensor = call["self"]
    other = call["other"]
    shift = len(call.shape) - len(tensor.shape)
    along = {dim + shift: vector for dim, vector in tensor.along.items()}
    for dim, size in enumerate(call.shape):
        repeated = size > 1 and (dim < shift or tensor.shape[dim - shift] == 1)
        if not repeated:
            continue
        if other is not None:
            along[dim] = other.vector(dim)
        elif call.source.computes(size):
            along[dim] = call.classes.anonymous(size)
    return along


def made(call: Call) -> Along:
    """Values of a shape: along sizes that are computed they follow whatever width they meet."""
    computed = {number for number, is_computed in call.source.numbers or () if is_computed}
    return {dim: call.classes.anonymous(size) for dim, size in enumerate(call.shape) if size > 1 and size in computed}


def padded(call: Call) -> Along:
    """With a constant: new indices along a dimension of filters always stay; mirrored ones hold them all."""
    tensor = call["self"]
    rank, amounts = len(tensor.shape), list(call["pad"] or call["padding"])
    constant = call.name == "constant_pad_nd" or (call.name == "pad" and call["mode"] in (None, "constant"))
    along = dict(tensor.along)
    for dim, vector in tensor.along.items():
        place = 2 * (rank - 1 - dim)
        before, after = amounts[place : place + 2] if place < len(amounts) else (0, 0)
        if not (before or after):
            continue
        if constant and before >= 0 and after >= 0:
            along[dim] = torch.cat([vector.new_zeros(before), vector, vector.new_zeros(after)])
        else:
            call.fix(vector, "padded with its own filters, or cut")
            del along[dim]
    return along


def pixel_shuffled(call: Call) -> Along:
    """Blocks of r^2 channels make one."""
    return _blocks_made_one(call, 3, call["upscale_factor"] ** 2, "pixels of its filters moved")


def pixel_unshuffled(call: Call) -> Along:
    """One channel makes a block of r^2."""
    return _made_blocks(call, call["downscale_factor"] ** 2, "pixels of its filters moved")


def channels_shuffled(call: Call) -> Along:
    """Groups of channels interleaved; they stay of equal width."""
    tensor, groups = call["self"] or call["input"], call["groups"]
    if 1 not in tensor.along:
        return dict(tensor.along)
    vector = tensor.along[1]
    call.join_rows(vector, groups, "groups of equal width")
    return {**tensor.along, 1: vector.view(groups, -1).t().reshape(-1)}


def patches(call: Call) -> Along:
    """Windows as columns: each channel makes a block of as many as the window has elements."""
    return _made_blocks(call, _elements(call), "windows along its filters")


def folded(call: Call) -> Along:
    """Columns summed back where their windows lie: blocks of as many as a window has elements make one channel."""
    return _blocks_made_one(call, 2, _elements(call), "windows along its filters")


def _elements(call: Call) -> int:
    """Of a window, whose sides may be given as one number."""
    return int(call["kernel_size"][0] * call["kernel_size"][-1])


def _blocks_made_one(call: Call, from_the_end: int, size: int, reason: str) -> Along:
    """Along the channels, so many dimensions from the end, blocks of a size make one each; those behind them stay."""
    along, channels = _before_channels(call, from_the_end, reason)
    if channels is not None:
        blocks = channels.view(-1, size)
        call.join_rows(blocks.t().reshape(-1), size, "blocks of channels")
        along[len(call["self"].shape) - from_the_end] = blocks[:, 0]
    return along


def _made_blocks(call: Call, size: int, reason: str) -> Along:
    """Along the channels, three dimensions from the end, each makes a block of a size; those behind them stay."""
    along, channels = _before_channels(call, 3, reason)
    if channels is not None:
        along[len(call["self"].shape) - 3] = channels.repeat_interleave(size)
    return along


def _before_channels(call: Call, from_the_end: int, reason: str) -> tuple[Along, Vector | None]:
    """The labels before the dimension of channels, and along it; filters in the dimensions behind it can't leave."""
    tensor = call["self"]
    channel = len(tensor.shape) - from_the_end
    for dim, vector in tensor.along.items():
        if dim > channel:
            call.fix(vector, reason)
    return {dim: vector for dim, vector in tensor.along.items() if dim < channel}, tensor.along.get(channel)


def parts_of_complex(call: Call) -> Along:
    """Real and imaginary parts along a new last dimension, or such a dimension made one number."""
    tensor = call["self"]
    if call.name == "view_as_real":
        return dict(tensor.along)
    last = len(tensor.shape) - 1
    call.fix(tensor.vector(last), "real and imaginary parts")
    return {dim: vector for dim, vector in tensor.along.items() if dim < last}


def windows(call: Call) -> Along:
    """Windows along one dimension, as a new last one."""
    tensor = call["self"]
    dim = call["dimension"] % len(tensor.shape)
    if dim in tensor.along:
        call.fix(tensor.along[dim], "windows along its filters")
    return {other: vector for other, vector in tensor.along.items() if other != dim}


def taken(call: Call) -> Along:
    """Indices of a dimension, from a tensor."""
    tensor, index = call["self"], call["index"]
    dim = call["dim"] % len(tensor.shape)
    if dim in tensor.along:
        call.fix(tensor.along[dim], "filters taken by their indices")
    along = {other: vector for other, vector in tensor.along.items() if other != dim}
    if call.name == "index_select":
        call.fix_all(index, "used as indices")
        return along
    for other, vector in along.items():
        call.join(vector, index.vector(other), "indices that keep their width")
    return along


def indexed(call: Call) -> Along:
    """Indices of some dimensions, from tensors."""
    tensor, indices = call["self"], call["indices"]
    places = [dim for dim, index in enumerate(indices) if index is not None]
    for index in indices:
        if index is not None:
            call.fix_all(index, "used as indices")
    for dim in places:
        if dim in tensor.along:
            call.fix(tensor.along[dim], "filters taken by their indices")
    rank = len(call.shape) - (len(tensor.shape) - len(places))
    together = places == list(range(places[0], places[-1] + 1))
    along: Along = {}
    for dim, vector in tensor.along.items():
        if dim not in places:
            before = sum(place < dim for place in places)
            inserted = rank if not together or dim > places[0] else 0
            along[dim - before + inserted] = vector
    return along


_MOVED = (
    "permute transpose t numpy_T mT movedim moveaxis swapaxes swapdims flip fliplr flipud rot90 repeat tile"
    " repeat_interleave adjoint T H mH"
)
_MADE = (
    "zeros ones full empty rand randn randint arange linspace eye scalar_tensor randperm"
    " new_zeros new_ones new_full new_empty"
)
_RESHAPED = (
    "view _unsafe_view reshape view_as reshape_as flatten unflatten squeeze unsqueeze _reshape_alias ravel"
    " atleast_1d atleast_2d atleast_3d"
)

RULES: dict[str, Rule] = {
    **named(moved, _MOVED),
    **named(reshaped, _RESHAPED),
    **named(made, _MADE),
    "roll": rolled,
    "expand": expanded,
    "expand_as": expanded,
    "broadcast_to": expanded,
    **dict.fromkeys(
        ("pad", "constant_pad_nd", *(f"{kind}_pad{rank}d" for kind in ("reflection", "replication") for rank in "123")),
        padded,
    ),
    "pixel_shuffle": pixel_shuffled,
    "pixel_unshuffle": pixel_unshuffled,
    "channel_shuffle": channels_shuffled,
    "native_channel_shuffle": channels_shuffled,
    "im2col": patches,
    "col2im": folded,
    **named(parts_of_complex, "view_as_real view_as_complex"),
    "unfold": windows,
    "index_select": taken,
    "gather": taken,
    "take_along_dim": taken,
    "index": indexed,
}
