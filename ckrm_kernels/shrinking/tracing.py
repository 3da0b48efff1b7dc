"""An exported program run once on labels."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from ckrm_kernels.shrinking.exporting import PREFIX
from ckrm_kernels.shrinking.label_rules import RULES, Along, Call
from ckrm_kernels.shrinking.label_rules.norms import RULES as NORMS
from ckrm_kernels.shrinking.labels import Classes, Labels
from ckrm_kernels.shrinking.torch_modules import mixes_filters, norm_sizes, size_attribute
from ckrm_kernels.shrinking.traced_layers import TracedLayers, module_of
from ckrm_kernels.shrinking.watching import source_of


@dataclass
class Traced:
    """What a run on labels found.

    norms: the sizes that norms without tensors of their own hold, by module and attribute
    unsupported: operations without a rule, each with its line
    """

    layers: TracedLayers
    norms: Mapping[str, tuple[int, ...]]
    classes: Classes = field(default_factory=Classes)
    unsupported: list[str] = field(default_factory=list)


class Tracing:
    """Runs on labels of a model's programs, one after the other.

    model: whose names are given; batch: how many examples the programs' inputs hold
    """

    def __init__(self, model: nn.Module, batch: int):
        self._model = model
        self._names = {id(tensor): name for name, tensor in chain(model.named_parameters(), model.named_buffers())}
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._labels: dict[str, Labels] = {}
        self._training = False
        self.found = Traced(TracedLayers(model, batch), norm_sizes(model))

    def run(self, program: torch.export.ExportedProgram, *, training: bool = False) -> Traced:
        """What was found so far, with what this program adds.

        training: it is that of training, after that of evaluation: layers that it alone runs read and make filters,
            and are none of the network's
        """
        self._training = training
        signature = program.graph_signature
        held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        inputs = []
        for node in program.graph.nodes:
            if node.op == "placeholder":
                tensor = self._tensor(held[node.name]) if node.name in held else None
                inputs.append(_unlabelled(node) if tensor is None else _Held(self._names[id(tensor)], tensor))
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
                attribute = operator.attrgetter(str(node.target))(module)
                values[node] = attribute if isinstance(attribute, fx.GraphModule) else _unlabelled(node)
            elif node.op == "call_function":
                values[node] = self._node(node, values)
            elif node.op == "output":
                return self._of(node.args[0], values)
        return None

    def _of(self, arguments: Any, values: Mapping[fx.Node, Any]) -> Any:
        """Arguments with labels in the place of nodes; parameters get their labels when they are first used."""
        found = fx.map_arg(arguments, lambda node: values[node])
        return pytree.tree_map(lambda leaf: self._held(leaf) if isinstance(leaf, _Held) else leaf, found)

    def _held(self, held: _Held) -> Labels:
        """The labels of a parameter or buffer: an own one for each index of each dimension."""
        labels = self._labelled(held.name, tuple(held.tensor.shape))
        reason = mixes_filters(self._model, held.name)
        if reason is not None:
            for vector in labels.along.values():
                self.found.classes.fix(vector, reason)
        return labels

    def _labelled(self, name: str, shape: tuple[int, ...]) -> Labels:
        if name not in self._labels:
            along = {d: self.found.classes.new(name, d, size) for d, size in enumerate(shape) if size > 1}
            self._labels[name] = Labels(shape, along, name)
        return self._labels[name]

    def _node(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            args: list[Any] = [values[a] if isinstance(a, fx.Node) else a for a in node.args]
            graphs = [place for place, value in enumerate(args) if isinstance(value, fx.GraphModule)]
            if len(graphs) == 1:  # a block under no_grad or autocast
                return self._graph(args[graphs[0]], args[graphs[0] + 1 :])
        given, keywords = self._of((node.args, node.kwargs), values)
        if node.target is operator.getitem:
            return given[0][given[1]]
        call = _call(node, given, keywords, self.found.classes)
        return None if call is None else self._call(node, call)

    def _with_own_width(self, node: fx.Node, call: Call) -> Call:
        """Of a norm without tensors: the width that its module holds as one more argument."""
        module = module_of(node, self._model) if call.name in NORMS else None
        held = None if module is None else size_attribute(module)
        if held is None:
            return call
        name = f"{self._paths[id(module)]}.{held}".removeprefix(".")
        return replace(call, arguments={**call.arguments, "width": self._labelled(name, self.found.norms[name])})

    def _call(self, node: fx.Node, call: Call) -> Any:
        call = self._with_own_width(node, call)
        rule = RULES.get(call.name)
        if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
            rule = RULES["add"]
        try:
            along = None if rule is None else rule(call)
        except Exception:  # a use that the rule does not know, such as sizes that depend on values
            along = None
        labelled = [tensor for tensor in call.tensors() if tensor.along]
        if along is None and labelled:
            self.found.unsupported.append(call.name + (f" ({call.source.place})" if call.source.place else ""))
        if along is None or isinstance(module_of(node, self._model), nn.MultiheadAttention):
            for tensor in labelled:
                call.fix_all(tensor, "an operation without a rule" if along is None else "attention of a given width")
        if along is None:
            return _unlabelled(node)
        self.found.layers.note(node, call, training=self._training)
        return _results(node, [_lasting(each, call) for each in (along if isinstance(along, list) else [along])])


@dataclass(frozen=True)
class _Held:
    """A parameter or buffer that no operation has used yet."""

    name: str
    tensor: torch.Tensor


def _call(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any], classes: Classes) -> Call | None:
    """The call with its arguments by name; None where it has no tensor for a result and changes none."""
    shapes = [tuple(v.shape) for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, torch.Tensor)]
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.partition("::")[2]
        defaults = {a.name: a.default_value if a.has_default_value() else None for a in target._schema.arguments}
        arguments = {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}
        if not shapes and not target._schema.is_mutable:
            return None
    else:
        name = getattr(target, "__name__", str(target))
        arguments = {**{str(place): argument for place, argument in enumerate(args)}, **kwargs}
        if not shapes:
            return None
    in_place = name.endswith("_") and not name.startswith("__")
    return Call(name[:-1] if in_place else name, target, arguments, shapes, source_of(node), classes)


def _lasting(along: Along, call: Call) -> Along:
    """Without what always stays; a dimension of size 1 can't shrink, so that what it is made of can't leave."""
    for vector in along.values():
        if len(vector) == 1:
            call.fix(vector, "all its filters at once")
    return {dim: vector for dim, vector in along.items() if len(vector) > 1 and vector.any()}


def _unlabelled(node: fx.Node) -> Any:
    return _results(node, [])


def _results(node: fx.Node, along: Iterable[Along]) -> Any:
    """The labels of a node's tensors, in their structure; what is no tensor as it is."""
    leaves, structure = pytree.tree_flatten(node.meta.get("val"))
    each = chain(along, repeat({}))
    return pytree.tree_unflatten(
        [Labels(tuple(leaf.shape), next(each)) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves],
        structure,
    )
