"""The fold: networks that lose filters without loss, and what a refit does to one layer."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from chains import chain
from torch import Tensor, nn

from ckrm_kernels.shrinking import fold, fold_cost, forward_passes
from ckrm_kernels.shrinking.couplings import Graph
from ckrm_kernels.shrinking.surgery import without

Batch = tuple[tuple[Tensor, ...], dict[str, Tensor]]


def batches(*shape: int, count: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [((torch.randn(*shape, generator=generator).to(dtype),), {}) for _ in range(count)]


def graph_of(model: nn.Module) -> Graph:
    if isinstance(model, Twice):
        return chain(model, "first", "same", "ends", calls={"same": 2})
    names = [
        name for name, module in model.named_children() if hasattr(module, "stride") or hasattr(module, "in_features")
    ]
    norms = {str(int(name) - 1): name for name, module in model.named_children() if hasattr(module, "running_mean")}
    return chain(model, *names, norms=norms)


def repeat(module: nn.Module, norm: nn.Module | None, of: int, filters: tuple[int, ...]) -> None:
    """Makes filters positive multiples of another: what follows a rectifier is then a multiple, too."""
    with torch.no_grad():
        for scale, filter in enumerate(filters, 2):
            for tensor in (module.weight, module.bias):
                if tensor is not None:
                    tensor[filter] = tensor[of] * scale
            if norm is not None:  # of which the output does not depend on the layer's scale
                norm.running_mean[filter] = norm.running_mean[of] * scale
                norm.running_var[filter] = norm.running_var[of] * scale**2
                norm.weight[filter], norm.bias[filter] = norm.weight[of] * scale, norm.bias[of] * scale


def settled(norm: nn.Module) -> nn.Module:
    """A batch norm with statistics and an affine of its own."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        norm.eps = 0.0
    return norm


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.same, self.ends = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.ends((self.same(x) + self.same(2 * x.flip(2))).mean((2, 3)))


def consumer_of(kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A layer that makes six filters, a rectifier, a consumer and a head; and the inputs' shape."""
    torch.manual_seed(3)
    models = {
        "1-d": (
            nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 4, 3, stride=2), nn.Conv1d(4, 2, 1)),
            (8, 2, 9),
        ),
        "padded": (
            nn.Sequential(
                nn.Conv2d(2, 6, 3),
                nn.ReLU(),
                nn.Conv2d(6, 4, (3, 2), padding=(2, 1), dilation=(1, 2), padding_mode="circular"),
                nn.Conv2d(4, 2, 1),
            ),
            (8, 2, 7, 7),
        ),
        "3-d": (nn.Sequential(nn.Conv3d(2, 6, 2), nn.ReLU(), nn.Conv3d(6, 4, 2), nn.Conv3d(4, 2, 1)), (8, 2, 4, 4, 4)),
        "transposed": (
            nn.Sequential(
                nn.Conv2d(2, 6, 3),
                nn.ReLU(),
                nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1),
                nn.Conv2d(4, 2, 1),
            ),
            (8, 2, 6, 6),
        ),
        "no constant": (
            nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1)),
            (8, 2, 7, 7),
        ),
        "batch norms": (
            nn.Sequential(
                nn.Conv2d(2, 6, 3, bias=False),
                settled(nn.BatchNorm2d(6)),
                nn.ReLU(),
                nn.Conv2d(6, 4, 3, bias=False),
                settled(nn.BatchNorm2d(4)),
                nn.Conv2d(4, 2, 1),
            ),
            (8, 2, 7, 7),
        ),
        "linear": (nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), (16, 5)),
        "tokens": (nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 2)), (8, 3, 5)),
        "flattened": (nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4)), (16, 2, 4, 4)),
        "called twice": (Twice(), (8, 3, 6, 6)),
    }
    return models[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "1-d",
        "padded",
        "3-d",
        "transposed",
        "no constant",
        "batch norms",
        "linear",
        "tokens",
        "flattened",
        "called twice",
    ],
)
def test_filters_that_repeat_others_leave_without_loss(kind: str) -> None:
    model, shape = consumer_of(kind)
    calibration = batches(*shape)
    graph = graph_of(model.double().eval())
    first = next(module for module in model.modules() if hasattr(module, "weight"))
    repeat(first, model[1] if kind == "batch norms" else None, 1, (2, 4))
    name = graph.couplings[0].name
    removed = {name: (2, 4)}
    small = without(model, graph, removed)
    found = fold.refit(small, model, graph, removed, calibration, ridge=1e-14)
    (row,) = found.values()
    assert row.reason is None
    assert row.after < 1e-9 < row.before
    (fresh,), _ = batches(*shape, count=1, seed=9)[0]
    torch.testing.assert_close(small(fresh), model(fresh), atol=1e-6, rtol=1e-6)


