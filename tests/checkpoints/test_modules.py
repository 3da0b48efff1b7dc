"""Whole modules, pickled or as TorchScript: measured as `measure` does, groups and transposition included."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, weight_norm

from ckrm_kernels import measure
from ckrm_kernels.checkpoints import CheckpointError, read_checkpoints
from ckrm_kernels.layers import model_layers
from ckrm_kernels.measurement import measure_layers
from ckrm_kernels.similarity import Similarity


class Standardised(nn.Conv2d):
    """Changes its weight in forward, as timm's StdConv2d."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, groups=2, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.standardised = Standardised(4, 4, 1)
        self.branches = nn.ModuleList([nn.Conv1d(4, 4, 3, padding="same"), nn.Conv1d(4, 4, 3, groups=2)])
        self.head = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        self.register_buffer("table", torch.ones(4, 4))
        self.embedding = nn.Embedding(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.standardised(self.norm(self.up(self.depthwise(self.stem(x))))).flatten(2)
        for branch in self.branches:
            x = branch(x)
        return self.head(x.mean(2) + self.embedding.weight[0])


def net() -> nn.Module:
    return Net().eval()


INPUT = torch.randn(1, 4, 9, 9)
WRITERS = {
    "pickled": lambda model, path: torch.save(model, path),
    "pickled legacy": lambda model, path: torch.save(model, path, _use_new_zipfile_serialization=False),
    "in a checkpoint": lambda model, path: torch.save({"epoch": 3, "model": model, "optimizer": None}, path),
    "scripted": lambda model, path: torch.jit.script(model).save(path),
    "traced": lambda model, path: torch.jit.trace(model, INPUT).save(path),
    "frozen": lambda model, path: torch.jit.freeze(torch.jit.script(model)).save(path),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.serialization.SourceChangeWarning")
@pytest.mark.parametrize("kind", WRITERS)
def test_measured_as_the_module_itself(kind, tmp_path):
    model, path = net(), tmp_path / "model.pt"
    WRITERS[kind](model, path)
    (checkpoint,) = read_checkpoints([path])
    assert not any("state dict" in note for note in checkpoint.notes)
    found = {tuple(layer.name.split("."))[-2:]: layer for layer in checkpoint.layers if layer.banks}
    expected = {tuple(layer.name.split("."))[-2:]: layer for layer in model_layers(model) if layer.banks}
    if kind == "frozen":  # its weights have no names left, and the standardised one is computed
        assert all("CONSTANTS" in layer.name for layer in found.values())
        found = dict(zip(expected, found.values(), strict=True))
        del expected["standardised",], found["standardised",]
    assert found.keys() == expected.keys()
    for (
        key,
        layer,
    ) in expected.items():  # of a file nothing runs, so that a weight that forward changes is the stored one
        banks = [model.standardised.weight] if key == ("standardised",) else layer.banks
        assert len(found[key].banks) == len(banks)
        assert all(torch.equal(a, b) for a, b in zip(found[key].banks, banks, strict=True))
    if kind != "frozen":
        assert found["standardised",].kind == "Conv2d"
        assert "Standardised, by its stored weight" in found["standardised",].note
        rows = {layer.name: layer.note for layer in checkpoint.layers}
        assert rows["norm"] == "normalisation, no filters"
        assert rows["embedding"] == "embedding, no filters"
        assert rows["stem"] == "2 groups, compared within each"
        assert rows["depthwise"] == "depthwise, all filters compared"
        assert "table" not in rows


def test_a_resnext_layer_has_the_pairs_of_its_groups(tmp_path):
    conv = nn.Conv2d(128, 128, 3, groups=32, bias=False)
    torch.save(nn.Sequential(conv), tmp_path / "model.pt")
    layers = read_checkpoints([tmp_path / "model.pt"])[0].layers
    (row,) = measure_layers([layers], 0.6, "skip", Similarity()).layers
    (expected,) = measure(conv).layers
    assert row.pairs == expected.pairs == 192
    assert row.redundancy == expected.redundancy


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_hooks_compute_is_put_together(tmp_path):
    model = nn.Sequential(
        weight_norm(nn.ConvTranspose2d(6, 8, 3, groups=2)), prune.identity(nn.Conv2d(8, 8, 3), "weight")
    )
    prune.random_unstructured(model[1], "weight", 0.3)
    torch.save(model, tmp_path / "model.pt")
    found = read_checkpoints([tmp_path / "model.pt"])[0].layers
    for ours, theirs in zip(found, model_layers(model), strict=True):
        assert ours.name == theirs.name
        torch.testing.assert_close(torch.cat(ours.banks), torch.cat(theirs.banks).detach())
    assert found[0].note == "weight norm put together, 2 groups, compared within each"
    assert found[1].note == "pruning mask put together"


def test_models_in_a_checkpoint_are_chosen_as_state_dicts_are(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    average = copy.deepcopy(model)
    nn.init.ones_(average[0].weight)
    path = tmp_path / "model.pt"
    torch.save({"model": model, "ema": average, "optimizer": torch.optim.Adam(model.parameters())}, path)
    (layer,) = read_checkpoints([path])[0].layers
    assert torch.equal(layer.banks[0], model[0].weight)
    (layer,) = read_checkpoints([path], weights="ema")[0].layers
    assert torch.equal(layer.banks[0], average[0].weight)


def test_a_module_that_registers_its_parent(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    model[0].parent = model
    torch.save(model, tmp_path / "model.pt")
    assert [layer.name for layer in read_checkpoints([tmp_path / "model.pt"])[0].layers] == ["0"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_of_a_script_runs(tmp_path, monkeypatch):
    torch.jit.script(nn.Conv2d(1, 2, 3)).save(tmp_path / "model.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    monkeypatch.setattr(torch, "load", None)
    assert read_checkpoints([tmp_path / "model.pt"])[0].layers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", [torch.save, lambda model, path: torch.jit.save(torch.jit.script(model), str(path))])
def test_quantised_modules_are_rows_with_the_reason(write, tmp_path, monkeypatch):
    engines = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]
    if not engines:
        pytest.skip("no engine for quantised modules")
    monkeypatch.setattr(torch.backends.quantized, "engine", engines[0])
    quantised = torch.ao.nn.quantized
    model = nn.Sequential(quantised.Conv2d(3, 8, 3), nn.Sequential(quantised.Linear(4, 3)), nn.Conv2d(3, 8, 3))
    write(model, tmp_path / "model.pt")
    rows = {layer.name: layer for layer in read_checkpoints([tmp_path / "model.pt"])[0].layers}
    assert {name: layer.note for name, layer in rows.items()} == {
        "0": "quantised, dequantise it first",
        "1.0": "quantised, dequantise it first",
        "2": "",
    }
    assert (rows["0"].kind, rows["1.0"].kind) == ("Conv2d", "Linear")
    write(model[:2], tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="nothing in it can be measured: quantised, dequantise it first"):
        read_checkpoints([tmp_path / "model.pt"])
