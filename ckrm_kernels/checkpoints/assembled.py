"""Weights that a checkpoint keeps in parts, put together: weight norm, spectral norm, pruning masks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ckrm_kernels.checkpoints.stored import StoredTensor

PARAMETRISED = "parametrised, which a checkpoint does not say how: load it into its model and measure that"
_OWN = re.compile(r"(?P<stem>(?:.*\.)?)parametrizations\.(?P<name>\w+)\.")


def assembled(tensors: Sequence[StoredTensor]) -> list[StoredTensor]:
    """The tensors, with those that together are a weight replaced by it; its note says what was put together.

    What registers other parametrisations, or more than one, is left as it is: a checkpoint does not say how these
    compute the weight.
    """
    found = {tensor.name: tensor for tensor in tensors}
    for put_together in (_mask, _weight_norm, _spectral_norm):
        for name in list(found):
            if name in found:
                put_together(found, name)
    return list(found.values())


def is_parametrised(name: str) -> bool:
    """Whether a tensor's name is that of a parametrisation's part."""
    return "parametrizations" in name.split(".") or name.endswith("weight_orig")


def _mask(found: dict[str, StoredTensor], name: str) -> None:
    """Pruning: the original and its mask."""
    if not name.endswith("_orig"):
        return
    stem = name.removesuffix("_orig")
    original, mask = found[name], found.get(f"{stem}_mask")
    if mask is not None and mask.shape == original.shape:
        _replace(found, stem, (original, mask), lambda weight, kept: weight * kept, "pruning mask put together")


def _weight_norm(found: dict[str, StoredTensor], name: str) -> None:
    """A magnitude g and a direction v: g v / |v|."""
    if re.search(r"(^|\.)weight\w*_g$", name):
        stem, other = name.removesuffix("_g"), f"{name.removesuffix('_g')}_v"
        accepts_equal = True  # these names say what they are
    elif name.endswith(".original0") and _registered(found, name) == {"original0", "original1"}:
        stem, other = _stem(name), f"{name.removesuffix('0')}1"
        accepts_equal = False
    else:
        return
    g, v = found[name], found.get(other)
    if v is None or not _is_magnitude(g.shape, v.shape) or (g.shape == v.shape and not accepts_equal):
        return
    _replace(found, stem, (g, v), _of_magnitude, "weight norm put together")


def _is_magnitude(g: tuple[int, ...], v: tuple[int, ...]) -> bool:
    """Whether there is one number for each filter (of a transposed convolution along dimension 1), or one for all."""
    if not g:
        return True
    own = [dim for dim, size in enumerate(g) if size > 1]
    return own in ([], [0], [1]) and len(g) == len(v) and all(a in (1, b) for a, b in zip(g, v, strict=True))


def _of_magnitude(g: Tensor, v: Tensor) -> Tensor:
    g = g if g.dim() else g.view([1] * v.dim())
    over = [dim for dim in range(g.dim()) if g.shape[dim] == 1]
    return g * v / torch.linalg.vector_norm(v, dim=over, keepdim=True)


def _spectral_norm(found: dict[str, StoredTensor], name: str) -> None:
    """An original divided by its largest singular value, by the vectors that are kept of it."""
    if name.endswith("_orig"):
        stem = name.removesuffix("_orig")
        names = (f"{stem}_u", f"{stem}_v")
    elif name.endswith(".original") and _registered(found, name) == {"original", "0._u", "0._v"}:
        stem, base = _stem(name), name.removesuffix("original")
        names = (f"{base}0._u", f"{base}0._v")
    else:
        return
    if any(each not in found for each in names):
        return
    original, u, v = found[name], *(found[each] for each in names)
    if _matrix_dims(original.shape, u.shape, v.shape):
        _replace(found, stem, (original, u, v), _of_singular_value, "spectral norm put together")


def _matrix_dims(weight: tuple[int, ...], u: tuple[int, ...], v: tuple[int, ...]) -> list[int]:
    """The dimensions that may be the rows of the matrix whose singular vectors these are."""
    numel = torch.Size(weight).numel()
    return [dim for dim in range(min(len(weight), 2)) if u == (weight[dim],) and v == (numel // max(weight[dim], 1),)]


def _of_singular_value(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    rows = _matrix_dims(tuple(weight.shape), tuple(u.shape), tuple(v.shape))
    # where both fit, the vectors are those of the larger value: they were iterated towards it
    values = [torch.dot(u, weight.movedim(dim, 0).flatten(1) @ v) for dim in rows]
    return weight / torch.stack(values).max()


def _registered(found: dict[str, StoredTensor], name: str) -> set[str]:
    """The names of all that the parametrisations of one tensor keep, such as original0, found by the name of one."""
    parametrised = _OWN.match(name)
    return {each[parametrised.end() :] for each in found if each.startswith(parametrised[0])} if parametrised else set()


def _stem(name: str) -> str:
    """The name of a parametrised tensor by that of a part, such as conv.weight."""
    return _OWN.sub(r"\g<stem>\g<name>", name[: name.rindex(".") + 1])


def _replace(
    found: dict[str, StoredTensor],
    name: str,
    parts: tuple[StoredTensor, ...],
    compute: Callable[..., Tensor],
    note: str,
) -> None:
    """Puts the tensor that the parts make in their place."""
    largest = max(parts, key=lambda part: math.prod(part.shape))
    reads = [part.read for part in parts]
    known = all(read is not None for read in reads)
    notes = [*(part.note for part in parts), note if known else ""]
    read = (lambda: compute(*(each() for each in reads if each is not None))) if known else None
    weight = replace(largest, name=name, read=read, note=", ".join(dict.fromkeys(filter(None, notes))))
    result = {}
    gone = {part.name for part in parts}
    for key, tensor in found.items():
        if key not in gone:
            result[key] = tensor
        elif name not in result:
            result[name] = weight
    found.clear()
    found.update(result)
