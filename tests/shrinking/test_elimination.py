"""The errors of elimination, against least squares on the explicit inputs for each set of filters that may leave."""

from __future__ import annotations

import copy
from itertools import combinations

import numpy as np
import pytest
import torch
from hand_graphs import pair, residual
from sklearn.covariance import oas
from torch import nn

from ckrm_kernels.shrinking import moments as moments_module
from ckrm_kernels.shrinking.calibration import Calibration
from ckrm_kernels.shrinking.elimination import Curve, eliminate
from ckrm_kernels.shrinking.moments import input_moments, weight_matrix


class ChannelsLast(nn.Module):
    def forward(self, images):
        return images.movedim(1, -1).flatten(1)


NETWORKS = {  # the inputs' shape, the network, and what of the second layer's unfolded inputs each filter is
    "conv": ((1, 5, 5), pair(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 2), nn.BatchNorm2d(4), nn.ReLU())),
    "1-d": ((2, 7), pair(nn.Conv1d(2, 4, 2), nn.Conv1d(4, 3, 3, padding=1), nn.ReLU())),
    "pointwise": ((2, 4, 4), pair(nn.Conv2d(2, 5, 1), nn.Conv2d(5, 3, 1), nn.ReLU())),
    "linear": ((3,), pair(nn.Linear(3, 4), nn.Linear(4, 2), nn.ReLU())),
    "flattened": (
        (1, 3, 3),
        pair(
            *(nn.Conv2d(1, 3, 2), nn.Linear(12, 4), nn.ReLU(), nn.Flatten()),
            reads=[tuple(range(4 * r, 4 * r + 4)) for r in range(3)],
        ),
    ),
    "flattened, channels last": (
        (1, 3, 3),
        pair(
            *(nn.Conv2d(1, 3, 2), nn.Linear(12, 4), nn.ReLU(), ChannelsLast()),
            reads=[(r, r + 3, r + 6, r + 9) for r in range(3)],
        ),
    ),
    "grouped": (
        (1, 4, 4),
        pair(
            *(nn.Conv2d(1, 6, 2), nn.Conv2d(6, 4, 2, groups=2), nn.ReLU()),
            filters=[(r, r + 3) for r in range(3)],
            reads=3,
        ),
    ),
    "transposed": ((1, 4, 4), pair(nn.Conv2d(1, 4, 2), nn.ConvTranspose2d(4, 3, 3, stride=2), nn.ReLU())),
    "transposed, grouped": (
        (1, 4, 4),
        pair(
            *(nn.Conv2d(1, 6, 2), nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), nn.ReLU()),
            filters=[(r, r + 3) for r in range(3)],
            reads=[(r, r + 3) for r in range(3)],
        ),
    ),
}


def explicit_inputs(layer, given):
    """The layer's unfolded inputs (groups, rows, columns): its outputs with one entry of each group's weight alone."""
    probe = copy.deepcopy(layer).requires_grad_(False)
    if probe.bias is not None:
        probe.bias.zero_()
    groups = getattr(probe, "groups", 1)
    by_group = probe.weight.view(groups, -1, *probe.weight.shape[1:])
    one_filter = by_group[:, :, 0] if isinstance(layer, nn.ConvTranspose2d) else by_group[:, 0]
    columns = []
    for column in range(one_filter[0].numel()):
        probe.weight.zero_()
        one_filter[(slice(None), *np.unravel_index(column, one_filter.shape[1:]))] = 1
        outputs = probe(given)
        rows = outputs.flatten(0, -2) if isinstance(layer, nn.Linear) else outputs.movedim(1, -1).flatten(0, -2)
        columns.append(rows.unflatten(1, (groups, -1))[:, :, 0])
    return torch.stack(columns, 2).transpose(0, 1)


