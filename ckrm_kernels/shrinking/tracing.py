"""An exported program run once on labels."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from ckrm_kernels.shrinking.couplings import Layer, Role
from ckrm_kernels.shrinking.exporting import PREFIX
from ckrm_kernels.shrinking.label_rules import RULES, Call
from ckrm_kernels.shrinking.label_rules.layers import CONVOLUTIONS, is_depthwise, is_transposed
from ckrm_kernels.shrinking.labels import Classes, Labels
from ckrm_kernels.shrinking.watching import source_of

Kind = Literal["conv", "transposed", "linear"]


@dataclass
class Traced:
    """What a run on labels found.

    layers: by the name of their weight, in the order in which they first run
    unsupported: operations without a rule, each with its line
    roles: of the tensors and dimensions of layers and embeddings; all others follow
    """

    classes: Classes = field(default_factory=Classes)
    layers: dict[str, Layer] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)
    roles: dict[tuple[str, int], Role] = field(default_factory=dict)


def traced(model: nn.Module, program: torch.export.ExportedProgram, batch: int) -> Traced:
    """The program run on labels.

    model: whose names are given; batch: how many examples the program's inputs hold
    """
    return _Run(model, batch).program(program)


class _Run:
    def __init__(self, model: nn.Module, batch: int):
        self.found = Traced()
        self._model = model
        self._batch = batch
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(tensor): name for name, tensor in tensors}
        self._labels: dict[str, Labels] = {}

    def program(self, program: torch.export.ExportedProgram) -> Traced:
        signature = program.graph_signature
        held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        inputs = []
        for node in program.graph.nodes:
            if node.op == "placeholder":
                tensor = self._tensor(held[node.name]) if node.name in held else None
                inputs.append(_Held(self._names[id(tensor)], tensor) if tensor is not None else _values(node, {}))
        outputs = self._graph(program.graph_module, inputs)
        for output in pytree.tree_leaves(outputs):
            if isinstance(output, Labels):
                for vector in output.along.values():
                    self.found.classes.fix(vector, "its filters are the model's output")
        return self.found

    def _tensor(self, name: str) -> torch.Tensor | None:
        path, _, attribute = name.removeprefix(PREFIX).rpartition(".")
        tensor = getattr(self._model.get_submodule(path), attribute)
        return tensor if id(tensor) in self._names else None

    def _graph(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        """A graph's outputs of its inputs; a graph may call others."""
        values: dict[fx.Node, Any] = {}
        given = iter(inputs)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = self._attribute(module, node)
            elif node.op == "call_function":
                values[node] = self._call(node, values)
            elif node.op == "output":
                return self._of(node.args[0], values)
        return None

    def _attribute(self, module: fx.GraphModule, node: fx.Node) -> Any:
        value = operator.attrgetter(str(node.target))(module)
        return value if isinstance(value, fx.GraphModule) else _values(node, {})

    def _of(self, arguments: Any, values: Mapping[fx.Node, Any]) -> Any:
        """Arguments with labels in the place of nodes; parameters get their labels when they are first used."""
        found = fx.map_arg(arguments, lambda node: values[node])
        return pytree.tree_map(lambda leaf: self._held(leaf) if isinstance(leaf, _Held) else leaf, found)

    def _held(self, held: _Held) -> Labels:
        """The labels of a parameter or buffer: an own one for each index of each dimension."""
        if held.name not in self._labels:
            shape = tuple(held.tensor.shape)
            along = {d: self.found.classes.new(held.name, d, size) for d, size in enumerate(shape) if size > 1}
            self._labels[held.name] = Labels(shape, along, held.name)
        return self._labels[held.name]

    def _call(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        target = node.target
        if isinstance(target, torch._ops.HigherOrderOperator):
            inner = self._inner(node, values)
            if inner is not None:
                return inner
        args, kwargs = self._of((node.args, node.kwargs), values)
        if target is operator.getitem:
            return args[0][args[1]]
        call = self._described(node, args, kwargs)
        if call is None:
            return None
        rule = RULES.get(call.name)
        if rule is None:
            rule = RULES["add"] if torch.Tag.pointwise in getattr(target, "tags", ()) else None
        if rule is None:
            return self._without_rule(node, call)
        try:
            along = rule(call)
        except (
            Exception
        ):  # a use that the rule does not know, as of sizes that depend on values: nothing of it can leave
            return self._without_rule(node, call)
        if isinstance(_module(node, self._model), nn.MultiheadAttention):
            for tensor in call.tensors():
                call.fix_all(tensor, "attention of a given width")
        result = _values(node, along if isinstance(along, dict) else dict(enumerate(along)), call.classes, call)
        self._note(node, call)
        return result

    def _inner(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """A call of another graph, as a block under no_grad or autocast is."""
        args = [values[a] if isinstance(a, fx.Node) else a for a in node.args]
        graphs = [place for place, value in enumerate(args) if isinstance(value, fx.GraphModule)]
        if len(graphs) != 1:
            return None
        inner: Any = args[graphs[0]]
        return self._graph(inner, args[graphs[0] + 1 :])

    def _described(self, node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call | None:
        """The call with its arguments by name; None where its result is no tensor."""
        shapes = [tuple(v.shape) for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, torch.Tensor)]
        target: Any = node.target
        if not shapes and not (isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable):
            return None
        if isinstance(target, torch._ops.OpOverload):
            schema = target._schema
            name = schema.name.partition("::")[2]
            defaults = {a.name: a.default_value if a.has_default_value() else None for a in schema.arguments}
            arguments = {**defaults, **dict(zip(defaults, args, strict=False))}
        else:
            name = getattr(target, "__name__", str(target))
            arguments = {str(place): argument for place, argument in enumerate(args)}
        if name.endswith("_") and not name.startswith("__"):
            name = name[:-1]
        return Call(name, target, {**arguments, **kwargs}, shapes, source_of(node), self.found.classes)

    def _without_rule(self, node: fx.Node, call: Call) -> Any:
        self.found.unsupported.append(call.name + (f" ({call.source.place})" if call.source.place else ""))
        for tensor in call.tensors():
            call.fix_all(tensor, "an operation without a rule")
        return _values(node, {})

    def _note(self, node: fx.Node, call: Call) -> None:
        """Record a layer that the call runs."""
        if call.name == "embedding" and call["weight"].tensor:
            self.found.roles.setdefault((call["weight"].tensor, 1), "produces")
        if call.name != "linear" and call.name not in CONVOLUTIONS:
            return
        layer = self._layer(node, call)
        if layer is None:
            return
        known = self.found.layers.get(layer.weight)
        if known is not None:
            layer = replace(
                known,
                positions=known.positions + layer.positions,
                norm=known.norm if known.norm == layer.norm else None,
                is_module=known.is_module and layer.is_module,
                calls=known.calls + 1,
            )
        self.found.layers[layer.weight] = layer
        self._note_roles(layer, call)

    def _note_roles(self, layer: Layer, call: Call) -> None:
        """A depthwise convolution follows what it reads; any other layer produces and consumes."""
        if is_depthwise(call):
            return
        self.found.roles[layer.weight, layer.output_dim] = "produces"
        self.found.roles[layer.weight, layer.input_dim] = "consumes"
        if layer.bias is not None:
            self.found.roles.setdefault((layer.bias, 0), "produces")

    def _layer(self, node: fx.Node, call: Call) -> Layer | None:
        weight = self._weight(call)
        if weight is None:
            return None
        module = _module(node, self._model)
        own = module if is_layer(module) else None
        is_module = own is not None and self._names.get(id(own._parameters.get("weight"))) == weight
        kind: Kind = "linear" if call.name == "linear" else "transposed" if is_transposed(call) else "conv"
        counted = call["input"].shape if kind == "transposed" else call.shape
        channel = len(counted) - 1 if kind == "linear" else len(counted) - len(call["weight"].shape) + 1
        positions = torch.Size(counted[:channel] + counted[channel + 1 :]).numel()
        return Layer(
            weight if own is None else self._first_name(own),
            kind,
            weight,
            call["bias"].tensor if call["bias"] is not None else None,
            call["groups"] or 1,
            positions // self._batch if positions % self._batch == 0 else positions,
            is_module,
            self._norm(node),
        )

    def _weight(self, call: Call) -> str | None:
        """The parameter that the weight is, or is computed from with its filters in their places."""
        weight = call["weight"]
        if weight.tensor is not None:
            return weight.tensor
        origins = {dim: call.classes.origin(vector) for dim, vector in weight.along.items() if dim < 2}
        dims = {origin[1] == dim for dim, origin in origins.items() if origin}
        names = {origin[0] for origin in origins.values() if origin}
        names = {name for name in names if self._labels[name].shape == weight.shape}
        if None in origins.values() or dims != {True} or len(names) != 1:
            call.fix_all(weight, "a weight computed from others")
            return None
        return names.pop()

    def _norm(self, node: fx.Node) -> str | None:
        """The batch norm module that alone takes the node's output."""
        users = list(node.users)
        if len(users) != 1 or not str(users[0].target).startswith("aten.batch_norm"):
            return None
        module = _module(users[0], self._model)
        return self._first_name(module) if isinstance(module, nn.modules.batchnorm._BatchNorm) else None

    def _first_name(self, module: nn.Module) -> str:
        return next(name for name, other in self._model.named_modules() if other is module)


@dataclass(frozen=True)
class _Held:
    """A parameter or buffer that no operation has used yet."""

    name: str
    tensor: torch.Tensor


def _values(node: fx.Node, along: Mapping[int, Any], classes: Classes | None = None, call: Call | None = None) -> Any:
    """The labels of a node's results, in their structure.

    along: of its only tensor for each dimension its vector, or of several for each its own
    """
    leaves, spec = pytree.tree_flatten(node.meta.get("val"))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    several = bool(along) and isinstance(next(iter(along.values())), dict)
    each = iter([along[place] for place in range(len(tensors))] if several else [along] + [{}] * (len(tensors) - 1))
    return pytree.tree_unflatten(
        [_labels(leaf, next(each), call) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec
    )


def _labels(tensor: torch.Tensor, along: Mapping[int, torch.Tensor], call: Call | None) -> Labels:
    """Without those that always stay, and those that stay since a dimension of size 1 can't shrink."""
    shape = tuple(tensor.shape)
    kept = {}
    for dim, vector in along.items():
        if len(vector) != shape[dim]:
            raise AssertionError(f"{len(vector)} labels along dimension {dim} of {shape}, {call.name if call else ''}")
        if shape[dim] > 1 and vector.any():
            kept[dim] = vector
        elif call is not None:
            call.fix(vector, "all its filters at once")
    return Labels(shape, kept)


def _module(node: fx.Node, model: nn.Module) -> nn.Module | None:
    """The innermost module of the model whose forward holds the node."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return None
    name = re.sub(r"@\d+", "", stack[-1][0])
    try:
        return model.get_submodule(name.removeprefix(PREFIX) if name != PREFIX[:-1] else "")
    except AttributeError:
        return None


def is_layer(module: nn.Module | None) -> bool:
    """Whether it is a convolution or linear map that runs torch's own forward."""
    return isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) and (
        type(module).forward.__module__.startswith("torch.")
    )
