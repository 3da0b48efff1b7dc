"""Why a tensor that a graph uses otherwise is no weight of a convolution or a linear layer."""

from __future__ import annotations

from collections.abc import Sequence

_REASONS = (
    ({"rnn", "lstm", "gru", "rnn_tanh", "rnn_relu"}, "recurrent, no filters"),
    ({"embedding", "embedding_bag"}, "embedding, no filters"),
)
_SHOWN = 3


def reason_of_other_uses(operators: Sequence[str]) -> str:
    """The reason for a row, by the operators that use the tensor."""
    for names, reason in _REASONS:
        if any(operator.lower() in names for operator in operators):
            return reason
    others = f" but by {', '.join(operators[:_SHOWN])}" if operators else ""
    return f"not used by a convolution or linear layer{others}"
