"""Weights that are stored in parts are put together where a checkpoint says how, and listed where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from ckrm_kernels.checkpoints import CheckpointError, read_checkpoints
from ckrm_kernels.layers import Layer


def checkpoint_layers(path: Path) -> list[Layer]:
    (checkpoint,) = read_checkpoints([path])
    return list(checkpoint.layers)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("wrap", [weight_norm, parametrizations.weight_norm])
def test_weight_norm_is_put_together(wrap, dim, tmp_path):
    conv = wrap(nn.Conv2d(3, 4, 3), dim=dim)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.mul_(1.7)
    torch.save(nn.Sequential(conv).state_dict(), tmp_path / "weights.pt")
    (layer,) = checkpoint_layers(tmp_path / "weights.pt")
    assert (layer.name, layer.note) == ("0", "weight norm put together, groups not known")
    conv(torch.randn(1, 3, 3, 3))
    torch.testing.assert_close(layer.banks[0], conv.weight.detach())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrap", [spectral_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize(
    "make", [lambda: nn.Conv2d(3, 4, 3), lambda: nn.ConvTranspose1d(6, 6, 4), lambda: nn.Linear(5, 3)]
)
def test_spectral_norm_is_put_together(make, wrap, tmp_path):
    layer = wrap(make(), n_power_iterations=20)
    inputs = {nn.Conv2d: (1, 3, 3, 3), nn.ConvTranspose1d: (1, 6, 4), nn.Linear: (1, 5)}[
        parametrize.type_before_parametrizations(layer)
    ]
    layer(torch.randn(inputs))
    torch.save(nn.Sequential(layer.eval()).state_dict(), tmp_path / "weights.pt")
    (row,) = checkpoint_layers(tmp_path / "weights.pt")
    layer(torch.randn(inputs))
    groups = "" if len(row.banks[0].shape) == 2 else ", groups not known"
    assert (row.name, row.note) == ("0", f"spectral norm put together{groups}")
    torch.testing.assert_close(row.banks[0], layer.weight.detach())


def test_weight_norm_of_a_pruned_direction_is_put_together(tmp_path):
    conv = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    prune.random_unstructured(conv.parametrizations.weight, "original1", 0.5)
    torch.save(nn.Sequential(conv).state_dict(), tmp_path / "weights.pt")
    (row,) = checkpoint_layers(tmp_path / "weights.pt")
    assert row.note == "pruning mask put together, weight norm put together, groups not known"
    assert row.banks[0].count_nonzero() == 54
    assert torch.linalg.vector_norm(row.banks[0], dim=(1, 2, 3)).numpy() == pytest.approx(
        conv.parametrizations.weight.original0.detach().flatten().numpy()
    )


def test_a_pruned_weight_is_that_under_its_mask(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    prune.random_unstructured(net[0], "weight", 0.5)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    (layer,) = checkpoint_layers(tmp_path / "weights.pt")
    net(torch.randn(1, 3, 3, 3))
    assert layer.name == "0"
    assert layer.banks[0].count_nonzero() == 54
    assert torch.equal(layer.banks[0], net[0].weight)


class Sum(nn.Module):
    """Its two originals have equal shapes; those of weight norm have too where a filter is a single number."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight / 3, weight * 2 / 3


class Scale(nn.Module):
    """One factor for each position, which is no magnitude of a filter."""

    def forward(self, factor: Tensor, weight: Tensor) -> Tensor:
        return factor * weight

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(1, 1, *weight.shape[2:]), weight


class Learnt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(1))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.bias


def added(conv: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(conv, "weight", Sum())


def scaled(conv: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(conv, "weight", Scale())


def twice(conv: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(parametrizations.weight_norm(conv), "weight", Learnt())


@pytest.mark.parametrize("wrap", [parametrizations.orthogonal, added, scaled, twice])
@pytest.mark.parametrize("convolution", [nn.Conv1d, nn.Conv2d])
def test_what_another_parametrisation_computes_is_not_measured(convolution, wrap, tmp_path):
    path, net = tmp_path / "weights.pt", nn.Sequential(wrap(convolution(3, 4, 3)), convolution(4, 4, 3))
    torch.save(net.state_dict(), path)
    layers = checkpoint_layers(path)
    assert [layer.name for layer in layers if layer.banks] == ["1"]
    kind = convolution.__name__.lower()
    assert any("load it into its model" in layer.note and layer.kind == kind for layer in layers)
    torch.save(net[:1].state_dict(), path)
    with pytest.raises(CheckpointError, match="its weights are parametrised"):
        checkpoint_layers(path)
