"""A VGNet as any network: trained, loaded, compared, searched, shrunk, written as ONNX."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from ckrm_kernels import plan_shrink
from ckrm_kernels.comparison.trained_runs import compare_runs
from ckrm_kernels.data import DataConfig
from ckrm_kernels.models import VGNetShape
from ckrm_kernels.models.vgnet_blocks import FixedDepthwise
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.training import Runtime, TrainingConfig, load
from ckrm_kernels.training.onnx_export import as_onnx
from ckrm_kernels.training.runs import RunsConfig, train_runs
from ckrm_kernels.width_search import RuleConfig, WidthSearchConfig, search_widths

QUIET, RUNTIME = Console(quiet=True), Runtime(threads=1)
CONFIG = RunsConfig(
    network=VGNetShape(4, (8, 16), (2, 2), variant="f1", form="cifar", squeeze=True),
    data=DataConfig(fraction=0.05),
    training=TrainingConfig(epochs=1, batch_size=16),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of a VGNetF1 and of a VGNetC."""
    folder = tmp_path_factory.mktemp("runs")
    for variant in ("f1", "c"):
        config = replace(CONFIG, network=replace(CONFIG.network, variant=variant))
        train_runs(folder / variant, config, runtime=RUNTIME, processes=1, console=QUIET)
    return [folder / "f1", folder / "c"]


def test_it_is_loaded_with_its_kernels(runs):
    trained = load(runs[0])
    assert trained.network == replace(CONFIG.network, in_channels=1, classes=10)
    fresh = trained.network.build()
    fixed = {name for name, module in fresh.named_modules() if isinstance(module, FixedDepthwise)}
    assert fixed == {"stage1.1.spatial.0", "stage2.0.spatial", "stage2.1.spatial.0"}
    for name in fixed:
        assert torch.equal(trained.model.get_submodule(name).weight, fresh.get_submodule(name).weight)


def test_variants_are_compared(runs):
    (first, second), _, _ = compare_runs(runs, 0.01, console=QUIET, similarity=Similarity(scale_free=True))
    assert first.widths == second.widths == {"stem": 4, "stage1": 4, "stage2": 8}
    blurs = {layer.name: layer for layer in first.layers}["stage2.0.spatial"]
    assert (blurs.configured.mean, blurs.distinct) == (1.0, (1,))


@pytest.mark.exhaustive
def test_a_search_changes_the_widths_of_what_is_learnt(tmp_path):
    config = WidthSearchConfig(
        network=replace(CONFIG.network, variant="g", squeeze=False),
        data=CONFIG.data,
        training=CONFIG.training,
        similarity=Similarity(eps=1.0),  # at which any filters are alike
        seeds=1,
        final_seeds=1,
        most_rounds=2,
        margin=1.0,
    )
    search_widths(tmp_path, config, runtime=RUNTIME, processes=1, console=QUIET)
    found = json.loads((tmp_path / "report.json").read_text())
    standard, searched = found["networks"][:2]
    assert standard["widths"] == {"stem": 4, "stage1": 4, "stage2": 8}
    assert searched["widths"] == {"stem": 4, "stage1": 4, "stage2": 4}
    assert {layer["name"]: layer["filters"] for layer in searched["layers"]} == {
        "stem.conv": 4,
        "stage1.0.spatial": 4,
        "stage1.1.spatial": 4,
        "stage2.0.spatial": 8,
        "stage2.1.spatial": 4,
        "spatial.depthwise": 1,
    }


def test_a_search_of_fixed_kernels_says_which_widths_it_can_not_choose():
    message = r"those of stage1, stage2 are of 1x1 convolutions or linear layers alone, .* \(`--rule error`\)"
    with pytest.raises(ValueError, match=message):
        WidthSearchConfig(network=CONFIG.network)


@pytest.mark.exhaustive
def test_a_search_by_error_chooses_the_widths_of_fixed_kernels(tmp_path):
    network = VGNetShape(8, (16, 32), (2, 2), variant="f2", form="cifar", squeeze=True)
    rule = RuleConfig(by="error", parameters=0.6)
    config = WidthSearchConfig(network, CONFIG.data, CONFIG.training, rule, seeds=1, final_seeds=1)
    search_widths(tmp_path, config, runtime=RUNTIME, processes=1, console=QUIET)
    found = json.loads((tmp_path / "report.json").read_text())
    whole, searched, *others = found["networks"]
    assert whole["widths"] == {"stem": 8, "stage1": 8, "stage2": 16}
    assert all(4 <= searched["widths"][name] <= width for name, width in whole["widths"].items())
    assert searched["parameters"] < whole["parameters"]
    assert [each["name"] for each in others] == ["uniform", "uniform-macs", "shrunk", "tuned"]
    with (tmp_path / "tables" / "widths.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"].startswith("stage")]
    assert rows
    assert {row["within_target"] for row in rows} == {""}  # neither: a 1x1 convolution is not measured
    assert "of 1 widths redundant" in (tmp_path / "log.txt").read_text()


@pytest.mark.exhaustive
def test_it_is_shrunk_and_written_as_onnx(runs):
    onnxruntime = pytest.importorskip("onnxruntime")
    trained = load(runs[0])
    images = torch.rand(8, 1, 8, 8)
    small = plan_shrink(trained.model, images[:2], calibration=images, parameters=0.8).apply()
    assert small(images).shape == (8, 10)
    session = onnxruntime.InferenceSession(as_onnx(trained))
    logits = session.run(None, {"images": images.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(logits), trained.model(trained.transform(images)), rtol=1e-4, atol=1e-4)
