"""Networks without some filters: against ones built narrow by hand, and that nothing else of them is lost."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from hand_graphs import Residual, entry, pair, residual
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from ckrm_kernels.shrinking.copying import copied
from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.surgery import permuted, silenced, without

IMAGES = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def narrow_by_hand(model: Residual, stream: list[int], inner: list[int]) -> Residual:
    """The network of these filters alone, by its constructor."""
    small = Residual(len(stream), len(inner)).double().eval()
    with torch.no_grad():
        small.stem.weight.copy_(model.stem.weight[stream])
        small.stem.bias.copy_(model.stem.bias[stream])
        small.narrow.weight.copy_(model.narrow.weight[inner][:, stream])
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(small.norm, name).copy_(getattr(model.norm, name)[inner])
        small.widen.weight.copy_(model.widen.weight[stream][:, inner])
        small.widen.bias.copy_(model.widen.bias[stream])
        small.head.weight.copy_(model.head.weight[:, stream])
        small.head.bias.copy_(model.head.bias)
    return small


REMOVED = st.fixed_dictionaries(
    {"stem": st.sets(st.integers(0, 5), max_size=5), "narrow": st.sets(st.integers(0, 4), max_size=4)}
)


@settings(max_examples=15)
@given(removed=REMOVED)
def test_it_is_the_network_built_narrow(removed):
    model, graph = residual(width=6, inner=5)
    before = copy.deepcopy(model.state_dict())
    small = without(model, graph, removed)
    built = narrow_by_hand(
        model, *([i for i in range(n) if i not in removed[c]] for c, n in (("stem", 6), ("narrow", 5)))
    )
    assert type(small) is Residual
    assert repr(small) == repr(built)
    for name, tensor in built.state_dict().items():
        assert torch.equal(small.state_dict()[name], tensor), name
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    torch.testing.assert_close(small(IMAGES), silenced(model, graph, removed)(IMAGES), rtol=1e-12, atol=1e-12)


def test_silenced_weights_are_zero_where_they_read_the_filters_and_else_the_same():
    model, graph = residual(width=4, inner=3)
    whole = silenced(model, graph, {"stem": [1], "narrow": [0, 2]})
    for name, tensor in model.state_dict().items():
        expected = tensor.clone()
        if name in ("narrow.weight", "head.weight"):
            expected[:, 1] = 0
        if name == "widen.weight":
            expected[:, [0, 2]] = 0
        assert torch.equal(whole.state_dict()[name], expected), name


@settings(max_examples=8)
@given(order=st.permutations(range(6)))
def test_permuted_filters_compute_the_same(order):
    model, graph = residual(width=6)
    moved = permuted(model, graph.coupling("stem"), order)
    assert torch.equal(moved.stem.weight, model.stem.weight[list(order)])
    torch.testing.assert_close(moved(IMAGES), model(IMAGES), rtol=1e-12, atol=1e-12)


ALL_OF_A_NORM = ("weight", "bias", "running_mean", "running_var")


def widths(module):
    """The numbers that torch's modules hold of their widths."""
    names = "in_channels out_channels groups in_features out_features num_features num_channels num_parameters"
    found = {name: getattr(module, name) for name in (*names.split(), "normalized_shape") if hasattr(module, name)}
    return found


