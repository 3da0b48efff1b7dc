"""The ablation of VGNet: `ckrm ablate vgnet`."""

import json
import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from scipy import stats
from small_training import interrupted_after

from ckrm_kernels.comparison.ablation import ablate_vgnet, depthwise_layers, paired_difference
from ckrm_kernels.comparison.measured_layers import Level, MeasuredLayer
from ckrm_kernels.data import DataConfig
from ckrm_kernels.models import ResNetShape, VGNetShape
from ckrm_kernels.models.vgnet import VARIANTS
from ckrm_kernels.training import Runtime, TrainingConfig
from ckrm_kernels.training.runs import RunsConfig

TINY = VGNetShape(4, (8, 16), (2, 2), form="cifar")
CONFIG = RunsConfig(
    network=TINY, data=DataConfig(fraction=0.05), training=TrainingConfig(epochs=1, batch_size=32), seeds=(0, 3, 4)
)


def ablated(folder, config=CONFIG):
    console = Console(file=StringIO(), width=100)
    return ablate_vgnet(
        folder, config, runtime=Runtime(threads=1), processes=1, console=console
    ), console.file.getvalue()


def test_the_paired_interval_is_that_of_the_paired_t_test():
    first, second = [0.91, 0.87, 0.9, 0.93], [0.9, 0.85, 0.91, 0.9]
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    found = paired_difference(first, second)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(0.0125)
    assert paired_difference(first[:2], second[:2]).low is None


def test_depthwise_layers_are_told_by_place_and_by_whether_they_are_fixed():
    def layer(name, redundancy):
        level = Level((redundancy, redundancy + 0.2), 0.05)
        return MeasuredLayer(name, 4, 1, (3, 3), 6, (4, 4), {"configured": level}, ((6,), (6,)))

    names = ["stem.conv", "stage1.0.spatial", "stage1.1.spatial.0", "stage2.0.spatial", "stage2.1.spatial.0"]
    measured = [layer(name, place / 10) for place, name in enumerate([*names, "spatial.depthwise"])]
    found = list(depthwise_layers(replace(TINY, variant="f1").build(), measured))
    assert [(each.place, each.fixed, each.layers) for each in found] == [
        ("downsampling", False, 1),  # the first one, of small images
        ("downsampling", True, 1),
        ("mixing", True, 2),
        ("last", False, 1),
    ]
    assert [each.redundancy for each in found] == pytest.approx([0.2, 0.4, 0.4, 0.6])
    assert {each.chance for each in found} == {0.05}


def test_an_ablation_that_was_interrupted_goes_on_and_leaves_a_page(tmp_path, monkeypatch):
    with interrupted_after(5, monkeypatch):
        ablated(tmp_path)
    weights = tmp_path / "c" / "seed-3" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    ablation, text = ablated(tmp_path)
    assert weights.stat().st_mtime_ns == before
    assert [each.variant for each in ablation.variants] == list(VARIANTS)
    assert all(len(each.accuracies) == 3 for each in ablation.variants)

    saved = json.loads((tmp_path / "ablation.json").read_text())
    reference, *others = saved["variants"]
    assert reference["accuracy_difference"] is None
    for each, found in zip(others, ablation.variants[1:], strict=True):
        run = json.loads((tmp_path / each["variant"] / "scores.json").read_text())
        assert [run[seed]["accuracy"] for seed in ("0", "3", "4")] == each["accuracies"] == list(found.accuracies)
        differences = [a - b for a, b in zip(each["accuracies"], reference["accuracies"], strict=True)]
        assert each["accuracy_difference"]["mean"] == pytest.approx(sum(differences) / 3)
        assert each["kernels"] == VARIANTS[each["variant"]]._asdict()
    fixed = [place for place in others[0]["depthwise"] if place["fixed"]]
    assert [(place["place"], place["redundancy"]) for place in fixed] == [("downsampling", 1.0)]  # one blur for all

    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 1
    for words in (*(f"VGNet{name.upper()} less VGNetC" for name in list(VARIANTS)[1:]), "four edges", "fixed"):
        assert words in page
        assert words in re.sub(r"\s+", " ", text) or words == "fixed"


@pytest.mark.exhaustive
def test_seeds_too_few_for_an_interval(tmp_path):
    ablation, text = ablated(tmp_path, replace(CONFIG, seeds=(0,)))
    assert ablation.variants[1].accuracy_difference.low is None
    assert "of fewer than 3 seeds, which give no interval" in re.sub(r"\s+", " ", text)
    assert "<svg" not in (tmp_path / "report.html").read_text()


def test_a_network_of_another_kind_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"network must be a VGNet, such as vgnetg-small, got one of kind 'resnet'"):
        ablate_vgnet(tmp_path / "new", replace(CONFIG, network=ResNetShape()))
    assert not (tmp_path / "new").exists()
