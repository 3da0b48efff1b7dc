"""Products of two activations, attention, recurrent layers."""

from __future__ import annotations

from ckrm_kernels.shrinking.label_rules.call import Along, Call, Rule, named
from ckrm_kernels.shrinking.label_rules.elementwise import meeting
from ckrm_kernels.shrinking.labels import Labels

_SUM = "a matrix product over its filters"


def matmul(call: Call) -> Along:
    """What is summed over stays; the rows of the first and the columns of the second are the result's."""
    first, second = call.tensors()
    if len(first.shape) < 2 or len(second.shape) < 2:
        return frozen(call)
    call.fix(first.vector(-1), _SUM)
    call.fix(second.vector(-2), _SUM)
    rank = len(call.shape)
    return {**_batch(call, [first, second]), rank - 2: first.vector(-2), rank - 1: second.vector(-1)}


def _batch(call: Call, operands: list[Labels]) -> Along:
    """Along all but the last two dimensions operands are broadcast; what meets leaves together."""
    dims = range(len(call.shape) - 2)
    return {dim: vector for dim in dims if (vector := meeting(call, operands, dim)) is not None}


def attention(call: Call) -> Along:
    """Scaled dot products along the last dimension; heads of query, key and value leave together if each has all."""
    operands = list(call.tensors())
    for operand in operands:
        last = {dim: vector for dim, vector in operand.along.items() if dim >= len(operand.shape) - 2}
        call.fix_all(operand if call["enable_gqa"] else Labels(operand.shape, last), _FROZEN[call.name])
    return {} if call["enable_gqa"] else _batch(call, operands)


def einsum(call: Call) -> Along:
    """What is summed over stays; the other indices are the result's."""
    operands = list(call.tensors())
    terms, _, result = call["equation"].replace(" ", "").partition("->")
    letters = terms.split(",")
    distinct = all(len(set(term)) == len(term) for term in letters)
    if "." in terms or not distinct or [len(term) for term in letters] != [len(o.shape) for o in operands]:
        return frozen(call)
    along: Along = {}
    for letter in dict.fromkeys("".join(letters)):
        vectors = [o.vector(term.index(letter)) for o, term in zip(operands, letters, strict=True) if letter in term]
        labelled = [vector for vector in vectors if vector.any()]
        if not labelled:
            continue
        for vector in vectors:
            call.join(labelled[0], vector, "combined with a tensor that keeps its width")
        if letter in result:
            along[result.index(letter)] = labelled[0]
        else:
            call.fix(labelled[0], _SUM)
    return along


def frozen(call: Call) -> Along:
    """Nothing that goes in can leave."""
    for tensor in call.tensors():
        call.fix_all(tensor, _FROZEN.get(call.name, _SUM))
    return {}


def frozen_pieces(call: Call) -> list[Along]:
    """Nothing that goes in can leave; several results."""
    frozen(call)
    return [{} for _ in call.shapes]


_FROZEN = {
    "scaled_dot_product_attention": "attention",
    "gru": "a recurrent layer",
    "lstm": "a recurrent layer",
    "rnn_tanh": "a recurrent layer",
    "rnn_relu": "a recurrent layer",
}

RULES: dict[str, Rule] = {
    **named(matmul, "matmul mm bmm"),
    **named(frozen, "addmm addbmm baddbmm mv dot vdot"),
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
    **named(frozen_pieces, "gru lstm rnn_tanh rnn_relu"),
}
