"""`ckrm models`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ckrm_kernels.commands.shared import interruptible
from ckrm_kernels.presentation.tables import aligned


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Show the layers of this network, of a run's folder, or of module:Class."),
    ] = None,
) -> None:
    """List the networks and their parameters, or the layers of one with their widths."""
    with interruptible("run `ckrm models` again"):
        typer.echo(_networks() if name is None else _layers(name))


def _networks() -> str:
    """A line for each network."""
    from ckrm_kernels.models import NETWORKS, count_parameters, without_memory

    rows = [("network", "parameters", "what it is")]
    for named in NETWORKS.values():
        parameters = count_parameters(without_memory(named.network))
        rows.append((named.name, f"{parameters:,}", named.description))
    return aligned(rows, numbers=[1])


def _layers(name: str) -> str:
    """A line for each convolution and linear layer of a network, and one for the rest of its parameters."""
    from ckrm_kernels.models import NETWORKS, count_parameters, network_of, without_memory

    network: Any = network_of(name)
    model, names = without_memory(network), network.width_of_layer()
    weighted = {
        path: module
        for path, module in model.named_modules()
        if (weight := module._parameters.get("weight")) is not None and weight.dim() > 1
    }
    last = next(reversed(weighted), None)
    rows = [("layer", "weight", "width", "parameters")]
    for path, module in weighted.items():
        width = names.get(path) or ("classes" if path == last else "inferred")
        rows.append((path, "x".join(map(str, module.weight.shape)), width, f"{count_parameters(module):,}"))
    total, counted = count_parameters(model), sum(map(count_parameters, weighted.values()))
    rows += [("the rest, such as norms", "", "", f"{total - counted:,}"), ("total", "", "", f"{total:,}")]
    described = f"{name}: {NETWORKS[name].description}" if name in NETWORKS else name
    settings = (f"{field} {value}" for field, value in asdict(network).items() if isinstance(value, (str, int)))
    return f"{described}\n{', '.join(settings)}\n\n{aligned(rows, numbers=[3])}"
