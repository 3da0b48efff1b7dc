"""A crude tracer (replaced): labels run through the exported graph."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from ckrm_kernels.shrinking.couplings import Coupling, Entries, Graph, Layer

_spec = importlib.util.spec_from_file_location("prototype", "/work/shared/studies/shrinking/provenance_prototype.py")
_prototype = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_prototype)


def trace(model: nn.Module, example_inputs: Any) -> Graph:
    """The graph of a model; example_inputs: a tensor or a tuple of positional arguments."""
    from ckrm_kernels.shrinking.inputs import as_inputs

    inputs = as_inputs("example_inputs", example_inputs).args
    training = model.training
    found = _prototype.Prov(model.eval(), inputs)
    layers, order, norms, seen = [], {}, {}, {}

    def hook(module, args, output, name):
        if name not in seen:
            order[name] = len(order)
        n = (args[0] if isinstance(module, nn.modules.conv._ConvTransposeNd) else output)[0]
        channels = n.shape[0] if not isinstance(module, nn.Linear) else n.shape[-1]
        seen[name] = (seen.get(name, (0, 0))[0] + n.numel() // channels, seen.get(name, (0, 0))[1] + 1)
        outputs[id(output)] = name
        keep.append(output)

    def norm_hook(module, args, output, name):
        if id(args[0]) in outputs:
            norms[outputs[id(args[0])]] = name

    outputs, keep, hooks = {}, [], []
    for name, module in model.named_modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            hooks.append(module.register_forward_hook(lambda m, a, o, name=name: hook(m, a, o, name)))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            hooks.append(module.register_forward_hook(lambda m, a, o, name=name: norm_hook(m, a, o, name)))
    with torch.no_grad():
        model(*inputs)
    for h in hooks:
        h.remove()
    model.train(training)
    for name in sorted(order, key=order.get):
        module = model.get_submodule(name)
        kind = (
            "linear"
            if isinstance(module, nn.Linear)
            else ("transposed" if isinstance(module, nn.modules.conv._ConvTransposeNd) else "conv")
        )
        layers.append(
            Layer(
                name,
                kind,
                f"{name}.weight",
                f"{name}.bias" if module.bias is not None else None,
                getattr(module, "groups", 1),
                seen[name][0],
                True,
                norms.get(name),
                seen[name][1],
            )
        )
    by_weight = {layer.weight: layer for layer in layers}
    sets: dict[frozenset, list[dict]] = {}
    for places in found.classes().values():
        at: dict[tuple[str, int], list[int]] = {}
        for tensor, dim, index in places:
            at.setdefault((tensor, dim), []).append(index)
        sets.setdefault(frozenset(at), []).append(at)
    couplings = []
    for key, filters in sets.items():
        first = next((k for k in ((l.weight, l.output_dim) for l in layers) if k in key), None)
        if first is None:
            continue
        filters.sort(key=lambda at: at[first])
        entries = []
        for tensor, dim in sorted(key, key=lambda k: [t for t, *_ in found.rec].index(k[0])):
            layer = by_weight.get(tensor)
            depthwise = layer is not None and layer.groups > 1 and model.get_parameter(tensor).shape[1] == 1
            role = "follows"
            if layer is not None and not depthwise:
                role = "consumes" if dim == layer.input_dim else "produces"
            elif tensor.endswith("bias") and tensor[:-4] + "weight" in by_weight:
                role = (
                    "follows"
                    if (
                        by_weight[tensor[:-4] + "weight"].groups > 1
                        and model.get_parameter(tensor[:-4] + "weight").shape[1] == 1
                    )
                    else "produces"
                )
            entries.append(Entries(tensor, dim, tuple(tuple(sorted(at[tensor, dim])) for at in filters), role))
        if not any(e.role == "produces" for e in entries):
            continue
        couplings.append(Coupling(by_weight[first[0]].name, len(filters), tuple(entries), False))
    couplings.sort(key=lambda c: [l.name for l in layers].index(c.name))
    covered = {e.tensor for c in couplings for e in c.entries if e.role == "produces"}
    fixed = {l.name: "its filters reach the output" for l in layers if l.weight not in covered}
    return Graph(tuple(layers), tuple(couplings), fixed, tuple(found.bad))
