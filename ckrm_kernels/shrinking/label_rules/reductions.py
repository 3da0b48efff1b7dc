"""Reductions, pooling, interpolation, and what runs along a dimension."""

from __future__ import annotations

import re

import torch

from ckrm_kernels.shrinking.label_rules.call import Along, Call, Result, Rule, named
from ckrm_kernels.shrinking.label_rules.elementwise import elementwise
from ckrm_kernels.shrinking.labels import Labels


def reduction(call: Call) -> Result:
    """What is reduced over stays; of two tensors (`max`) it is element by element."""
    tensor = call["self"]
    if call["other"] is not None:
        return elementwise(call)
    if isinstance(call["q"], Labels):  # several quantiles, along a new dimension
        raise NotImplementedError(call.name)
    rank = len(tensor.shape)
    dims = _dims(call["dim"], rank)
    for dim in dims & set(tensor.along):
        call.fix(tensor.along[dim], "reduced over its filters")
    along: Along = {}
    for dim, vector in tensor.along.items():
        if dim not in dims:
            kept = len(call.shape) == rank
            along[dim if kept else dim - sum(other < dim for other in dims)] = vector
    return along if len(call.shapes) == 1 else [dict(along) for _ in call.shapes]


def _dims(dim: int | list[int] | None, rank: int) -> set[int]:
    if dim is None or dim == []:
        return set(range(rank))
    return {one % rank for one in ([dim] if isinstance(dim, int) else dim)} if rank else set()


def along_dimension(call: Call) -> Result:
    """Of the same shape, but each index of the dimension depends on the others: they stay."""
    tensor, *others = call.tensors()
    if any(other.along for other in others):
        raise NotImplementedError(call.name)
    dim = call["dim"] if call["dim"] is not None else -1
    if tensor.shape and dim % len(tensor.shape) in tensor.along:
        call.fix(tensor.along[dim % len(tensor.shape)], f"a {call.name} over its filters")
    along = {d: vector for d, vector in tensor.along.items() if d != dim % len(tensor.shape)}
    return along if len(call.shapes) == 1 else [dict(along) for _ in call.shapes]


def pooling(call: Call) -> Result:
    """Over the last dimensions, as many as the name says; the others are the result's."""
    tensor = call.first
    found = re.search(r"([123])d", call.name)
    first = len(tensor.shape) - (int(found[1]) if found else 2)
    along = {dim: vector for dim, vector in tensor.along.items() if dim < first}
    for dim, vector in tensor.along.items():
        if dim >= first:
            neighbours = _over_neighbours(call, dim, dim - first)
            if neighbours is None:
                call.fix(vector, "pooled over its filters")
            else:
                call.classes.mark_statistics(vector)
                along[dim] = vector[neighbours]
    return along if len(call.shapes) == 1 else [dict(along) for _ in call.shapes]


def _over_neighbours(call: Call, dim: int, place: int) -> slice | None:
    """Of a mean over neighbouring filters (local response norm): the middles of the windows."""
    sizes, steps = call["kernel_size"], call["stride"] or call["kernel_size"]
    if "avg_pool" not in call.name or call.name.startswith("adaptive") or not isinstance(sizes, (list, tuple)):
        return None
    size = sizes[place if len(sizes) > 1 else 0]
    step = steps[place if len(steps) > 1 else 0]
    padding = call["padding"]
    if step != 1 or (padding and padding[place if len(padding) > 1 else 0]):
        return None
    return slice(size // 2, size // 2 + call.shape[dim])


def unpooling(call: Call) -> Along:
    """Values put back in their places: along the first dimensions places leave with values."""
    tensor, places = call["self"], call["indices"]
    first = len(tensor.shape) - int(call.name[-2])
    for dim in range(len(tensor.shape)):
        vectors = tensor.vector(dim), places.vector(dim)
        if dim < first:
            call.join(*vectors, "places that keep their width")
        else:
            call.fix(torch.cat(vectors), "places along its filters")
    return {dim: vector for dim, vector in tensor.along.items() if dim < first}


def transformed(call: Call) -> Along:
    """A Fourier transform over some dimensions, or its result shifted."""
    tensor = call["self"]
    dims = _dims(call["dim"], len(tensor.shape))
    for dim in dims & set(tensor.along):
        call.fix(tensor.along[dim], "a Fourier transform over its filters")
    return {dim: vector for dim, vector in tensor.along.items() if dim not in dims}


def triangular(call: Call) -> Along:
    """A triangle of the last two dimensions: right for one width only."""
    tensor = call["self"]
    for dim in (-2, -1):
        call.fix(tensor.vector(dim), "a triangle of its filters")
    return dict(tensor.along)


def grid_sample(call: Call) -> Along:
    """Sampled along the last dimensions at points that have no filters."""
    tensor, grid = list(call.tensors())[:2]
    call.fix_all(grid, "points to sample at")
    for dim, vector in tensor.along.items():
        if dim > 1:
            call.fix(vector, "sampled along its filters")
    return {dim: vector for dim, vector in tensor.along.items() if dim < 2}


_REDUCTIONS = (
    "mean sum amax amin max min var std prod norm linalg_vector_norm any all logsumexp argmax argmin median var_mean"
    " std_mean aminmax count_nonzero nansum nanmean nanmedian quantile nanquantile kthvalue mode"
)
_ALONG = "softmax _softmax log_softmax _log_softmax cumsum cumprod logcumsumexp cummax cummin sort argsort topk diff"
_POOLING = [
    f"{kind}{rank}d{suffix}"
    for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool")
    for rank in (1, 2, 3)
    for suffix in ("", "_with_indices")
]
_TRANSFORMS = [
    f"fft_{name}"
    for kind in ("fft", "rfft", "hfft")
    for name in (*(f"{start}{kind}{end}" for start in ("", "i") for end in ("", "2", "n")), "fftshift", "ifftshift")
]
_INTERPOLATION = "nearest1d nearest2d nearest3d linear1d bilinear2d bicubic2d trilinear3d"

RULES: dict[str, Rule] = {
    **named(reduction, _REDUCTIONS),
    **named(along_dimension, _ALONG),
    **dict.fromkeys(_POOLING, pooling),
    **{f"{start}upsample_{kind}": pooling for kind in _INTERPOLATION.split() for start in ("", "_")},
    **{f"_upsample_{kind}_aa": pooling for kind in ("bilinear2d", "bicubic2d")},
    **{f"_upsample_nearest_exact{rank}d": pooling for rank in (1, 2, 3)},
    **named(unpooling, "max_unpool2d max_unpool3d"),
    **dict.fromkeys(_TRANSFORMS, transformed),
    **named(grid_sample, "grid_sampler grid_sampler_2d grid_sampler_3d"),
    **named(triangular, "tril triu"),
}
