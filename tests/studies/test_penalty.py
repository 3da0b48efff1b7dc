"""docs/studies/penalty.py: the loss that it trains on, and its table."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from ckrm_kernels import reference
from ckrm_kernels.data import Batch
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.similarity import Similarity

STUDY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "docs" / "studies" / "penalty.py")))


@pytest.mark.parametrize("penalty", STUDY.PENALTIES, ids=lambda penalty: penalty.name)
def test_the_loss_by_its_definition(penalty):
    torch.manual_seed(0)
    network = ResNetShape(stem=4, inner=((4,),) * 3, out=(4,) * 3).build().eval()
    weight = network.get_submodule(STUDY.LAYER).weight.detach().double() * 0.05
    network.get_submodule(STUDY.LAYER).weight.data.copy_(weight)
    batch = Batch(torch.randn(8, 1, 8, 8), torch.arange(8), None)
    entropy = functional.cross_entropy(network(batch.images), batch.labels)
    assert torch.equal(penalty.loss(network, batch, None), entropy)  # in evaluation: no penalty
    network.training = True  # the normalisations within stay as they were
    measured = weight / weight.square().mean().sqrt() if penalty.scale_free else weight
    omega = reference.pairwise_psi(measured, Similarity("psi", 0.1, 1.0, 1.0, 1e-4))
    expected = entropy + penalty.weight * (omega - 0.6).clamp(min=0).mean()
    assert penalty.loss(network, batch, None).item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_table_has_a_row_a_penalty():
    rows = [STUDY.Row(each.name, seed, 0.5, 0.25, 0.01, 0.9) for each in STUDY.PENALTIES for seed in (0, 1)]
    lines = STUDY.as_table(rows, {each.name: 1 + each.weight for each in STUDY.PENALTIES}).splitlines()
    assert len(lines) == 2 + len(STUDY.PENALTIES)
    assert lines[3] == "| 0.1, absolute | 0.500 | 0.2500 | 0.0100 | 0.900 | 1.10 |"
