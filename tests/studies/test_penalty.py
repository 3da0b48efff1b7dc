"""docs/studies/penalty.py: the loss that it trains on, its file, and its table."""

from __future__ import annotations

import runpy
from dataclasses import astuple, fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from ckrm_kernels import RedundancyLoss
from ckrm_kernels.data import Batch
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.presentation.tables import csv_text

STUDY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "docs" / "studies" / "penalty.py")))


@pytest.mark.parametrize("way", STUDY.WAYS, ids=lambda way: way.name)
def test_the_loss_is_cross_entropy_and_in_training_the_penalty(way):
    torch.manual_seed(0)
    network = ResNetShape(stem=4, inner=((4,),) * 3, out=(4,) * 3).build().eval()
    batch = Batch(torch.randn(8, 1, 8, 8), torch.arange(8), None)
    loss = way.loss_of(network, batch.images[:2])
    entropy = functional.cross_entropy(network(batch.images), batch.labels)
    assert torch.equal(loss(network, batch, None), entropy)
    network.training = True  # the normalisations within stay as they were
    inputs = {"example_inputs": batch.images[:2]} if way.name == "together" else {}
    penalty = RedundancyLoss(network, **way.options, **inputs)() if way.weight else torch.zeros(())
    assert loss(network, batch, None).item() == pytest.approx((entropy + way.weight * penalty).item(), abs=1e-6)


def rows():
    return [
        STUDY.Row(data, way.name, seed, 0.5, 0.25, 0.125, 0.75 + seed / 4, 0.5, 0.75, 0.625, 0.5)
        for data in STUDY.DATA
        for way in STUDY.WAYS
        for seed in (0, 1)
    ]


def test_the_table_has_the_means_of_each_way():
    lines = STUDY.as_table(rows()).splitlines()
    assert lines[2] == "| nothing | 0.500 | 0.250 | 0.125 | 0.875 | 0.500 | 0.750 | 0.625 | 0.500 |"
    assert len([line for line in lines if line.startswith("| together |")]) == len(STUDY.DATA)


def test_what_the_file_holds_is_not_trained_again(tmp_path, monkeypatch):
    file = tmp_path / "penalty.csv"
    main = STUDY.main.__globals__
    monkeypatch.setitem(main, "FILE", file)
    assert STUDY.kept() == []
    file.write_text(csv_text([each.name for each in fields(STUDY.Row)], [astuple(row) for row in rows()]))
    assert STUDY.kept() == rows()
    monkeypatch.setitem(main, "SEEDS", (0, 1))
    monkeypatch.setitem(main, "DATA", {name: (lambda: None, 1) for name in STUDY.DATA})
    STUDY.main()  # trains nothing
    assert file.with_suffix(".png").is_file()
    assert STUDY.kept() == rows()