class Fancy(nn.Conv2d):
    """A subclass of the user's, with a width of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.width = self.out_channels


@pytest.mark.parametrize(
    ("build", "of", "follows"),
    [
        (lambda n: nn.Conv2d(n, n, 3, groups=n), 1, ("weight", "bias")),
        (lambda n: nn.Conv2d(n, 3 * n, 3, groups=n), 3, ("weight", "bias")),
        (lambda n: nn.ConvTranspose2d(n, n, 3, groups=n), 1, ("weight", "bias")),
        (lambda n: nn.GroupNorm(2, n), 1, ("weight", "bias")),
        (lambda n: nn.InstanceNorm2d(n, affine=True, track_running_stats=True), 1, ALL_OF_A_NORM),
        (lambda n: nn.SyncBatchNorm(n, affine=False), 1, ("running_mean", "running_var")),
        (lambda n: nn.LayerNorm(n), 1, ("weight", "bias")),
        (lambda n: nn.RMSNorm(n), 1, ("weight",)),
        (lambda n: nn.PReLU(n), 1, ("weight",)),
    ],
)  # fmt: skip
def test_widths_of_what_follows(build, of, follows):
    model = nn.Sequential(nn.Conv2d(2, 6, 1), build(6))
    positions = [tuple(range(of * r, of * r + of)) for r in range(6)]
    entries = [entry("0.weight", 0, 6, "produces"), entry("0.bias", 0, 6, "produces")]
    entries += [entry(f"1.{name}", 0, positions, "follows") for name in follows]
    graph = Graph((), (Coupling("0", 6, tuple(entries)),), {})
    small = without(model, graph, {"0": [0, 4]})
    assert widths(small[1]) == widths(build(4))
    assert repr(small[1]) == repr(build(4))


@pytest.mark.parametrize(
    ("build", "dim"),
    [
        (lambda n: nn.ConvTranspose2d(n, 3, 3), 0),
        (lambda n: nn.Conv1d(n, 3, 3), 1),
        (lambda n: nn.Linear(n, 3), 1),
        (lambda n: Fancy(n, 3, 1), 1),
    ],
)
def test_widths_of_what_reads(build, dim):
    model = nn.Sequential(nn.Conv2d(2, 6, 1), build(6))
    entries = (
        entry("0.weight", 0, 6, "produces"),
        entry("0.bias", 0, 6, "produces"),
        entry("1.weight", dim, 6, "consumes"),
    )
    small = without(model, Graph((), (Coupling("0", 6, entries),), {}), {"0": [5, 1]})
    assert widths(small[1]) == widths(build(4))
    assert type(small[1]) is type(build(4))
    assert vars(small[1]).get("width") == vars(model[1]).get("width")
    assert widths(small[0]) == widths(nn.Conv2d(2, 4, 1))


def test_grouped_layers_keep_their_groups():
    filters = [(r, r + 4) for r in range(4)]
    model, graph = pair(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, groups=2), filters=filters, reads=4)
    small = without(model, graph, {"first": [2]})
    assert widths(small.second) == {"in_channels": 6, "out_channels": 4, "groups": 2}
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(small(x), silenced(model, graph, {"first": [2]})(x), rtol=1e-5, atol=1e-6)


class Tagged(nn.Parameter):
    """A kind of parameter of the user's."""


def test_everything_survives():
    model, graph = residual()
    model.to(memory_format=torch.channels_last).train()
    model.norm.eval()
    model.narrow.weight.requires_grad_(False)
    model.stem.weight = Tagged(model.stem.weight.data)
    model.stem.weight.decay = False
    model.register_buffer("scale", torch.ones(3), persistent=False)
    model.tied = model.widen
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    calls = []
    model.stem.weight.register_hook(lambda gradient: calls.append(tuple(gradient.shape)))
    model.head.weight.register_post_accumulate_grad_hook(lambda parameter: calls.append(parameter))
    model.narrow.register_forward_hook(lambda *_: calls.append("forward"))
    small = without(model, graph, {"stem": [0], "narrow": [2]})

    assert [module.training for module in small.modules()] == [module.training for module in model.modules()]
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in model.parameters()]
    assert type(small.stem.weight) is Tagged
    assert small.stem.weight.decay is False
    assert small.tied is small.widen
    assert small.scale.shape == (3,)
    assert "scale" not in small.state_dict()
    assert small.stem.weight.grad is None
    assert model.stem.weight.grad is not None
    assert small.narrow.weight.is_contiguous(memory_format=torch.channels_last)
    assert not small.narrow.weight.is_contiguous()
    small(IMAGES).sum().backward()
    assert calls[0] == "forward"
    assert (3, 2, 3, 3) in calls
    assert calls.count("forward") == 1
    assert any(each is small.head.weight for each in calls)
    assert small.narrow.weight.grad is None
    assert small.stem.weight.grad.shape == (3, 2, 3, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_survive(dtype):
    model, graph = residual()
    small = without(model.to(dtype), graph, {"stem": [1]})
    assert {tensor.dtype for tensor in small.parameters()} == {dtype}


def test_tied_weights_and_other_references_stay_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 5), nn.Linear(3, 5)
            self.second.weight = self.first.weight
            self.known = [self.first.weight]

    model = Tied()
    entries = tuple(entry(name, 0, 5, "produces") for name in ("first.weight", "first.bias", "second.bias"))
    small = without(model, Graph((), (Coupling("first", 5, entries),), {}), {"first": [3]})
    assert small.first.weight is small.second.weight is small.known[0]
    assert small.second.out_features == 4
    assert torch.equal(small.first.weight, model.first.weight[[0, 1, 2, 4]])


def conv_pair():
    torch.manual_seed(0)
    return pair(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 2, 3))


def renamed(graph, names, role="produces"):
    """The graph whose first weight is held as other tensors."""
    coupling = graph.couplings[0]
    entries = [entry(name, 0, coupling.width, role) for name in names]
    kept = [each for each in coupling.entries if each.tensor != "first.weight"]
    return Graph(graph.layers, (Coupling(coupling.name, coupling.width, (*entries, *kept)),), {})


