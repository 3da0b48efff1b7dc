"""The moments of a layer's inputs, by what must hold of its own outputs."""

from __future__ import annotations

import copy

import pytest
import torch
from hand_graphs import layer_of, pair, residual
from torch import nn

from ckrm_kernels.shrinking import moments as moments_module
from ckrm_kernels.shrinking.calibration import Calibration
from ckrm_kernels.shrinking.couplings import Graph
from ckrm_kernels.shrinking.moments import input_moments, memory, passes, weight_matrix

LAYERS = {
    "conv": (nn.Conv2d(2, 18, 3), (2, 6, 6)),
    "padded, strided": (nn.Conv2d(2, 18, 3, stride=2, padding=1), (2, 6, 6)),
    "dilated, uneven": (nn.Conv2d(2, 12, (3, 2), dilation=(2, 1), padding=(1, 0)), (2, 6, 5)),
    "same": (nn.Conv2d(2, 8, 2, padding="same"), (2, 5, 5)),
    "same, dilated": (nn.Conv2d(1, 8, (4, 2), padding="same", dilation=(1, 3), padding_mode="reflect"), (1, 6, 6)),
    "valid": (nn.Conv2d(1, 9, 3, padding="valid"), (1, 5, 5)),
    "circular": (nn.Conv2d(1, 9, 3, padding=1, padding_mode="circular"), (1, 5, 5)),
    "replicate": (nn.Conv2d(1, 9, 3, padding=(2, 1), padding_mode="replicate"), (1, 5, 5)),
    "grouped": (nn.Conv2d(4, 36, 3, groups=2, padding=1), (4, 5, 5)),
    "1-d": (nn.Conv1d(3, 9, 3, padding=1), (3, 8)),
    "3-d": (nn.Conv3d(1, 8, 2, stride=(1, 2, 1)), (1, 3, 4, 3)),
    "pointwise": (nn.Conv2d(5, 5, 1), (5, 4, 4)),
    "transposed": (nn.ConvTranspose2d(2, 18, 3), (2, 4, 4)),
    "transposed, strided": (nn.ConvTranspose2d(2, 18, 3, stride=2, padding=1, output_padding=1), (2, 3, 4)),
    "transposed, dilated": (nn.ConvTranspose2d(1, 9, 3, dilation=2, padding=1), (1, 4, 4)),
    "transposed, grouped": (nn.ConvTranspose1d(4, 12, 3, stride=2, groups=2), (4, 5)),
    "transposed, 3-d": (nn.ConvTranspose3d(1, 8, 2, stride=2), (1, 2, 3, 2)),
    "linear": (nn.Linear(6, 6), (6,)),
    "linear on tokens": (nn.Linear(4, 4), (3, 4)),
    "linear on windows": (nn.Linear(4, 4), (2, 3, 4)),
}
IMAGES = 6


def alone(module):
    """The module in a network of its own, in float64 with random weights, and its graph."""
    torch.manual_seed(0)
    model = nn.Sequential(copy.deepcopy(module)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model, Graph((layer_of(model, "0", 1),), (), {})


def outputs_by_group(module, outputs):
    """The outputs without the bias: (groups, rows, filters of a group)."""
    if not isinstance(module, nn.Linear):
        outputs = outputs.movedim(1, -1)
    rows = (outputs - module.bias).flatten(0, -2)
    return rows.unflatten(1, (getattr(module, "groups", 1), -1)).transpose(0, 1)


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("name", LAYERS)
def test_the_map_of_the_moments_gives_the_moments_of_the_outputs(name, monkeypatch):
    monkeypatch.setattr(moments_module, "_LEAST_ROWS_OF_AN_IMAGE", 1000)
    # with as many random filters as columns this determines the moments
    module, shape = LAYERS[name]
    model, graph = alone(module)
    images = torch.randn(IMAGES, *shape, dtype=torch.float64)
    found = input_moments(model, graph, Calibration(images, images[:2], batch=4), ["0"])["0"]
    matrix = weight_matrix(model, graph.layers[0])
    assert matrix.shape[1] >= matrix.shape[2] == found.mean.shape[1]
    rows = outputs_by_group(model[0], model(images).detach())
    assert found.rows == rows.shape[1]
    torch.testing.assert_close((matrix @ found.mean.unsqueeze(2)).squeeze(2), rows.mean(1))
    torch.testing.assert_close(matrix @ found.second @ matrix.mT, rows.mT @ rows / rows.shape[1])
    centred = rows - rows.mean(1, keepdim=True)
    torch.testing.assert_close(matrix @ found.covariance @ matrix.mT, centred.mT @ centred / rows.shape[1])


def test_rows_are_sampled_to_ten_a_column():
    model, graph = alone(nn.Conv2d(1, 4, 3))
    images = torch.randn(8, 1, 34, 34, dtype=torch.float64)
    found = input_moments(model, graph, Calibration(images, images[:1], batch=4), ["0"])["0"]
    assert found.rows == 8 * 32  # of 1,024 positions; ten a column are 12 of an image
    again = input_moments(model, graph, Calibration(images, images[:1], batch=4), ["0"])["0"]
    assert torch.equal(found.second, again.second)
    images = torch.randn(2, 1, 34, 34, dtype=torch.float64)
    assert input_moments(model, graph, Calibration(images, images[:1]), ["0"])["0"].rows == 90


def test_sampled_rows_are_drawn_from_the_whole_image():
    model, graph = alone(nn.Conv2d(1, 4, 1))
    images = torch.arange(64.0 * 64, dtype=torch.float64).view(1, 1, 64, 64).expand(200, 1, 64, 64) / 4096
    found = input_moments(model, graph, Calibration(images, images[:1]), ["0"])["0"]
    assert found.rows == 200 * 32
    assert found.mean.item() == pytest.approx(0.5, abs=0.02)
    assert found.covariance.item() == pytest.approx(1 / 12, abs=0.005)


def test_a_module_that_is_called_twice_has_the_rows_of_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, vectors):
            return self.layer(self.layer(vectors))

    model = Twice().double()
    vectors = torch.randn(5, 3, dtype=torch.float64)
    graph = Graph((layer_of(model, "layer", 2, calls=2),), (), {})
    found = input_moments(model, graph, Calibration(vectors, vectors[:1]), ["layer"])["layer"]
    both = torch.cat([vectors, model.layer(vectors)]).detach()
    torch.testing.assert_close(found.second[0], both.T @ both / 10)


