"""Element by element: what is combined leaves together."""

from __future__ import annotations

from ckrm_kernels.shrinking.label_rules.call import Along, Call, Rule, named
from ckrm_kernels.shrinking.labels import Labels, Vector


def elementwise(call: Call) -> Along:
    """The operands are broadcast; along each dimension what meets leaves together."""
    operands = list(call.tensors())
    return {dim: vector for dim in range(len(call.shape)) if (vector := meeting(call, operands, dim)) is not None}


def meeting(call: Call, operands: list[Labels], dim: int) -> Vector | None:
    """The labels along one dimension of a result of broadcast operands, which leave together; None without any."""
    size, from_the_end = call.shape[dim], dim - len(call.shape)
    meeting = [
        operand.vector(from_the_end)
        for operand in operands
        if size > 1 and len(operand.shape) >= -from_the_end and operand.shape[from_the_end] == size
    ]
    labelled = [vector for vector in meeting if vector.any()]
    if not labelled:
        return None
    for vector in meeting:
        call.join(labelled[0], vector, "combined with a tensor that keeps its width")
    return labelled[0]


def unchanged(call: Call) -> Along:
    """The first tensor's labels are the result's."""
    return dict(call.first.along)


def prelu(call: Call) -> Along:
    """One slope for all channels, or one for each: along dimension 1."""
    tensor, slopes = call["self"], call["weight"]
    if slopes.shape and slopes.shape[0] > 1:
        call.join(tensor.vector(1), slopes.vector(0), "slopes that keep their number")
    return dict(tensor.along)


_ELEMENTWISE = (
    "log_sigmoid relu6 selu celu silu gelu mish hardswish hardsigmoid hardtanh elu softplus leaky_relu rrelu"
    " threshold softshrink hardshrink relu sigmoid tanh where clamp masked_fill lerp addcmul addcdiv copy add sub mul"
    " div rsub pow maximum minimum square type_as __and__ __or__ __xor__ logical_and logical_or logical_not isnan"
    " complex polar real imag conj _conj resolve_conj multiply divide true_divide floor_divide subtract absolute"
    " negative greater greater_equal less less_equal not_equal isclose"
    " special_erf special_erfc special_expit special_logit"
)
_UNCHANGED = (
    "dropout alpha_dropout feature_dropout feature_alpha_dropout native_dropout to _to_copy clone contiguous detach"
    " alias lift_fresh_copy zeros_like ones_like full_like empty_like rand_like randn_like bernoulli float"
    " half double bfloat16 fill zero requires_grad one_hot"
)

RULES: dict[str, Rule] = {
    **named(elementwise, _ELEMENTWISE),
    **named(unchanged, _UNCHANGED),
    "prelu": prelu,
}
