"""Layers with a weight: convolutions, linear maps, embeddings."""

from __future__ import annotations

import torch

from ckrm_kernels.shrinking.label_rules.call import Along, Call, Rule, named
from ckrm_kernels.shrinking.labels import Labels, Vector

_WIDTH = "read by a weight that keeps its width"


def convolution(call: Call) -> Along:
    """Its output's channels are its weight's filters, its weight's inputs the channels that it reads."""
    tensor, weight = call["input"], call["weight"]
    channel = len(tensor.shape) - len(weight.shape) + 1
    for dim, vector in tensor.along.items():
        if dim > channel:
            call.fix(vector, "a convolution along its filters")
    made = _filters(call, tensor.vector(channel), weight)
    _join_bias(call, made)
    return {**{dim: vector for dim, vector in tensor.along.items() if dim < channel}, channel: made}


def _filters(call: Call, channels: Vector, weight: Labels) -> Vector:
    groups = call["groups"] or 1
    if is_depthwise(call):
        return _depthwise(call, channels, weight, is_transposed(call))
    if is_transposed(call):
        call.join(channels, weight.vector(0), _WIDTH)
        call.join_rows(weight.vector(0), groups, "groups of equal width")
        return weight.vector(1).repeat(groups)
    call.join(channels, weight.vector(1).repeat(groups), _WIDTH)
    call.join_rows(weight.vector(0), groups, "groups of equal width")
    return weight.vector(0)


def _depthwise(call: Call, channels: Vector, weight: Labels, transposed: bool) -> Vector:
    if transposed:
        call.join(channels, weight.vector(0), _WIDTH)
        call.fix(weight.vector(1), "the multiplier of a depthwise convolution")
        return weight.vector(0).repeat_interleave(weight.shape[1])
    call.join(channels.repeat_interleave(weight.shape[0] // len(channels)), weight.vector(0), _WIDTH)
    return weight.vector(0)


def is_depthwise(call: Call) -> bool:
    """Whether a layer is a convolution of each channel for itself."""
    groups = call["groups"] or 1
    return groups > 1 and groups == call["weight"].shape[0 if is_transposed(call) else 1] * (
        1 if is_transposed(call) else groups
    )


def is_transposed(call: Call) -> bool:
    """Whether a convolution is a transposed one."""
    return "transpose" in call.name or bool(call["transposed"])


def linear(call: Call) -> Along:
    """Of any rank: its weight's rows make the last dimension, its columns read it."""
    tensor, weight = call["input"], call["weight"]
    last = len(tensor.shape) - 1
    call.join(tensor.vector(last), weight.vector(-1), _WIDTH)
    kept = {dim: vector for dim, vector in tensor.along.items() if dim < last}
    if len(weight.shape) == 1:
        return kept
    made = weight.vector(0)
    _join_bias(call, made)
    return {**kept, last: made}


def _join_bias(call: Call, made: Vector) -> None:
    bias = call["bias"]
    if bias is not None:
        call.join(bias.vector(0) if bias.shape else torch.zeros_like(made), made, "a bias that keeps its width")


def embedding(call: Call) -> Along:
    """Its weight's columns make the last dimension; what it looks up can't leave."""
    weight, indices = call["weight"], call["indices"]
    call.fix(weight.vector(0), "rows of an embedding")
    return {**indices.along, len(indices.shape): weight.vector(1)}


def embedding_bag(call: Call) -> list[Along]:
    """The same, summed over the words of a bag."""
    for tensor in call.tensors():
        if tensor is not call["weight"]:
            call.fix_all(tensor, "words of an embedding")
    call.fix(call["weight"].vector(0), "rows of an embedding")
    return [{1: call["weight"].vector(1)}, *({} for _ in call.shapes[1:])]


CONVOLUTIONS = named(
    convolution,
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution",
)

RULES: dict[str, Rule] = {
    **CONVOLUTIONS,
    "linear": linear,
    "embedding": embedding,
    "embedding_bag": embedding_bag,
}