def shrinkage(centred):
    """Of one group by scikit-learn; of more, whose sums of eigenvalues are pooled, by its formula."""
    groups, count, columns = centred.shape
    if groups == 1:
        return oas(centred[0].numpy(), assume_centered=True)[1]
    values = np.stack([np.linalg.svd(group.numpy(), compute_uv=False) ** 2 / count for group in centred])
    squares, square = (values**2).sum(), (values.sum(1) ** 2).sum()
    return (squares + square) / ((count + 1) * (squares - square / columns))


def least_squares_error(rows, matrix, removed):
    """The least relative error that any weight without the removed columns leaves, of inputs with what is added."""
    groups, count, columns = rows.shape
    centred = rows - rows.mean(1, keepdim=True)
    rho = max(1e-3, min(1.0, shrinkage(centred)) * min(1.0, 2 * columns / count))
    level = (rho * centred.square().mean()).sqrt()
    error = energy = 0.0
    for group in range(groups):
        design = torch.cat([centred[group] * ((1 - rho) / count) ** 0.5, level * torch.eye(columns, dtype=rows.dtype)])
        target = design @ matrix[group].T
        kept = [column for column in range(columns) if column not in removed[group]]
        fitted = torch.linalg.lstsq(design[:, kept], target).solution if kept else torch.zeros(0, target.shape[1])
        error += (target - design[:, kept] @ fitted.to(target.dtype)).square().sum().item()
        energy += target.square().sum().item()
    return error / energy


@pytest.fixture(autouse=True)
def every_row(monkeypatch):
    monkeypatch.setattr(moments_module, "_LEAST_ROWS_OF_AN_IMAGE", 1000)


