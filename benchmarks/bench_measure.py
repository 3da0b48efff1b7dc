"""The 17 measured layers of ResNet50: a report on all of them, beside the bare redundancy of each.

With weights of two kinds: random ones, and such as training leaves.
"""

import statistics
from functools import cache

import pytest
import race
import torch
from layers import RESNET50, Layer
from torch import Tensor, nn

import ckrm_kernels


def as_trained(layer: Layer, seed: int) -> Tensor:
    """Slices that are mixtures of three shapes of the layer and noise, in filters that differ in scale.

    Of the usual size of a trained network's weights; of the narrow layers' filters one in twenty is dead.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.randn(3, layer.side**2, generator=generator)
    mixtures = torch.randn(layer.filters, layer.slices, 3, generator=generator) @ shapes
    slices = mixtures + torch.randn(mixtures.shape, generator=generator)
    scales = (0.5 * torch.randn(layer.filters, 1, 1, generator=generator)).exp()
    if layer.filters <= 64:
        scales[torch.rand(layer.filters, generator=generator) < 0.05] = 1e-3
    fan_in = layer.slices * layer.side**2
    weight = slices * scales * (0.5 / fan_in) ** 0.5
    return weight.view(layer.filters, layer.slices, layer.side, layer.side)


WEIGHTS = {"random": lambda layer, seed: layer.weight(), "as trained": as_trained}


def resnet50_layers(weights: str) -> nn.ModuleList:
    model = nn.ModuleList(nn.Conv2d(layer.slices, layer.filters, layer.side) for layer in RESNET50)
    for seed, (convolution, layer) in enumerate(zip(model, RESNET50, strict=True)):
        convolution.weight.data = WEIGHTS[weights](layer, seed)
    return model


def everything(model: nn.ModuleList) -> None:
    """All that a report holds, absolute and scale-free."""
    ckrm_kernels.measure(model)


def without_details(model: nn.ModuleList) -> None:
    ckrm_kernels.measure(model, details=False)


def redundancy_of_each(model: nn.ModuleList) -> None:
    """The bare redundancies at one eps."""
    for convolution in model:
        ckrm_kernels.redundancy(convolution)


CALLS = (everything, without_details, redundancy_of_each)


@cache
def raced(weights: str) -> dict[str, list[float]]:
    """The seconds of each call, in turns."""
    model = resnet50_layers(weights)
    entries = {call.__name__: race.enter({"": lambda call=call: call(model)}, lambda result: None) for call in CALLS}
    race.run(list(entries.values()))
    return {name: entry.seconds for name, entry in entries.items()}


@pytest.mark.parametrize("call", [call.__name__ for call in CALLS])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_measure(report_times, weights, call):
    seconds = raced(weights)
    ratio = statistics.median(seconds[call]) / statistics.median(seconds[redundancy_of_each.__name__])
    form = "" if call == redundancy_of_each.__name__ else f"{ratio:.2f} x redundancy_of_each"
    slice_pairs = sum(layer.slice_pairs for layer in RESNET50)
    layers = f"ResNet50, weights {weights}"
    report_times("measure", layers, call, seconds[call], form=form, slice_pairs=slice_pairs)