def test_grouped_convolutions_are_refitted_group_by_group() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2)).double()
    calibration = batches(8, 4, 7, 7)
    graph, removed = graph_of(model), {"0": (2,)}
    with torch.no_grad():  # filter 2 of both groups repeats filter 0
        for filter in (2, 6):
            model[0].weight[filter], model[0].bias[filter] = (
                2 * model[0].weight[filter - 2],
                2 * model[0].bias[filter - 2],
            )
    small = without(model, graph, removed)
    found = fold.refit(small, model, graph, removed, calibration, ridge=1e-14)
    assert found["2"].after < 1e-9 < found["2"].before
    torch.testing.assert_close(small(*calibration[0][0]), model(*calibration[0][0]), atol=1e-6, rtol=1e-6)


def test_the_refit_is_the_least_squares_solution() -> None:
    model, shape = consumer_of("linear")
    calibration = batches(*shape, count=8)
    graph = graph_of(model.double().eval())
    removed = {"0": (0, 3), "2": (1,)}
    small = without(model, graph, removed)
    fold.refit(small, model, graph, removed, calibration, ridge=1e-14)
    x = torch.cat([args[0] for args, _ in calibration])
    inputs = torch.relu(small[0](x)).detach()
    target = model[:3](x)[:, [0, 2, 3]].detach()
    design = np.hstack([inputs.numpy(), np.ones((len(inputs), 1))])
    solution = np.linalg.lstsq(design, target.numpy(), rcond=None)[0]
    np.testing.assert_allclose(small[2].weight.detach().numpy(), solution[:-1].T, atol=1e-8)
    np.testing.assert_allclose(small[2].bias.detach().numpy(), solution[-1], atol=1e-8)


def test_the_later_consumer_sees_the_earlier_one_refitted() -> None:
    model, shape = consumer_of("linear")
    calibration = batches(*shape, count=8)
    graph = graph_of(model.double().eval())
    removed = {"0": (0, 3), "2": (1,)}
    small = without(model, graph, removed)
    found = fold.refit(small, model, graph, removed, calibration, ridge=1e-14)
    assert list(found) == ["2", "4"]
    x = torch.cat([args[0] for args, _ in calibration])
    off = small[4](torch.relu(small[2](torch.relu(small[0](x))))) - model(x)
    design = torch.relu(small[2](torch.relu(small[0](x))))
    residual = off.T @ torch.cat([design, torch.ones(len(x), 1)], 1)  # what least squares leaves is orthogonal
    assert float(residual.detach().abs().max()) < 1e-8


def test_the_mean_of_the_norm_takes_the_constant() -> None:
    model, shape = consumer_of("batch norms")
    calibration = batches(*shape)
    graph = graph_of(model.double().eval())
    small = without(model, graph, {"0": (0, 1, 5)})
    fold.refit(small, model, graph, {"0": (0, 1, 5)}, calibration)
    x = torch.cat([args[0] for args, _ in calibration])
    found, wanted = small[:5](x).mean((0, 2, 3)), model[:5](x).mean((0, 2, 3))
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)


def test_a_refit_that_fails_on_held_out_inputs_is_not_taken() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    calibration = batches(16, 2)
    for index, ((x,), _) in enumerate(calibration):  # what leaves is what stays, but in the last batch nothing
        x[:, 1] = x[:, 0] if index < 3 else 0
    graph = graph_of(model)
    small = without(model, graph, {"0": (1,)})
    before = copy.deepcopy(small.state_dict())
    row = fold.refit(small, model, graph, {"0": (1,)}, calibration)["1"]
    assert row.before == row.after == pytest.approx(0.0, abs=1e-12)
    assert "held-out" in row.reason
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())


