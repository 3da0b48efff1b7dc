"""Shrinking that is cut off after any of its parts and goes on: to the bits of one that was not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hand_graphs import residual
from torch import nn

from ckrm_kernels.shrinking import finished_parts, fold, shrink_run
from ckrm_kernels.shrinking.calibration import Calibration
from ckrm_kernels.shrinking.curves import measured_curves
from ckrm_kernels.shrinking.finished_parts import FinishedParts
from ckrm_kernels.shrinking.shrink_run import ShrinkRun, shrink_into
from ckrm_kernels.shrinking.surgery import without

REMOVED = {"stem": (1, 3), "narrow": (0,)}


class Cut(BaseException):
    """Stands for the kill: the process ends between two instructions."""


class CutParts(FinishedParts):
    """Ends the process when it has written so many parts, or is about to write the next."""

    def __init__(self, folder: Path, left: int, written: bool) -> None:
        super().__init__(folder, {"work": 1})
        self.left, self.written = left, written

    def keep(self, *part) -> None:
        self.left -= 1
        if self.left < 0 and not self.written:
            raise Cut
        super().keep(*part)
        if self.left < 0:
            raise Cut


@pytest.fixture
def network():
    model, graph = residual()
    images = torch.randn(12, 2, 6, 6, dtype=torch.float64)
    return model, graph, Calibration(images, images[:2], batch=3)


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("left", [0, 1])
def test_curves_that_are_finished_are_found(network, tmp_path, left, written):
    model, graph, calibration = network
    orders = {"stem": None, "narrow": [2, 0, 1]}
    whole = measured_curves(model, graph, orders, calibration, False)
    with pytest.raises(Cut):
        measured_curves(model, graph, orders, calibration, False, CutParts(tmp_path, left, written))
    again = FinishedParts(tmp_path, {"work": 1})
    assert [again.find("curve", name) is not None for name in orders] == [left + written > 0, left + written > 1]
    found = measured_curves(model, graph, orders, calibration, False, again)
    assert found == whole
    assert list(found) == list(orders)


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_fold_that_is_cut_at_any_layer_ends_with_the_same_bits(network, tmp_path, left, written):
    model, graph, calibration = network
    whole = without(model, graph, REMOVED)
    rows = fold.refit(whole, model, graph, REMOVED, calibration)
    assert len(rows) == 3
    with pytest.raises(Cut):
        fold.refit(
            without(model, graph, REMOVED), model, graph, REMOVED, calibration, keep=CutParts(tmp_path, left, written)
        )
    small = without(model, graph, REMOVED)
    found = fold.refit(small, model, graph, REMOVED, calibration, keep=FinishedParts(tmp_path, {"work": 1}))
    assert found == rows
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in small.state_dict().items())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.second, self.head = nn.Conv2d(6, 5, 3), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3)))


def run_in(folder: Path, **options) -> ShrinkRun:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = Net().eval(), torch.randn(12, 1, 8, 8)
    return ShrinkRun(folder, model, "Net", images[:2], images, {"images": 12, "parameters": 0.3, **options})


def test_a_run_that_is_cut_goes_on_from_what_is_finished(tmp_path, monkeypatch):
    shrink_into(run_in(tmp_path / "whole"), Net)
    kept: list[str] = []
    keep = FinishedParts.keep

    def cut(self, kind, name, *values):
        keep(self, kind, name, *values)
        kept.append(f"{kind} {name}")
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(finished_parts.FinishedParts, "keep", cut)
        for _ in range(4):
            with pytest.raises(Cut):
                shrink_into(run_in(tmp_path / "cut"), Net)
    assert kept == ["curve first", "curve second", "layer second", "layer head"]
    assert (tmp_path / "cut/unfinished").is_dir()
    assert shrink_into(run_in(tmp_path / "cut"), Net) is not None
    files = [{path.name for path in (tmp_path / name).iterdir()} for name in ("whole", "cut")]
    assert files[0] == files[1]
    for name in ("model.safetensors", "plan.json", "settings.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    layers = [json.loads((tmp_path / name / "report.json").read_text())["layers"] for name in ("whole", "cut")]
    assert layers[0] == layers[1]
    assert shrink_into(run_in(tmp_path / "cut"), Net) is None


def test_what_is_finished_of_other_settings_is_not_used(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(shrink_run, "keep_plan", lambda *_: (_ for _ in ()).throw(Cut))
        with pytest.raises(Cut):
            shrink_into(run_in(tmp_path / "run"), Net)
    (tmp_path / "run/settings.json").unlink()
    other = run_in(tmp_path / "run", seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(FinishedParts, "keep", lambda *_: (_ for _ in ()).throw(Cut))  # so it measures anew
        with pytest.raises(Cut):
            shrink_into(other, Net)


def test_what_can_not_be_planned_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="parameters allow"):
        shrink_into(run_in(tmp_path / "run", parameters=0.01), Net)
    assert not (tmp_path / "run").exists()


def test_parts_are_found_bit_for_bit_and_a_damaged_one_is_named(tmp_path):
    parts = FinishedParts(tmp_path, {"work": 1})
    tensors = {"a": torch.randn(3, 2).bfloat16(), "b": torch.tensor([float("inf"), -0.0], dtype=torch.float64)}
    parts.keep("layer", "a/b.c", [0.1, None, "why"], tensors)
    value, found = parts.find("layer", "a/b.c")
    assert value == [0.1, None, "why"]
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert parts.find("curve", "a/b.c") is parts.find("layer", "a") is None
    assert FinishedParts(tmp_path, {"work": 2}).find("layer", "a/b.c") is None
    (file,) = tmp_path.glob("*/*")
    file.write_bytes(b"half")
    with pytest.raises(ValueError, match=file.name):
        parts.find("layer", "a/b.c")
    parts.remove()
    assert not tmp_path.exists()
