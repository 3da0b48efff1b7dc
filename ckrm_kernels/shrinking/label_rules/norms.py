"""Normalisations: their parameters follow the filters; some take statistics over filters.

A norm without tensors of its own has the width that its module holds among its parameters.
"""

from __future__ import annotations

from ckrm_kernels.shrinking.label_rules.call import Along, Call, Rule

_WIDTH = "a norm that keeps its width"


def of_each_channel(call: Call) -> Along:
    """Batch and instance norm: statistics of each channel for itself."""
    tensor, *parameters = call.tensors()
    for parameter in parameters:
        call.join(tensor.vector(1), parameter.vector(0), _WIDTH)
    for dim, vector in tensor.along.items():
        if dim != 1 and (call["training"] or call["use_input_stats"]):
            call.fix(vector, "statistics along its filters")
    return dict(tensor.along)


def over_last_dimensions(call: Call) -> Along:
    """Layer and RMS norm: statistics over the last dimensions."""
    tensor, *parameters = call.tensors()
    for dim in range(-len(call["normalized_shape"]), 0):
        vector = tensor.vector(dim)
        call.classes.mark_statistics(vector)
        for parameter in parameters:
            call.join(vector, parameter.vector(dim), _WIDTH)
    return dict(tensor.along)


def over_groups(call: Call) -> Along:
    """Group norm: statistics over each group of channels; the groups stay of equal width.

    As many groups as channels are an instance norm, if their number follows that of the channels.
    """
    tensor, *parameters = call.tensors()
    channels, groups = tensor.vector(1), call["num_groups"]
    if groups < len(channels) or not call.source.computes(groups):
        call.classes.mark_statistics(channels)
        call.join_rows(channels, groups, "groups of equal width")
    for parameter in parameters:
        call.join(channels, parameter.vector(0), _WIDTH)
    return dict(tensor.along)


def weight_norm(call: Call) -> Along:
    """A weight as direction times length, along one dimension; the norm is over the other ones."""
    direction, length, kept = call["v"], call["g"], call["dim"]
    for dim, vector in direction.along.items():
        if dim != kept:
            call.fix(vector, "weights normalised over their inputs")
    call.join(direction.vector(kept), length.vector(kept), _WIDTH)
    return dict(direction.along)


RULES: dict[str, Rule] = {
    "batch_norm": of_each_channel,
    "instance_norm": of_each_channel,
    "layer_norm": over_last_dimensions,
    "rms_norm": over_last_dimensions,
    "group_norm": over_groups,
    "_weight_norm": weight_norm,
    "_weight_norm_interface": lambda call: [weight_norm(call), {}],
}
