"""`ckrm models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ckrm_kernels.commands.shared import interruptible
from ckrm_kernels.presentation.tables import aligned

if TYPE_CHECKING:
    from torch import nn

    from ckrm_kernels.models import ResNetShape


def models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show the layers of this network.")] = None,
) -> None:
    """List the networks and their parameters, or the layers of one with their widths."""
    with interruptible("run `ckrm models` again"):
        typer.echo(_networks() if name is None else _layers(name))


def _networks() -> str:
    """A line for each network."""
    from ckrm_kernels.models import NETWORKS, count_parameters

    rows = [("network", "parameters", "what it is")]
    for network in NETWORKS.values():
        parameters = count_parameters(_without_memory(network.shape))
        rows.append((network.name, f"{parameters:,}", network.description))
    return aligned(rows, numbers=[1])


def _layers(name: str) -> str:
    """A line for each convolution and linear layer of a network, and one for the rest of its parameters."""
    from ckrm_kernels.models import NETWORKS, count_parameters, network_shape

    shape = network_shape(name)
    model, names = _without_memory(shape), shape.width_of_layer()
    rows = [("layer", "weight", "width", "parameters")]
    counted = 0
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or weight.dim() < 2:
            continue
        width = names.get(path) or ("inferred" if weight.dim() == 4 else "classes")
        parameters = count_parameters(module)
        counted += parameters
        rows.append((path, "x".join(map(str, weight.shape)), width, f"{parameters:,}"))
    total = count_parameters(model)
    rest = "norms and three scalars of the loss" if shape.head == "gg-cam" else "norms"
    rows += [(rest, "", "", f"{total - counted:,}"), ("total", "", "", f"{total:,}")]
    heading = f"{name}: {NETWORKS[name].description}; in_channels {shape.in_channels}, classes {shape.classes}"
    return f"{heading}\n\n{aligned(rows, numbers=[3])}"


def _without_memory(shape: ResNetShape) -> nn.Module:
    import torch

    with torch.device("meta"):
        return shape.build()
