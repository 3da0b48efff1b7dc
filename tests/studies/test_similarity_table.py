"""docs/studies/similarity_table.py: the paper's Table 1."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ckrm_kernels.similarity import Similarity

pytest.importorskip("matplotlib")
STUDY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "docs" / "studies" / "similarity_table.py")))


def test_the_similarity_table_by_the_definition():
    reference_values = STUDY.reference_patch()
    assert reference_values.shape == (7, 7)
    assert 0 <= reference_values.min() < 0.1 < 0.9 < reference_values.max() <= 1
    above, below = STUDY.patches()
    assert torch.equal(above[0].values, reference_values)
    assert [patch.noise for patch in above] == pytest.approx([0, 0.05, 0.15, 0.25, 0.35, 0.45])
    for plain, shifted in zip(above, below, strict=True):
        assert torch.allclose(shifted.values, plain.values + 0.5)
        assert shifted.psi < shifted.psi_damped
        for patch in (plain, shifted):
            x, y = reference_values.flatten(), patch.values.flatten()
            assert patch.psi == pytest.approx(Similarity("psi", 1.0, 1.0, 1.0, 1e-4).of_slices(x, y).item(), abs=1e-12)
            assert patch.psi_damped == pytest.approx(
                Similarity("psi", 0.1, 1.0, 1.0, 1e-4).of_slices(x, y).item(), abs=1e-12
            )
    assert above[0].psi == pytest.approx(1)
    deviations = [(patch.values - reference_values).std().item() for patch in above[1:]]
    assert deviations == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.45], rel=0.35)


def test_both_psi_stand_below_each_patch():
    rows = STUDY.patches()
    axes = STUDY.drawn(rows).axes
    for panel, patch in zip(axes, [patch for row in rows for patch in row], strict=True):
        assert panel.get_xlabel() == f"{patch.psi:.3f}\n{patch.psi_damped:.3f}"
        assert torch.equal(torch.as_tensor(panel.images[0].get_array().data), patch.values)
    assert [panel.get_title() for panel in axes[:6]] == [f"noise {patch.noise:.2f}" for patch in rows[0]]
    assert [axes[0].get_ylabel(), axes[6].get_ylabel()] == ["patch", "shifted by 0.5"]
