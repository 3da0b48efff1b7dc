"""Pieces of a dimension, and dimensions put together."""

from __future__ import annotations

from dataclasses import replace

import torch

from ckrm_kernels.shrinking.label_rules.call import Along, Call, Rule, named
from ckrm_kernels.shrinking.labels import Labels, Vector

_CONSTANT = "a piece of fixed size or place of its filters"


def _without(tensor: Labels, dim: int) -> Along:
    return {other: labels for other, labels in tensor.along.items() if other != dim}


def split(call: Call) -> list[Along]:
    """A number of pieces, or pieces of given sizes: equal ones shrink together, unless their size is a constant."""
    tensor = call.first
    dim = (call["dim"] or 0) % len(tensor.shape)
    kept, vector = _without(tensor, dim), tensor.along.get(dim)
    if vector is None:
        return [dict(kept) for _ in call.shapes]
    size, *others = (shape[dim] for shape in call.shapes)
    counted = "chunk" in call.name or call.name == "tensor_split"
    if any(other != size for other in others) or not (counted or call.source.computes(size)):
        call.fix(vector, _CONSTANT)
        return [dict(kept) for _ in call.shapes]
    call.join_rows(vector, len(call.shapes), "pieces of equal width")
    return [{**kept, dim: piece} for piece in vector.split(size)]


def slice_(call: Call) -> Along:
    """A range of a dimension, or every n-th index of it."""
    tensor = call["self"]
    dim = (call["dim"] or 0) % len(tensor.shape)
    vector = tensor.along.get(dim)
    if vector is None:
        return dict(tensor.along)
    taken = range(*slice(call["start"], call["end"], call["step"]).indices(len(vector)))
    piece = _piece(call, vector, taken)
    return {**_without(tensor, dim), **({} if piece is None else {dim: piece})}


def narrow(call: Call) -> Along:
    """A range of a dimension, from a start, of a length."""
    tensor = call["self"]
    dim = call["dim"] % len(tensor.shape)
    vector = tensor.along.get(dim)
    if vector is None or not isinstance(call["start"], int):
        call.fix(tensor.vector(dim), _CONSTANT)
        return _without(tensor, dim)
    start = call["start"] % len(vector)
    piece = _piece(call, vector, range(start, start + call["length"]))
    return {**_without(tensor, dim), **({} if piece is None else {dim: piece})}


def _piece(call: Call, vector: Vector, taken: range) -> Vector | None:
    """The labels of a range of a dimension; None, and they stay, where it is right for one width only."""
    width, size = len(vector), len(taken)
    if taken == range(width):
        return vector
    if taken.step > 1 and taken.start < taken.step and size * taken.step == width:
        call.join_rows(vector.view(-1, taken.step).t().reshape(-1), taken.step, "every n-th filter")
        return vector[taken.start :: taken.step]
    ends = {taken.start, taken.stop} - {0, width}
    computed = all(call.source.computes(end) and call.source.computes(end - width) for end in ends)
    if taken.step == 1 and size and width % size == 0 and taken.start % size == 0 and computed:
        call.join_rows(vector, width // size, "pieces of equal width")
        return vector[taken.start : taken.stop]
    call.fix(vector, _CONSTANT)
    return None


def one_of(call: Call) -> Along | list[Along]:
    """One index of a dimension, or each: the dimension goes, its filters stay."""
    tensor = call["self"]
    dim = (call["dim"] or 0) % len(tensor.shape)
    if dim in tensor.along:
        call.fix(tensor.along[dim], "single filters taken by their index")
    along = {other - (other > dim): labels for other, labels in _without(tensor, dim).items()}
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


def put_beside(call: Call) -> Along:
    """Along the second dimension (hstack) or the first (vstack)."""
    if any(len(tensor.shape) < 2 for tensor in call.tensors()):
        raise NotImplementedError(call.name)
    return concatenate(replace(call, arguments={**call.arguments, "dim": int(call.name == "hstack")}))


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
    **named(split, "chunk unsafe_chunk tensor_split split split_with_sizes unsafe_split unsafe_split_with_sizes"),
    "slice": slice_,
    "narrow": narrow,
    "select": one_of,
    "unbind": one_of,
    "glu": glu,
    "cat": concatenate,
    "concat": concatenate,
    "concatenate": concatenate,
    **named(put_beside, "hstack vstack"),
    "stack": stack,
}