def test_of_too_many_columns_those_of_a_channel_are_aggregated(monkeypatch):
    monkeypatch.setattr(moments_module, "WIDEST", 17)
    model, graph = alone(nn.Conv2d(2, 3, 3))
    images = torch.randn(4, 2, 5, 5, dtype=torch.float64)
    found = input_moments(model, graph, Calibration(images, images[:1]), ["0"])["0"]
    unfolded = nn.functional.unfold(images, 3).view(4, 2, 9, 9)  # image, channel, kernel, position
    expected = torch.einsum("ickp,idkp->cd", unfolded, unfolded) / (4 * 9 * 9)
    torch.testing.assert_close(found.second[0], expected)
    assert found.rows == 4 * 9 * 9
    aligned = found.aligned(weight_matrix(model, graph.layers[0]))
    torch.testing.assert_close(aligned[0], model[0].weight.detach().transpose(1, 2).transpose(2, 3).reshape(27, 2))


def test_of_a_flattened_filter_too_many_features_are_aggregated(monkeypatch):
    monkeypatch.setattr(moments_module, "WIDEST", 11)
    reads = [tuple(range(4 * r, 4 * r + 4)) for r in range(3)]
    model, graph = pair(nn.Conv2d(1, 3, 2), nn.Linear(12, 2), nn.Flatten(), reads=reads)
    images = torch.randn(5, 1, 3, 3)
    found = input_moments(model, graph, Calibration(images, images[:1]), ["second"])["second"]
    inputs = model.first(images).flatten(2).double().detach()  # image, filter, position
    torch.testing.assert_close(found.second[0], torch.einsum("ifp,igp->fg", inputs, inputs) / 20)


def test_memory_is_what_the_moments_take():
    model, graph = alone(nn.Conv2d(4, 36, 3, groups=2))
    images = torch.randn(4, 4, 5, 5, dtype=torch.float64)
    found = input_moments(model, graph, Calibration(images, images[:1]), ["0"])["0"]
    assert memory(graph, model, ["0"]) == found.mean.nbytes + found.second.nbytes


def test_passes_hold_what_fits():
    model, graph = residual(width=6, inner=4)  # the stream's consumers take 2 x 54 x 55 numbers, the branch's 4 x 5
    stream, branch = graph.couplings
    both = 8 * (2 * 54 * 55 + 4 * 5)
    assert memory(graph, model, ["narrow", "head", "widen"]) == both
    assert passes(graph, model, [stream, branch], both) == [[stream, branch]]
    assert passes(graph, model, [stream, branch], both - 1) == [[stream], [branch]]
    assert passes(graph, model, [branch, branch, stream], 1) == [[branch], [branch], [stream]]
    assert passes(graph, model, [], 1) == []


def test_the_model_is_left_as_it_is():
    torch.manual_seed(0)
    model, graph = pair(nn.Conv2d(1, 3, 2), nn.Conv2d(3, 2, 2), nn.BatchNorm2d(3), nn.Dropout(0.5))
    model.train()
    model.between1.eval()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    input_moments(model, graph, Calibration(torch.randn(4, 1, 5, 5), torch.randn(1, 1, 5, 5)), ["first", "second"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model.between0.training
    assert not model.between1.training
    assert not any(module._forward_hooks for module in model.modules())
    assert not torch.equal(random, torch.get_rng_state())  # the two randn above
    state = torch.get_rng_state()
    input_moments(model, graph, Calibration(torch.ones(4, 1, 5, 5), torch.ones(1, 1, 5, 5)), ["second"])
    assert torch.equal(state, torch.get_rng_state())


def test_inputs_that_overflow_name_the_layer():
    model, graph = pair(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model.first.weight.fill_(3e38)
    vectors = torch.full((3, 2), 10.0)
    with pytest.raises(ValueError, match="layer 'second' have NaN or Inf"):
        input_moments(model, graph, Calibration(vectors, vectors[:1]), ["second"])
