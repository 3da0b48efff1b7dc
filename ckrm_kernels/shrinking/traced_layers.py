"""The layers that a traced program runs, and what their tensors are to the filters."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import fx, nn

from ckrm_kernels.shrinking.couplings import Layer, Role
from ckrm_kernels.shrinking.exporting import PREFIX
from ckrm_kernels.shrinking.label_rules import Call
from ckrm_kernels.shrinking.label_rules.layers import CONVOLUTIONS, is_depthwise, is_transposed


class TracedLayers:
    """The layers noted so far.

    by_weight: by the name of their weight, in the order in which they first run
    roles: of the tensors and dimensions of layers and embeddings; all others follow
    """

    def __init__(self, model: nn.Module, batch: int):
        self.by_weight: dict[str, Layer] = {}
        self.roles: dict[tuple[str, int], Role] = {}
        self._model = model
        self._batch = batch
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
        self._modules = {id(module): name for name, module in model.named_modules()}

    def produces(self, layer: Layer) -> bool:
        """Whether the layer makes filters of its own, as all but depthwise ones do."""
        return self.roles.get((layer.weight, layer.output_dim)) == "produces"

    def note(self, node: fx.Node, call: Call, *, training: bool = False) -> None:
        """Add the layer that the call runs, if it runs one; in training what it is to the filters alone."""
        if call.name in ("embedding", "embedding_bag") and call["weight"].tensor:
            self.roles.setdefault((call["weight"].tensor, 1), "produces")
        if call.name == "linear" or call.name in CONVOLUTIONS:
            weight = self._weight(call)
            if weight is None and not is_depthwise(call):  # a depthwise one follows its channels
                call.fix_all(call["weight"], "a weight computed from others")
            elif weight is not None:
                layer = self._layer(node, call, weight)
                if not training:
                    self._add(layer)
                if not is_depthwise(call):
                    self._set_roles(layer)

    def _add(self, layer: Layer) -> None:
        known = self.by_weight.get(layer.weight)
        if known is not None:
            layer = replace(
                known,
                positions=known.positions + layer.positions,
                norm=known.norm if known.norm == layer.norm else None,
                is_module=known.is_module and layer.is_module,
                calls=known.calls + 1,
            )
        self.by_weight[layer.weight] = layer

    def _set_roles(self, layer: Layer) -> None:
        """A depthwise convolution follows what it reads; any other layer produces and consumes."""
        self.roles[layer.weight, layer.output_dim] = "produces"
        self.roles[layer.weight, layer.input_dim] = "consumes"
        if layer.bias is not None:
            self.roles.setdefault((layer.bias, 0), "produces")

    def _layer(self, node: fx.Node, call: Call, weight: str) -> Layer:
        module = module_of(node, self._model)
        own = module if is_layer(module) else None
        transposed = call.name != "linear" and is_transposed(call)
        return Layer(
            name=weight if own is None else self._modules[id(own)],
            kind="linear" if call.name == "linear" else "transposed" if transposed else "conv",
            weight=weight,
            bias=call["bias"].tensor if call["bias"] is not None else None,
            groups=call["groups"] or 1,
            positions=self._positions(call["input"].shape if transposed else call.shape, call),
            is_module=own is not None and own._parameters.get("weight") is self._model.get_parameter(weight),
            norm=self._norm(node),
        )

    def _positions(self, shape: tuple[int, ...], call: Call) -> int:
        """How many there are of one example: all but the dimension of channels."""
        channel = len(shape) - 1 if call.name == "linear" else len(shape) - len(call["weight"].shape) + 1
        positions = torch.Size(shape[:channel] + shape[channel + 1 :]).numel()
        return positions if positions % self._batch else positions // self._batch

    def _weight(self, call: Call) -> str | None:
        """The parameter that the weight is, or is computed from with its filters in their places."""
        weight = call["weight"]
        if weight.tensor is not None:
            return str(weight.tensor)
        origins = [(dim, call.classes.origin(vector)) for dim, vector in weight.along.items() if dim < 2]
        names = {origin[0] if origin is not None and origin[1] == dim else None for dim, origin in origins}
        name = names.pop() if len(names) == 1 else None
        return name if name is not None and self._shapes.get(name) == weight.shape else None

    def _norm(self, node: fx.Node) -> str | None:
        """The batch norm module that alone takes the node's output."""
        users = list(node.users)
        if len(users) != 1 or not str(users[0].target).startswith("aten.batch_norm"):
            return None
        module = module_of(users[0], self._model)
        return self._modules[id(module)] if isinstance(module, nn.modules.batchnorm._BatchNorm) else None


def module_of(node: fx.Node, model: nn.Module) -> nn.Module | None:
    """The innermost module of the model whose forward holds the node."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return None
    name = re.sub(r"@\d+", "", stack[-1][0])  # a second call's modules have a number
    try:
        return model.get_submodule(name.removeprefix(PREFIX) if name != PREFIX[:-1] else "")
    except AttributeError:
        return None


def is_layer(module: nn.Module | None) -> bool:
    """Whether it is a convolution or linear map that runs torch's own forward."""
    return isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) and (
        type(module).forward.__module__.startswith("torch.")
    )
