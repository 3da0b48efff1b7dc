"""Pieces of a dimension, and dimensions put together."""

from __future__ import annotations

from itertools import accumulate

import torch

from ckrm_kernels.shrinking.label_rules.call import Along, Call, Rule
from ckrm_kernels.shrinking.labels import Labels, Vector

_CONSTANT = "a piece of fixed size or place of its filters"


def _cut(call: Call, tensor: Labels, dim: int, pieces: list[slice]) -> list[Along]:
    """The labels of pieces along a dimension: equal ones leave together, unequal ones stay."""
    vector = tensor.along.get(dim)
    kept = {other: labels for other, labels in tensor.along.items() if other != dim}
    if vector is None:
        return [dict(kept) for _ in pieces]
    if not _shrinks_evenly(call, len(vector), pieces[0]):
        call.fix(vector, _CONSTANT)
        return [dict(kept) for _ in pieces]
    size = pieces[0].stop - pieces[0].start
    call.join_rows(vector, len(vector) // size, "pieces of equal width")
    return [{**kept, dim: vector[piece]} for piece in pieces]


def _shrinks_evenly(call: Call, width: int, piece: slice) -> bool:
    """Whether a piece may be one of equal ones that shrink with the whole.

    The traced graph holds numbers only: a size that stands in the source is a constant, any other one may have been
    computed from the width.
    """
    size = piece.stop - piece.start
    if size == 0 or width % size or piece.start % size:
        return False
    return not call.writes(size)


def chunk(call: Call) -> list[Along]:
    """A number of equal pieces."""
    tensor = call.source
    dim = (call["dim"] or 0) % len(tensor.shape)
    ends = list(accumulate(shape[dim] for shape in call.shapes))
    pieces = [slice(end - shape[dim], end) for end, shape in zip(ends, call.shapes, strict=True)]
    if len({shape[dim] for shape in call.shapes}) > 1 and dim in tensor.along:
        call.fix(tensor.along[dim], "pieces of unequal width")
        tensor = Labels(tensor.shape, {other: labels for other, labels in tensor.along.items() if other != dim})
    vector = tensor.along.get(dim)
    kept = {other: labels for other, labels in tensor.along.items() if other != dim}
    if vector is None:
        return [dict(kept) for _ in pieces]
    call.join_rows(vector, len(pieces), "pieces of equal width")
    return [{**kept, dim: vector[piece]} for piece in pieces]


def split(call: Call) -> list[Along]:
    """Pieces of given sizes."""
    tensor = call.source
    dim = (call["dim"] or 0) % len(tensor.shape)
    sizes = {shape[dim] for shape in call.shapes}
    if len(sizes) > 1 or (dim in tensor.along and call.writes(next(iter(sizes)))):
        call.fix(tensor.vector(dim), _CONSTANT)
        kept = {other: labels for other, labels in tensor.along.items() if other != dim}
        return [dict(kept) for _ in call.shapes]
    return chunk(call)


def slice_(call: Call) -> Along:
    """A range of a dimension, or every n-th index of it."""
    tensor = call["self"]
    dim = (call["dim"] or 0) % len(tensor.shape)
    vector = tensor.along.get(dim)
    if vector is None:
        return dict(tensor.along)
    width = len(vector)
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(width)
    if step == 1 and (start, stop) == (0, width):
        return dict(tensor.along)
    if step > 1 and start < step and stop == width and width % step == 0:
        for offset in range(1, step):
            call.join(vector[::step], vector[offset::step], "every n-th filter")
        return {**tensor.along, dim: vector[start::step]}
    if step > 1:
        call.fix(vector, _CONSTANT)
        return {other: labels for other, labels in tensor.along.items() if other != dim}
    return _cut(call, tensor, dim, [slice(start, stop)])[0]


def one_of(call: Call) -> Along | list[Along]:
    """One index of a dimension, or each: the dimension goes, its filters stay."""
    tensor = call["self"]
    dim = (call["dim"] or 0) % len(tensor.shape)
    if dim in tensor.along:
        call.fix(tensor.along[dim], "single filters taken by their index")
    along = {other - (other > dim): labels for other, labels in tensor.along.items() if other != dim}
    return along if call.name == "select" else [dict(along) for _ in call.shapes]


def glu(call: Call) -> Along:
    """One half times the sigmoid of the other."""
    tensor = call["self"]
    dim = (call["dim"] if call["dim"] is not None else -1) % len(tensor.shape)
    if dim not in tensor.along:
        return dict(tensor.along)
    return {**tensor.along, dim: call.join_rows(tensor.along[dim], 2, "halves of equal width")}


def concatenate(call: Call) -> Along:
    """One after the other along the dimension; along the others what meets leaves together."""
    tensors = [tensor for tensor in call.tensors() if tensor.shape != (0,)]
    rank = len(call.shape)
    joined = (call["dim"] or 0) % rank
    along: Along = {}
    for dim in range(rank):
        vectors = [tensor.vector(dim) for tensor in tensors]
        if dim == joined:
            along[dim] = torch.cat(vectors)
        elif labelled := [vector for vector in vectors if vector.any()]:
            _join_all(call, labelled[0], vectors)
            along[dim] = labelled[0]
    return along


def stack(call: Call) -> Along:
    """Along a new dimension; along the others what meets leaves together."""
    tensors = list(call.tensors())
    new = (call["dim"] or 0) % len(call.shape)
    along: Along = {}
    for dim in range(len(tensors[0].shape)):
        vectors = [tensor.vector(dim) for tensor in tensors]
        if labelled := [vector for vector in vectors if vector.any()]:
            _join_all(call, labelled[0], vectors)
            along[dim + (dim >= new)] = labelled[0]
    return along


def _join_all(call: Call, first: Vector, vectors: list[Vector]) -> None:
    for vector in vectors:
        call.join(first, vector, "put beside a tensor that keeps its width")


RULES: dict[str, Rule] = {
    "chunk": chunk,
    "tensor_split": chunk,
    "split": split,
    "split_with_sizes": split,
    "unsafe_chunk": chunk,
    "unsafe_split": split,
    "slice": slice_,
    "narrow": slice_,
    "select": one_of,
    "unbind": one_of,
    "glu": glu,
    "cat": concatenate,
    "concat": concatenate,
    "stack": stack,
}
