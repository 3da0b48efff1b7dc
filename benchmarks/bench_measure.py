"""The 17 measured layers of ResNet50: a report on all of them, beside the bare redundancy of each."""

import pytest
import race
from layers import RESNET50
from torch import nn

import ckrm_kernels


def resnet50_layers():
    model = nn.ModuleList(nn.Conv2d(layer.slices, layer.filters, layer.side) for layer in RESNET50)
    for convolution, layer in zip(model, RESNET50, strict=True):
        convolution.weight.data = layer.weight()
    return model


def redundancy_of_each(model):
    return [ckrm_kernels.redundancy(convolution) for convolution in model]


@pytest.mark.parametrize("call", [ckrm_kernels.measure, redundancy_of_each], ids=lambda call: call.__name__)
def test_measure(report_times, call):
    model = resnet50_layers()
    entry = race.enter({"": lambda: call(model)}, lambda result: None)
    race.run([entry])
    slice_pairs = sum(layer.slice_pairs for layer in RESNET50)
    report_times("measure", "ResNet50", call.__name__, entry.seconds, form="", slice_pairs=slice_pairs)
