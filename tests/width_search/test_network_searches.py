"""Searches for the widths of networks of other kinds than residual ones, and of GG-CAM."""

import json
from dataclasses import replace

import pytest
from exhaustive import also
from gaze_digits import gaze_digits
from plain_network import PlainNetwork
from rich.console import Console
from small_training import interrupted_after

from ckrm_kernels.data import DataConfig
from ckrm_kernels.models import MTUNetShape, ResNetShape, predicts_saliency
from ckrm_kernels.storage.settings import read_config
from ckrm_kernels.training import Runtime, TrainingConfig, load
from ckrm_kernels.width_search import RuleConfig, WidthSearchConfig, search_widths
from ckrm_kernels.width_search.pipeline import report
from ckrm_kernels.width_search.state import config_of

# so much weight decay that a few steps make a layer redundant
PLAIN = WidthSearchConfig(
    network=PlainNetwork(head=6, body=24, tail=24),
    training=TrainingConfig(epochs=2, learning_rate=0.2, weight_decay=0.3),
    seeds=2,
    final_seeds=2,
    most_rounds=2,
    margin=0.5,
)


def search(folder, config=PLAIN, processes=1):
    runtime = Runtime(device="cpu", checkpoint_seconds=0.1)
    return search_widths(folder, config, runtime=runtime, processes=processes, console=Console(quiet=True))


def result(folder):
    """Everything that was found, but for the time that it took."""
    found = json.loads((folder / "report.json").read_text())
    del found["seconds"]
    weights = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("weights.safetensors")}
    return found, weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    search(folder)
    return folder


def test_the_widths_that_layers_share_change_together(finished):
    found, _ = result(finished)
    assert [each["name"] for each in found["networks"]] == ["standard", "searched", "uniform"]
    standard, searched, uniform = found["networks"]
    assert standard["widths"] == PLAIN.network.widths()
    assert searched["widths"]["body"] < 24
    for each in (searched, uniform):
        widths = each["widths"]
        filters = {layer["name"]: layer["filters"] for layer in each["layers"]}
        assert filters == {"in": widths["head"], "one": widths["body"], "two": widths["body"], "out": widths["tail"]}
    assert (finished / "report.html").exists()
    assert config_of(finished).network == replace(PLAIN.network, in_channels=1, classes=10)


@pytest.mark.exhaustive
def test_two_processes_find_the_same(finished, tmp_path):
    search(tmp_path, processes=2)
    assert result(tmp_path) == result(finished)


@pytest.mark.parametrize("epochs", [1, *also(6)])
def test_an_interrupted_search_goes_on_from_its_folder_alone(finished, tmp_path, monkeypatch, epochs):
    with interrupted_after(epochs, monkeypatch):
        search(tmp_path)
    search(tmp_path, config_of(tmp_path))
    assert result(tmp_path) == result(finished)


def test_widths_of_a_stage_of_the_network_change_together(tmp_path):
    settings = ["network=plain_network:PlainNetwork", "network.body=24", "network.tail=24", "rule.tied=stage"]
    config = read_config(WidthSearchConfig(), None, settings)
    assert config.rule == RuleConfig(tied="stage")
    search(tmp_path, replace(PLAIN, network=config.network, rule=config.rule))
    found, _ = result(tmp_path)
    searched = found["networks"][1]["widths"]
    assert searched["body"] == searched["tail"] < 24
    changes = found["search"]["rounds"][0]["changes"]
    assert {each["name"] for each in changes} == {"head", "body", "tail"}


def test_a_search_of_gg_cam(monkeypatch, tmp_path):
    monkeypatch.setattr(DataConfig, "load", lambda self, track=None: gaze_digits())
    config = WidthSearchConfig(
        network=ResNetShape(stem=6, inner=((8,),), out=(8,), head="gg-cam"),
        training=TrainingConfig(epochs=1, optimizer="adamw", learning_rate=0.01),
        seeds=1,
        final_seeds=1,
        most_rounds=2,
        target=0.0,
        margin=0.5,
    )
    standard = search(tmp_path, config).candidates[0]
    assert [layer.name for layer in standard.layers] == [
        "features.conv1",
        "features.layer1.0.conv1",
        "features.layer1.0.conv2",
    ]
    assert list(standard.widths) == ["conv1", "layer1.0.conv1", "layer1"]


@pytest.mark.parametrize("by", ["redundancy", pytest.param("error", marks=pytest.mark.exhaustive)])
def test_a_search_of_mt_unet_shows_where_its_networks_look(monkeypatch, tmp_path, by):
    monkeypatch.setattr(DataConfig, "load", lambda self, track=None: gaze_digits())
    config = WidthSearchConfig(
        network=MTUNetShape(encoder=((3, 3), (6, 6)), decoder=((3, 3, 3),), saliency=3),
        training=TrainingConfig(epochs=1, optimizer="adamw", learning_rate=0.01),
        rule=RuleConfig(by=by, minimum=1),
        seeds=1,
        final_seeds=1,
        most_rounds=2,
        target=0.0,
        margin=0.5,
    )
    standard, *narrower = search(tmp_path, config).candidates
    assert [layer.name for layer in standard.layers] == list(config.network.widths()) == list(standard.widths)
    names = ["searched", "uniform", "uniform-macs", "shrunk", "tuned"] if by == "error" else []
    assert [each.name for each in narrower] == names
    assert all(len(each.saliency("correlation")) == 1 for each in (standard, *narrower))
    monkeypatch.setattr(DataConfig, "load", None)
    findings = report(tmp_path, Console(quiet=True))
    assert list(findings.saliency.predicted) == [each.name for each in findings.candidates]
    assert "Where they look" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "figures/saliency.png").exists()
    if by == "error":
        assert sum(narrower[0].widths.values()) < sum(standard.widths.values())
        assert predicts_saliency(load(tmp_path, which="tuned").model)
