"""MT-UNet through `ckrm train`, `compare`, `export`, `load` and shrinking, on digits with gaze."""

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from gaze_digits import gaze_digits
from rich.console import Console
from safetensors.torch import load_file

from ckrm_kernels import load_shrunk, plan_shrink, save_shrunk
from ckrm_kernels.comparison.trained_runs import compare_runs
from ckrm_kernels.data import DataConfig
from ckrm_kernels.models import NETWORKS, MTUNetShape
from ckrm_kernels.shrinking.trained_runs import example_inputs
from ckrm_kernels.storage.settings import read_config
from ckrm_kernels.training import Runtime, TrainingConfig, load
from ckrm_kernels.training.evaluation import saliency_score
from ckrm_kernels.training.onnx_export import as_onnx
from ckrm_kernels.training.runs import RunsConfig, train_runs

CPU, QUIET = Runtime(device="cpu"), Console(quiet=True)
SHAPE = MTUNetShape(encoder=((3, 3), (4, 4)), decoder=((3, 3, 3),), saliency=3)
CONFIG = RunsConfig(network=SHAPE, training=TrainingConfig(epochs=2, optimizer="adamw", learning_rate=0.02))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run on digits with gaze maps, and what was shown."""
    folder, file = tmp_path_factory.mktemp("runs") / "wide", StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataConfig, "load", lambda self, track=None: gaze_digits())
        train_runs(folder, CONFIG, runtime=CPU, processes=1, console=Console(file=file, width=200))
    return folder, file.getvalue()


def test_the_author_s_settings():
    config = read_config(RunsConfig(), Path(__file__).parents[2] / "docs/mt-unet.toml", ())
    assert config.network == NETWORKS["mt-unet"].network
    assert (config.data.image_size, config.data.gaze_step) == ((640, 512), 1)
    training = config.training
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("adamw", 1e-4, 0)
    assert (training.schedule, training.plateau_factor, training.plateau_patience) == ("plateau", 0.1, 40)
    assert (training.lowest_rate, training.keeps_best) == (1e-8, True)


def test_both_heads_are_trained_and_scored(trained):
    folder, shown = trained
    score = json.loads((folder / "scores.json").read_text())["0"]
    assert len(score["auc_of_class"]) == 10
    assert score["auc"] == pytest.approx(sum(score["auc_of_class"]) / 10, abs=1e-6)
    untrained = SHAPE.adapted_to(gaze_digits()).build()
    before = saliency_score(untrained, gaze_digits().held_out)
    assert score["saliency"]["divergence"] < 0.7 * before.divergence
    assert score["saliency"]["correlation"] > 0.5
    assert "predicted saliency against the gaze: KL 0." in shown
    assert load_file(folder / "seed-0" / "weights.safetensors")["mt_loss.ln_sc"].item() != 0


@pytest.mark.exhaustive
def test_compare_shows_saliency(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(DataConfig, "load", lambda self, track=None: gaze_digits())
    narrow = replace(CONFIG, network=SHAPE.with_widths({"decoder.0.up": 2}))
    train_runs(tmp_path / "narrow", narrow, runtime=CPU, processes=1, console=QUIET)
    file = StringIO()
    candidates = compare_runs([trained[0], tmp_path / "narrow"], 0.1, console=Console(file=file, width=100))[0]
    assert [len(each.saliency("correlation")) for each in candidates] == [1, 1]
    shown = [f"{each.saliency('correlation')[0]:.4f}" for each in candidates]
    assert re.search(rf"saliency CC\s+{shown[0]}\s+{shown[1]}", file.getvalue())
    # both heads: 8x8 and 4x4 positions, 9 weights for each pair of channels, the last convolution, the linear layers
    large = 9 * (1 * 3 + 3 * 3 + 4 * 3 + 6 * 3 + 3 * 3 + 3 * 3) + 3
    assert candidates[0].multiply_adds == 64 * large + 16 * 9 * (3 * 4 + 4 * 4) + 7 * 3 + 3 * 10


@pytest.mark.exhaustive
def test_onnx_has_both_outputs(trained):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    network = load(trained[0])
    session = runtime.InferenceSession(as_onnx(network), providers=["CPUExecutionProvider"])
    images = gaze_digits().held_out.images[:3].numpy()
    raw = (images * np.float32(network.transform.deviation) + np.float32(network.transform.mean)).astype(np.float32)
    found = dict(zip([each.name for each in session.get_outputs()], session.run(None, {"images": raw}), strict=True))
    with torch.no_grad():
        logits, saliency = network.model(torch.from_numpy(images), with_saliency=True)
    assert list(found) == ["logits", "saliency"]
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(found["saliency"], saliency, atol=1e-4)


# ---- shrinking -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shrunk(trained):
    """A trained network, its plan at half of the parameters, and the small one."""
    model, images = load(trained[0]).model, gaze_digits().train.images[:64]
    plan = plan_shrink(model, example_inputs(model, images[:2]), calibration=images, parameters=0.5, widths="uniform")
    return model, plan, plan.apply()


def test_every_layer_between_the_input_and_both_heads_may_shrink_and_is_proved(shrunk):
    _, plan, small = shrunk
    assert {each.name for each in plan.graph.couplings} == {*SHAPE.widths(), "hidden"}
    assert all(proof.holds and proof.exact and proof.deviation < 1e-9 for proof in plan.proof.values())
    assert plan.deviation < 1e-9
    assert {each.name for each in plan.graph.layers if each.name in plan.graph.fixed} == {"fc", "saliency_out"}
    assert small.saliency_conv.in_channels == small.decoder[0].conv2.out_channels < 3


def test_the_small_network_predicts_both_and_is_saved_and_exported(shrunk, tmp_path):
    model, plan, small = shrunk
    images = gaze_digits().held_out.images[:4]
    save_shrunk(tmp_path, plan, small)
    again = load_shrunk(lambda: model, tmp_path)
    program = torch.export.export(small, (images,), {"with_saliency": True}).module()
    with torch.no_grad():
        logits, saliency = small(images, with_saliency=True)
        torch.testing.assert_close(saliency.exp().sum((1, 2)), torch.ones(4))
        for other in (again, program):
            found = other(images, with_saliency=True)
            torch.testing.assert_close(found, (logits, saliency))


def test_a_network_shrunk_without_its_saliency_says_so(trained):
    model, images = load(trained[0]).model, gaze_digits().train.images[:64]
    plan = plan_shrink(model, images[:2], calibration=images, parameters=0.5, widths="uniform")
    assert plan.graph.fixed["saliency_conv"] == "it does not run in evaluation mode"
    small = plan.apply()
    assert small(images).shape == (64, 10)
    message = "the saliency head reads 3 channels of the last map, which has .*: shrink the network with its saliency"
    with pytest.raises(ValueError, match=message):
        small.saliency(images)