def pruned(layer):
    prune.random_unstructured(layer, "weight", 0.4)
    return prune.ln_structured(layer, "weight", 1, n=2, dim=1)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (parametrizations.weight_norm, ("parametrizations.weight.original0", "parametrizations.weight.original1")),
        (nn.utils.weight_norm, ("weight_g", "weight_v")),
        (pruned, ("weight_orig", "weight_mask")),
    ],
)
def test_weights_computed_filter_by_filter_are_cut_exactly(wrap, names):
    model, graph = conv_pair()
    wrap(model.first)
    graph = renamed(graph, [f"first.{name}" for name in names])
    images = torch.randn(2, 2, 6, 6)
    model(images)
    small = without(model, graph, {"first": [0, 3]})
    assert torch.equal(small.first.weight, model.first.weight[[1, 2, 4, 5]])
    assert small.first.out_channels == 4
    torch.testing.assert_close(small(images), silenced(model, graph, {"first": [0, 3]})(images))
    small(images).sum().backward()
    assert {p.shape for p in small.first.parameters()} == {p.grad.shape for p in small.first.parameters()}


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (parametrizations.spectral_norm, "parametrizations.weight.original"),
        (parametrizations.orthogonal, "parametrizations.weight.original"),
        (nn.utils.spectral_norm, "weight_orig"),
        (lambda layer: parametrizations.weight_norm(layer, dim=1), "parametrizations.weight.original1"),
    ],
)
def test_weights_computed_from_all_filters_are_refused(wrap, name):
    model, graph = conv_pair()
    wrap(model.first)
    model(torch.randn(2, 2, 6, 6))
    with pytest.raises(ValueError, match=r"^first: "):
        without(model, renamed(graph, [f"first.{name}"]), {"first": [0]})
    assert without(model, renamed(graph, [f"first.{name}"]), {"first": []}) is not model


def test_a_parametrisation_of_the_users_own_is_cut():
    class Softened(nn.Module):
        def forward(self, weight):
            return torch.tanh(weight)

    model, graph = conv_pair()
    parametrize.register_parametrization(model.first, "weight", Softened())
    small = without(model, renamed(graph, ["first.parametrizations.weight.original"]), {"first": [1]})
    assert torch.equal(small.first.weight, model.first.weight[[0, 2, 3, 4, 5]])
    assert small.first.out_channels == 5


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"stem": range(4)}, r"removed\['stem'\] must leave one filter at least, got all 4"),
        ({"stem": [4]}, r"removed\['stem'\] must hold filters from 0 to 3, got \[4\]"),
        ({"stem": [-1]}, r"got \[-1\]"),
        ({"head": [0]}, "removed must name couplings of the graph, got 'head'; it has stem, narrow"),
    ],
)
def test_what_can_not_leave(removed, message):
    model, graph = residual()
    for operation in (without, silenced):
        with pytest.raises(ValueError, match=message):
            operation(model, graph, removed)


def test_whole_numbers_of_any_kind_name_filters():
    model, graph = residual()
    assert without(model, graph, {"stem": np.array([1, 2])}).stem.out_channels == 2
    assert without(model, graph, {"stem": torch.tensor([1, 2])}).stem.out_channels == 2
    with pytest.raises(TypeError):
        without(model, graph, {"stem": [0.5]})


def test_every_tensor_keeps_something():
    model = nn.Sequential(nn.Linear(2, 4))
    graph = Graph((), (Coupling("a", 3, (entry("0.weight", 0, [(0, 1), (2, 3), ()], "produces"),)),), {})
    with pytest.raises(ValueError, match=r"leave something of '0.weight', got all of its dimension 0"):
        without(model, graph, {"a": [0, 1]})


def test_a_graph_of_another_model():
    _, graph = residual(width=6)
    with pytest.raises(ValueError, match=r"graph must be the model's"):
        without(residual(width=4)[0], graph, {"stem": [5]})
    with pytest.raises(ValueError, match=r"graph must be the model's"):
        without(nn.Linear(2, 2), graph, {"stem": [5]})


def test_a_model_that_can_not_be_copied():
    model, graph = residual()
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"model must be one that copy.deepcopy can copy, which says: cannot pickle"):
        without(model, graph, {"stem": [1]})


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("wrap", [pruned, nn.utils.weight_norm])
def test_a_copy_of_weights_that_hooks_computed(wrap):
    model = nn.Sequential(wrap(nn.Conv2d(2, 6, 3)))
    images = torch.randn(2, 2, 6, 6)
    expected = model(images)  # after which copy.deepcopy refuses the model
    twin = copied(model)
    assert torch.equal(twin(images), expected)
    assert not {id(tensor) for tensor in twin.parameters()} & {id(tensor) for tensor in model.parameters()}