def test_neither_network_is_left_in_another_state() -> None:
    model, shape = consumer_of("batch norms")
    calibration = batches(*shape)
    graph = graph_of(model.double().eval())
    small = without(model, graph, {"0": (1,)}).train()
    model.train()
    model[4].eval()
    before, shapes = copy.deepcopy(model.state_dict()), {name: p.shape for name, p in small.named_parameters()}
    fold.refit(small, model, graph, {"0": (1,)}, calibration)
    assert [module.training for module in model] == [True, True, True, True, False, True]
    assert all(module.training for module in small.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {name: parameter.shape for name, parameter in small.named_parameters()} == shapes
    for module in (*model.modules(), *small.modules()):
        assert not module._forward_hooks
    for parameter in (*model.parameters(), *small.parameters()):
        assert parameter.requires_grad
        assert parameter.grad is None


def test_a_fold_that_fails_leaves_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = consumer_of("1-d")
    graph, removed, before = graph_of(model), {"0": (0,)}, threading.active_count()
    small = without(model, graph, removed)
    monkeypatch.setattr(fold.unfolding, "columns", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as held:  # whose traceback holds what was there
        fold.refit(small, model, graph, removed, batches(*shape, dtype=torch.float32))
    assert threading.active_count() == before
    del held


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_solved_in_double_and_written_back(dtype: torch.dtype) -> None:
    model, shape = consumer_of("batch norms")
    calibration = batches(*shape, dtype=dtype)
    graph = graph_of(model.to(dtype).eval())
    small = without(model, graph, {"0": (0, 1)})
    row = fold.refit(small, model, graph, {"0": (0, 1)}, calibration)["3"]
    assert row.after < row.before
    assert {tensor.dtype for tensor in small.parameters()} == {dtype}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in small.state_dict().values())


def test_dead_filters_and_constant_inputs() -> None:
    model, shape = consumer_of("padded")
    calibration = batches(*shape)
    graph = graph_of(model.double().eval())
    with torch.no_grad():  # all that stays is constant, some of it 0
        model[0].weight[:4] = 0
        model[0].bias[:4] = torch.tensor([0.0, -1.0, 2.0, 0.0])
    small = without(model, graph, {"0": (4, 5)})
    row = fold.refit(small, model, graph, {"0": (4, 5)}, calibration, ridge=0.0)["2"]
    assert row.after <= row.before
    x = torch.cat([args[0] for args, _ in calibration])
    torch.testing.assert_close(small[:3](x).mean((0, 2, 3)), model[:3](x).mean((0, 2, 3)), atol=1e-8, rtol=1e-8)


class Standardised(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight - self.weight.mean(1, keepdim=True), self.bias)


def test_what_is_no_product_with_its_weight_is_left() -> None:
    model = nn.Sequential(nn.Linear(5, 6), Standardised(6, 4), nn.Linear(4, 2)).double()
    calibration = batches(16, 5)
    graph = graph_of(model)
    small = without(model, graph, {"0": (1,)})
    row = fold.refit(small, model, graph, {"0": (1,)}, calibration)["1"]
    assert row == (None, None, "its output is not its weight times its input")


def test_layers_that_can_not_be_observed_are_left() -> None:
    model, shape = consumer_of("linear")
    calibration = batches(*shape)
    graph = graph_of(model.double().eval())
    without_module = replace(graph, layers=tuple(replace(layer, is_module=False) for layer in graph.layers))
    small = without(model, graph, {"0": (1,)})
    row = fold.refit(small, model, without_module, {"0": (1,)}, calibration)["2"]
    assert row.before is row.after is None
    assert "functional" in row.reason
    assert fold.refit(small, model, graph, {}, calibration) == {}


def test_more_columns_than_are_summed_are_solved_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = consumer_of("padded")
    calibration = batches(*shape)
    graph = graph_of(model.double().eval())
    repeat(model[0], None, 1, (2, 4))
    monkeypatch.setattr(fold_cost, "WIDEST", 23)
    small = without(model, graph, {"0": (2, 4)})
    row = fold.refit(small, model, graph, {"0": (2, 4)}, calibration, ridge=1e-14)["2"]
    assert row.after < 1e-9 < row.before
    torch.testing.assert_close(small(*calibration[0][0]), model(*calibration[0][0]), atol=1e-6, rtol=1e-6)


def test_however_many_layers_are_seen_in_one_pass_the_refits_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = consumer_of("linear")
    calibration = batches(*shape)
    graph, removed = graph_of(model.double().eval()), {"0": (0, 3), "2": (1,)}
    runs: list[int] = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    found = []
    for at_once, passes in ((fold_cost.AT_ONCE, 1), (1, 2)):
        runs.clear()
        monkeypatch.setattr(fold_cost, "AT_ONCE", at_once)
        small = without(model, graph, removed)
        small._forward_pre_hooks.clear()
        found.append((fold.refit(small, model, graph, removed, calibration), small.state_dict()))
        assert len(runs) == passes * len(calibration)
    assert found[0][0] == found[1][0]
    assert all(torch.equal(tensor, found[1][1][name]) for name, tensor in found[0][1].items())


@pytest.mark.parametrize("kind", ["batch norms", "linear", "called twice"])
def test_whether_passes_wait_or_begin_anew_the_refits_are_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = consumer_of(kind)
    calibration = batches(*shape)
    graph = graph_of(model.eval().double())
    removed = {coupling.name: (0, 3) for coupling in graph.couplings if coupling.width > 4}
    removed |= {coupling.name: (1,) for coupling in graph.couplings if coupling.width <= 4}
    found = []
    for at_once in (forward_passes.AT_ONCE, 0):
        monkeypatch.setattr(forward_passes, "AT_ONCE", at_once)
        small = without(model, graph, removed)
        found.append((fold.refit(small, model, graph, removed, calibration), small.state_dict()))
    assert any(row.after < row.before for row in found[0][0].values())
    assert found[0][0] == found[1][0]
    assert all(torch.equal(tensor, found[1][1][name]) for name, tensor in found[0][1].items())