def columns_of(layer, entry, filters):
    """For each group the columns of the layer's unfolded inputs that these filters of the entry are."""
    groups, kernel = getattr(layer, "groups", 1), layer.weight.shape[2:].numel()
    if isinstance(layer, nn.ConvTranspose2d):
        channels = layer.in_channels // groups
        found = [
            {i % channels for r in filters for i in entry.positions[r] if i // channels == g} for g in range(groups)
        ]
    else:
        found = [{i for r in filters for i in entry.positions[r]}] * groups
    return [{i * kernel + k for i in channels for k in range(kernel)} for channels in found]


def expected_error(model, graph, coupling, images, filters):
    """The sum over the coupling's consumers of the least relative error without the filters."""
    given = {}
    hooks = [
        model.get_submodule(layer.name).register_forward_pre_hook(
            lambda m, args, name=layer.name: given.update({name: args[0]})
        )
        for layer in graph.consumers(coupling)
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    total = 0.0
    for layer in graph.consumers(coupling):
        module = model.get_submodule(layer.name)
        entry = next(entry for entry in coupling.with_role("consumes") if entry.tensor == layer.weight)
        rows = explicit_inputs(module, given[layer.name])
        total += least_squares_error(rows, weight_matrix(model, layer), columns_of(module, entry, filters))
    return total


def network(name):
    shape, (model, graph) = NETWORKS[name]
    torch.manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model, graph, torch.randn(6, *shape, dtype=torch.float64)


def moments_of(model, graph, images):
    return input_moments(model, graph, Calibration(images, images[:1]), [layer.name for layer in graph.layers])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_error_of_every_set_is_that_of_least_squares(name):
    model, graph, images = network(name)
    coupling = graph.couplings[0]
    moments = moments_of(model, graph, images)
    width = coupling.width
    for size in range(1, width + 1):
        for removed in combinations(range(width), size):
            order = [*removed, *(filter for filter in range(width) if filter not in removed)]
            error = eliminate(model, graph, coupling, moments, order).error[size - 1]
            assert error == pytest.approx(expected_error(model, graph, coupling, images, removed), rel=1e-8)


@pytest.mark.parametrize("which", [0, 1])
def test_of_several_consumers_the_errors_are_summed(which):
    model, graph = residual()
    images = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    coupling = graph.couplings[which]
    moments = moments_of(model, graph, images)
    curve = eliminate(model, graph, coupling, moments)
    for step, error in enumerate(curve.error):
        removed = curve.order[: step + 1]
        assert error == pytest.approx(expected_error(model, graph, coupling, images, removed), rel=1e-8)


def test_each_filter_that_leaves_adds_the_least():
    model, graph = residual()
    images = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    coupling = graph.couplings[0]
    curve = eliminate(model, graph, coupling, moments_of(model, graph, images))
    for step, filter in enumerate(curve.order):
        before = list(curve.order[:step])
        errors = {
            other: expected_error(model, graph, coupling, images, [*before, other])
            for other in range(coupling.width)
            if other not in before
        }
        assert filter == min(errors, key=errors.__getitem__)


def test_a_curve_holds_every_filter_and_its_errors_ascend():
    torch.manual_seed(0)
    model, graph = residual(width=12, inner=8)  # enough for the inverse to be made smaller on the way
    images = torch.randn(8, 2, 6, 6, dtype=torch.float64)
    moments = moments_of(model, graph, images)
    for coupling in graph.couplings:
        curve = eliminate(model, graph, coupling, moments)
        assert sorted(curve.order) == list(range(coupling.width))
        assert list(curve.error) == sorted(curve.error)
        assert curve.error[0] > 0
        half = coupling.width // 2
        expected = expected_error(model, graph, coupling, images, curve.order[:half])
        assert curve.error[half - 1] == pytest.approx(expected, rel=1e-8)
        along = eliminate(model, graph, coupling, moments, curve.order)
        assert along.order == curve.order
        assert along.error == pytest.approx(curve.error, rel=1e-10)


def test_a_copy_of_a_filter_is_free():
    torch.manual_seed(0)
    model, graph = pair(nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 3, 3), nn.ReLU())
    with torch.no_grad():
        model.first.weight[3] = 2 * model.first.weight[1]
    images = torch.randn(50, 1, 8, 8)
    curve = eliminate(model, graph, graph.couplings[0], moments_of(model, graph, images))
    assert curve.order[0] in (1, 3)
    assert curve.error[0] < 0.01 < curve.error[1]


def test_outputs_that_do_not_vary_add_nothing():
    model, graph = pair(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 2), nn.ReLU())
    with torch.no_grad():
        model.second.weight.zero_()
    images = torch.randn(4, 1, 6, 6)
    assert eliminate(model, graph, graph.couplings[0], moments_of(model, graph, images)) == Curve(
        (0, 1, 2, 3), (0.0,) * 4
    )
    assert eliminate(model, graph, graph.couplings[0], moments_of(model, graph, images.zero_())).error == (0.0,) * 4


def test_without_moments_there_is_no_curve():
    model, graph = residual()
    assert eliminate(model, graph, graph.couplings[0], {}) is None


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4]])
def test_an_order_holds_every_filter_once(order):
    model, graph = residual()
    with pytest.raises(ValueError, match="each of the 4 filters of 'stem' once"):
        eliminate(model, graph, graph.couplings[0], {}, order)


@pytest.mark.parametrize("inputs", [30, 60, 120])
def test_of_few_inputs_the_error_is_about_that_on_others(inputs):
    torch.manual_seed(0)
    model, graph = pair(nn.Linear(8, 40), nn.Linear(40, 10), nn.ReLU())
    vectors = torch.randn(4000, 8)
    few, others = (moments_of(model, graph, part)["second"] for part in (vectors[:inputs], vectors[inputs:]))
    curve = eliminate(model, graph, graph.couplings[0], {"second": few})
    weight, shrunk, true = model.second.weight.detach().double(), few.shrunk()[0], others.covariance[0]
    for removed in (10, 20, 30):
        kept = sorted(curve.order[removed:])
        change = -weight.clone()
        change[:, kept] += torch.linalg.solve(shrunk[kept][:, kept], (weight @ shrunk)[:, kept].T).T
        error = ((change @ true) * change).sum() / ((weight @ true) * weight).sum()
        assert 0.5 < curve.error[removed - 1] / error < 2
