"""Forward passes that wait at layers, against passes from the input with the weights of then."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing
from contextvars import ContextVar

import pytest
import torch
from chains import layer_of
from torch import Tensor, nn

from ckrm_kernels.comparison.latency import one_thread
from ckrm_kernels.shrinking import forward_passes
from ckrm_kernels.shrinking.forward_passes import ForwardPass, ForwardPasses

NAMES = ["first", "second", "same", "last"]


class Noting(nn.Module):
    """Calls a layer twice, changes tensors in place, and keeps in itself what it needs later."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.same, self.last = (
            nn.Linear(3, 5),
            nn.Linear(5, 5),
            nn.Linear(5, 5),
            nn.Linear(5, 2),
        )
        self.begun = 0

    def forward(self, x: Tensor) -> Tensor:
        self.begun += 1
        self.noted = self.first(x)
        x = self.second(self.noted.relu()).relu_()
        x = self.same(self.same(x).relu_()) + self.noted
        return self.last(x)


def inputs(count: int = 3) -> list[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    return [((torch.randn(4, 3, generator=generator),), {}) for _ in range(count)]


def from_the_input(network: nn.Module, name: str, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What a module is given and gives in each call of a pass of its own."""
    found = []
    hook = network.get_submodule(name).register_forward_hook(
        lambda _, given, output: found.append((given[0].clone(), output.clone()))
    )
    with torch.no_grad():
        network(x)
    hook.remove()
    return found


@pytest.mark.parametrize("at_once", [0, 200, forward_passes.AT_ONCE])  # a pass at the second layer holds 160 bytes
def test_each_layer_sees_the_weights_that_those_before_it_have_by_then(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_passes, "AT_ONCE", at_once)
    network, batches = Noting(), inputs()
    layers = [layer_of(network, name, calls=2 if name == "same" else 1) for name in NAMES]
    with closing(ForwardPasses(network, layers, batches)) as passes:
        for layer in layers:
            for batch, ((x,), _) in enumerate(batches):
                expected = from_the_input(network, layer.name, x)
                calls = [(seen.input.clone(), seen.output.clone()) for seen in passes.calls(batch, layer)]
                assert len(calls) == layer.calls
                for found, wanted in zip(calls, expected, strict=True):
                    torch.testing.assert_close(found, wanted, atol=0, rtol=0)
                assert passes.held <= at_once
            with torch.no_grad():
                network.get_submodule(layer.name).weight.mul_(1.5)
    assert not passes.held


@pytest.mark.parametrize(("at_once", "begun"), [(forward_passes.AT_ONCE, 1), (0, 3)])
def test_a_pass_that_waits_goes_on_from_there(at_once: int, begun: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_passes, "AT_ONCE", at_once)
    network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.Linear(5, 2))
    passed = []
    network.register_forward_pre_hook(lambda *_: passed.append(1))
    layers = [layer_of(network, name) for name in ("0", "2", "3")]
    with closing(ForwardPasses(network, layers, inputs(1))) as passes:
        for layer in layers:
            assert len(list(passes.calls(0, layer))) == 1
    assert len(passed) == begun


def test_no_more_passes_wait_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_passes, "MOST_WAITING", 2)
    network, before = Noting(), threading.active_count()
    with closing(ForwardPasses(network, [layer_of(network, "first")], inputs(5))) as passes:
        for batch in range(5):
            assert len(list(passes.calls(batch, layer_of(network, "first")))) == 1
        assert threading.active_count() == before + 2


def test_a_pass_under_autocast_takes_the_new_weights() -> None:
    network, x = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), inputs(1)[0][0][0]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        with closing(ForwardPasses(network, [layer_of(network, name) for name in "01"], inputs(1))) as passes:
            list(passes.calls(0, layer_of(network, "0")))
            network[0].weight.mul_(1.5)
            (seen,) = passes.calls(0, layer_of(network, "1"))
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            torch.testing.assert_close(seen.input, network[0](x), atol=0, rtol=0)


def test_what_a_pass_holds_is_what_it_still_needs() -> None:
    network = nn.Sequential(nn.Linear(3, 100), nn.ReLU(), nn.Linear(100, 5), nn.Flatten(), nn.Linear(5, 2))
    passing = ForwardPass(network, ["2", "4"], (torch.randn(4, 3),), {})
    try:
        assert passing.held == 0
        passing.next_call("2")
        assert passing.held == 4 * 100 * 4  # the activation; of a layer's output that was given away nothing
        passing.next_call("4")
        assert passing.held == 4 * 5 * 4  # once, whatever views of it there are
        assert passing.next_call("4") is None
        assert passing.held == 0
        assert passing.next_call("4") is None
    finally:
        passing.end()


def test_nothing_is_left_of_ended_passes() -> None:
    network, before = Noting(), threading.active_count()
    layers = [layer_of(network, name) for name in NAMES]
    with closing(ForwardPasses(network, layers, inputs())) as passes:
        for batch in range(3):
            list(passes.calls(batch, layers[0]))
        assert threading.active_count() == before + 3
    assert threading.active_count() == before
    assert network.begun == 0
    assert not hasattr(network, "noted")
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


class Failing(Noting):
    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        raise ValueError("the model's own words")


def test_an_error_of_the_model_is_raised_where_the_pass_is_asked_to_go_on() -> None:
    network, before = Failing(), threading.active_count()
    layers = [layer_of(network, "first"), layer_of(network, "last")]
    with closing(ForwardPasses(network, layers, inputs(1))) as passes:
        list(passes.calls(0, layers[0]))
        list(passes.calls(0, layers[1]))
        with pytest.raises(ValueError, match="the model's own words"):
            list(passes.calls(0, layers[0]))
    assert threading.active_count() == before


def test_what_fails_at_a_call_leaves_no_pass() -> None:
    network, before = Noting(), threading.active_count()
    layer = layer_of(network, "second")

    def fails() -> None:
        with closing(ForwardPasses(network, [layer], inputs())) as passes:
            list(passes.calls(0, layer))
            for _ in passes.calls(1, layer):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert threading.active_count() == before


class CatchingAll(Noting):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            try:
                self.first(x)
            except:  # noqa: E722
                continue
        return x


def test_a_pass_ends_in_a_model_that_catches_whatever_is_raised() -> None:
    passing = ForwardPass(CatchingAll(), ["first"], inputs(1)[0][0], {})
    passing.next_call("first")
    passing.end()
    assert not passing._thread.is_alive()


NOTED = ContextVar("noted", default="")


class Noticing(nn.Identity):
    def forward(self, input: Tensor) -> Tensor:
        self.context = NOTED.get()
        self.noticed = torch.empty(1).device.type, torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()
        return input


def test_a_pass_runs_with_the_settings_of_the_thread_that_asks() -> None:
    network = nn.Sequential(Noticing(), nn.Identity())
    for contexts, expected in (
        ([torch.autocast("cpu", torch.bfloat16), torch.device("meta")], ("meta", True, False)),
        ([], ("cpu", False, False)),
    ):
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            NOTED.set(expected[0])
            passing = ForwardPass(network, ["1"], inputs(1)[0][0], {})
        passing.next_call("1")
        passing.end()
        assert network[0].noticed == expected
        assert network[0].context == expected[0]


class Timing(nn.Identity):
    def forward(self, input: Tensor) -> Tensor:
        all_threads, this = time.process_time(), time.thread_time()
        for _ in range(3):
            input @ input
        self.others = (time.process_time() - all_threads) / (time.thread_time() - this) - 1
        return input


def test_a_pass_computes_on_as_many_threads_as_the_one_that_asks() -> None:
    network = nn.Sequential(Timing(), nn.Identity())
    with one_thread():
        passing = ForwardPass(network, ["1"], (torch.randn(1000, 1000),), {})
        passing.next_call("1")
        passing.end()
    assert network[0].others < 0.3
