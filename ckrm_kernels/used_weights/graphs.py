"""What a traced graph does with its weights: TorchScript's, and those of torch.fx and torch.export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.fx
from torch import Tensor, nn

_GROUPS_AT = {
    **{f"conv{dims}d": 6 for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": 6 for dims in (1, 2, 3)},
    **dict.fromkeys(("convolution", "_convolution"), 8),
    "linear": None,
}
_TRANSPOSED_AT = 6  # of the convolutions that say it by an argument


class Use(NamedTuple):
    """How a weight is used: the operator's name, and of a convolution, its groups and whether it is transposed."""

    operator: str
    groups: int
    transposed: bool


def torchscript_use(module: torch.jit.ScriptModule) -> Use | None:
    """The one use that a scripted or traced module makes of its own `weight`, as stored; None where it makes others."""
    uses = set()
    for node in _torchscript_nodes(module):
        weight = node.inputsAt(1).node()
        own = weight.kind() == "prim::GetAttr" and weight.inputsAt(0).node().kind() == "prim::Param"
        if own and weight.s("name") == "weight":
            uses.add(_torchscript_node(node))
    return uses.pop() if len(uses) == 1 else None


def frozen_weights(module: torch.jit.ScriptModule) -> dict[str, tuple[Tensor, Use]]:
    """The weights that `torch.jit.freeze` made constants of a graph: by the names of their layers, with their uses."""
    found = {}
    for node in _torchscript_nodes(module):
        weight, use = node.inputsAt(1), _torchscript_node(node)
        value = weight.toIValue()
        if isinstance(value, Tensor) and use is not None:
            layer, _, name = weight.debugName().removeprefix("self.").rpartition(".")
            found[layer if name.startswith("weight") else f"{layer}.{name}".strip(".")] = (value, use)
    return found


def fx_uses(module: nn.Module) -> dict[str, Use]:
    """The uses that a module's torch.fx graph makes of stored tensors, by the tensors' names."""
    graph, uses = vars(module).get("_graph", vars(module).get("graph")), {}
    for node in graph.nodes if isinstance(graph, torch.fx.Graph) else ():
        operator = getattr(node.target, "__name__", "").partition(".")[0]
        weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
        if node.op == "call_function" and operator in _GROUPS_AT and getattr(weight, "op", "") == "get_attr":
            uses[weight.target] = _fx_node(node, operator)
    return uses


def _torchscript_nodes(module: Any) -> Iterator[Any]:
    """The convolutions and linear operators of the graph, in order; this iterator keeps the graph alive."""
    try:
        graph = module.inlined_graph
    except RuntimeError:  # it has no forward
        return
    yield from _nodes_in(graph)


def _nodes_in(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        if node.kind().removeprefix("aten::") in _GROUPS_AT:
            yield node
        for inner in node.blocks():
            yield from _nodes_in(inner)


def _torchscript_node(node: Any) -> Use | None:
    """None where an argument is no constant."""
    operator = node.kind().removeprefix("aten::")
    at = _GROUPS_AT[operator]
    groups = 1 if at is None else node.inputsAt(at).toIValue()
    transposed = "transpose" in operator if at != 8 else node.inputsAt(_TRANSPOSED_AT).toIValue()
    return None if groups is None or transposed is None else Use(operator, groups, transposed)


def _fx_node(node: Any, operator: str) -> Use:
    def argument(at: int, name: str, default: Any) -> Any:
        return node.args[at] if len(node.args) > at else node.kwargs.get(name, default)

    at = _GROUPS_AT[operator]
    groups = 1 if at is None else argument(at, "groups", 1)
    transposed = "transpose" in operator if at != 8 else argument(_TRANSPOSED_AT, "transposed", False)
    return Use(operator, groups, transposed)
