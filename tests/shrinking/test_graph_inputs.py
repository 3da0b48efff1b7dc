"""What the tracer takes, what it refuses and how, and that it leaves everything as it was."""

from __future__ import annotations

import copy
import io
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from ckrm_kernels.shrinking.graph import trace
from tests.shrinking.small_networks import NETWORKS, Network

IMAGES = torch.zeros(2, 3, 8, 8)


def _network(run: Any) -> Network:
    return Network(run, stem=nn.Conv2d(3, 6, 3), last=nn.Linear(6, 4), spare=nn.Linear(6, 2))


def _plain(m: Network, x: torch.Tensor) -> torch.Tensor:
    return m.last(m.stem(x).mean((2, 3)))


@dataclass
class _Batch:
    images: torch.Tensor
    factor: float


@dataclass
class _Found:
    logits: torch.Tensor
    more: dict[str, Any]


@pytest.mark.parametrize(
    "example",
    [IMAGES, (IMAGES,), {"x": IMAGES}, ((IMAGES,), {}), ((), {"x": IMAGES}), IMAGES[:1], IMAGES.half()],
    ids=["tensor", "tuple", "dict", "pair", "pair of keywords", "batch of one", "half"],
)
def test_example_inputs(example: Any) -> None:
    dtype = torch.float16 if getattr(example, "dtype", None) == torch.float16 else torch.float32
    graph = trace(_network(_plain).to(dtype), example)
    assert [(coupling.name, coupling.width) for coupling in graph.couplings] == [("stem", 6)]
    assert graph.fixed["spare"] == "it does not run in evaluation mode"


def test_dataclasses_go_in_and_come_out() -> None:
    def run(m: Network, batch: _Batch, *, masks: list[torch.Tensor]) -> _Found:
        x = m.stem(batch.images) * batch.factor * masks[0]
        return _Found(m.last(x.mean((2, 3))), {"sums": (x.sum((1, 2, 3)),)})

    graph = trace(_network(run), ((_Batch(IMAGES, 2.0),), {"masks": [torch.ones(2, 1, 6, 6)]}))
    assert not graph.couplings
    assert "x.sum((1, 2, 3))" in graph.fixed["stem"]


def test_what_a_forward_keeps_in_an_attribute_is_no_hindrance() -> None:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        m.seen = m.stem(x)
        return m.last(m.seen.mean((2, 3)))

    network = _network(run)
    assert trace(network, IMAGES).couplings
    assert not hasattr(network, "seen")


def test_the_model_and_the_random_numbers_stay_as_they_were() -> None:
    network = NETWORKS["activations"].model().train()
    network.last.eval()
    network.stem.weight.requires_grad_(False)
    network(*NETWORKS["activations"].example()).sum().backward()
    handle = network.stem.register_forward_hook(lambda module, args, output: output * 2)
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    gradient, state = network.last.weight.grad, torch.get_rng_state()
    trace(network, NETWORKS["activations"].example())
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.last.weight.grad is gradient
    assert not network.stem.weight.requires_grad
    assert list(network.stem._forward_hooks) == [handle.id]
    assert type(network.stem.out_channels) is int


def test_layers_are_described() -> None:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.twice(m.twice(m.bn(m.first(x)).relu()))
        x = m.up(x.reshape(-1, 4, 8, 8))
        return m.last(x.mean((2, 3)))

    members = {"first": nn.Conv2d(3, 4, 3, padding=1), "bn": nn.BatchNorm2d(4), "up": nn.ConvTranspose2d(4, 6, 2, 2)}
    twice = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
    layers = {
        layer.name: layer for layer in trace(Network(run, **members, twice=twice, last=nn.Linear(6, 5)), IMAGES).layers
    }
    assert list(layers) == ["first", "twice", "up", "last"]
    described = {name: (x.kind, x.positions, x.calls, x.groups, x.bias, x.norm) for name, x in layers.items()}
    assert described == {
        "first": ("conv", 64, 1, 1, "first.bias", "bn"),
        "twice": ("conv", 128, 2, 2, None, None),
        "up": ("transposed", 64, 1, 1, "up.bias", None),
        "last": ("linear", 1, 1, 1, "last.bias", None),
    }
    assert all(layer.is_module for layer in layers.values())


def _branch(m: Network, x: torch.Tensor) -> torch.Tensor:
    x = m.stem(x)
    if x.sum() > 0:
        x = -x
    return m.last(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.ReLU()), "must run a convolution or linear layer"),
        (nn.Sequential(nn.LazyConv2d(4, 3)), "0 is a lazy layer"),
        (nn.Conv2d(3, 4, 3, device="meta"), "weight is on the meta device"),
        (nn.DataParallel(nn.Conv2d(3, 4, 3)), "give its .module"),
        (nn.Conv2d(4, 4, 3), "to have 4 channels, but got 3"),
        (_network(_branch), r"test_graph_inputs.py, line \d+: `if x.sum\(\) > 0:`"),
        (IMAGES, "must be an nn.Module, got Tensor"),
    ],
    ids=["no layer", "lazy", "meta", "wrapped", "other shape", "branch on data", "no module"],
)
def test_models_that_are_refused(model: nn.Module, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        trace(model, IMAGES)


def test_a_refusal_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    log, lines = logging.getLogger("torch.fx.experimental.symbolic_shapes"), io.StringIO()
    handler = logging.StreamHandler(lines)
    log.addHandler(handler)  # pytest's own capture stands between torch's handler and the stream
    try:
        with pytest.raises(ValueError, match="the model can't be traced"):
            trace(_network(_branch), IMAGES)
    finally:
        log.removeHandler(handler)
    assert capfd.readouterr() == ("", "")
    assert lines.getvalue() == ""
    assert log.isEnabledFor(logging.ERROR)


def test_a_log_that_is_made_while_tracing_is_silent_too(caplog: pytest.LogCaptureFixture) -> None:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        logging.getLogger("torch.imported_while_tracing").error("noise")
        return _branch(m, x)

    with pytest.raises(ValueError, match="the model can't be traced"):
        trace(_network(run), IMAGES)
    assert "noise" not in caplog.text


def test_threads_trace_at_once_and_the_streams_come_back() -> None:
    model, example = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval(), torch.ones(2, 2, 4, 4)
    streams = sys.stdout, sys.stderr
    with ThreadPoolExecutor(3) as pool:
        graphs = list(pool.map(lambda _: trace(model, example), range(6)))
    assert (sys.stdout, sys.stderr) == streams
    assert {graph.couplings for graph in graphs} == {trace(model, example).couplings}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_scripted_and_quantised_models_are_refused() -> None:
    with pytest.warns(DeprecationWarning, match="jit"):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(TypeError, match="scripted"):
        trace(scripted, IMAGES)
    quantised = nn.Sequential(torch.ao.nn.quantized.Linear(3, 4))
    with pytest.raises(TypeError, match="0 is quantised"):
        trace(quantised, IMAGES)


@pytest.mark.parametrize("example", [[IMAGES], 3, (), {"x": 3}], ids=["list", "number", "nothing", "no tensor"])
def test_inputs_that_are_refused(example: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="example_inputs must"):
        trace(_network(_plain), example)
