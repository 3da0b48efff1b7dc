"""Whatever leaves a traced network, the small model that is loaded is the one that was saved, without tracing."""

import json
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ckrm_kernels.shrinking.couplings import Graph
from ckrm_kernels.shrinking.graph import trace
from ckrm_kernels.shrinking.saved import load_shrunk, save_shrunk
from ckrm_kernels.shrinking.surgery import without


class Net(nn.Module):
    """A residual stream, depthwise and transposed convolution, concatenation, a flattened linear layer, bare norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.inner, self.outer = nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.depthwise, self.up = nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.ConvTranspose2d(5, 4, 2, stride=2)
        self.bare = nn.InstanceNorm2d(4)
        self.side, self.head = nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.Linear((4 + 3) * 16, 6)

    def forward(self, x):
        y = self.norm(self.stem(x)).relu()
        y = self.depthwise(y + self.outer(self.inner(y).relu()))
        y = torch.cat([nn.functional.max_pool2d(self.bare(self.up(y)), 4), self.side(x)], 1)
        return self.head(y.flatten(1))


@dataclass
class Plan:
    model: nn.Module
    graph: Graph
    removed: dict
    layers: tuple = ()


@cache
def traced():
    """A model, inputs and what tracing it finds."""
    torch.manual_seed(0)
    model, images = Net().eval(), torch.randn(2, 3, 8, 8)
    return model, images, trace(model, images)


@st.composite
def some_removed(draw):
    """Of each coupling any filters but one."""
    return {
        coupling.name: tuple(sorted(draw(st.sets(st.integers(0, coupling.width - 1), max_size=coupling.width - 1))))
        for coupling in traced()[2].couplings
    }


@given(some_removed())
@settings(max_examples=25)
def test_what_is_loaded_is_what_was_saved(tmp_path_factory, removed):
    folder = tmp_path_factory.mktemp("small")
    model, images, graph = traced()
    small = without(model, graph, removed)
    save_shrunk(folder, Plan(model, graph, removed), small)
    loaded = load_shrunk(Net, folder)
    assert torch.equal(loaded(images), small(images))
    assert str(loaded) == str(small)  # with the numbers of channels that modules say they have


def test_the_couplings_are_those_that_the_network_has():
    assert {coupling.width for coupling in traced()[2].couplings} == {3, 4, 5}


@pytest.mark.filterwarnings("ignore:input.s size at dim=1 does not match num_features")
def test_a_plan_of_before_norms_without_tensors_had_entries_is_read(tmp_path):
    model, images, graph = traced()
    removed = {coupling.name: (0,) for coupling in graph.couplings}
    small = without(model, graph, removed)
    save_shrunk(tmp_path, Plan(model, graph, removed), small)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["original"].pop("bare.num_features") == [4]
    assert plan["kept"].pop("bare.num_features")
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert torch.equal(load_shrunk(Net, tmp_path)(images), small(images))
