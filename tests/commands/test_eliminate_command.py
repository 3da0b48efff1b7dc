"""`ckrm eliminate`: what it asks of the function behind it, and wrong settings."""

from dataclasses import replace
from pathlib import Path

from ckrm_kernels.data import DataConfig
from ckrm_kernels.layer_elimination import EliminationConfig
from ckrm_kernels.models import ThreeConvolutions
from ckrm_kernels.training import Runtime


def test_eliminate_with_its_defaults_and_with_options(ckrm, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "ckrm_kernels.layer_elimination.eliminate_layers", lambda *given, **options: calls.append((given, options))
    )
    assert ckrm("eliminate") == (0, "", "")
    assert calls.pop() == (
        (Path("runs/eliminate"), EliminationConfig()),
        {"runtime": Runtime(), "processes": None},
    )
    code, _, err = ckrm(
        *("eliminate", "--data", "mnist", "--data-folder", tmp_path, "--seeds", "2", "--epochs", "3", "--output", "x"),
        *("--set", "maps=8", "--set", "network.width=12", "--device", "cpu", "--processes", "1", "--tensorboard"),
    )
    assert (code, err) == (0, "")
    config = EliminationConfig(
        network=ThreeConvolutions(width=12),
        data=DataConfig("mnist", str(tmp_path)),
        training=replace(EliminationConfig().training, epochs=3),
        maps=8,
        seeds=(0, 1),
    )
    assert calls.pop() == ((Path("x"), config), {"runtime": Runtime("cpu", tensorboard=True), "processes": 1})


def test_the_paper_s_training():
    training = EliminationConfig().training
    assert (training.optimizer, training.epochs) == ("rmsprop", 20)


def test_wrong_settings_are_named(ckrm, tmp_path):
    output = ("--output", tmp_path / "runs")
    assert ckrm("eliminate", "--set", "maps=99", *output) == (
        1,
        "",
        "ckrm: the configuration: maps must be at most the width of network, 16, got 99\n",
    )
    code, _, err = ckrm("eliminate", "--set", "images_per_maps=9", *output)
    assert code == 1
    assert err.startswith("ckrm: the configuration has no setting images_per_maps; is it images_per_map")
    code, _, err = ckrm("eliminate", "--set", "data.fraction=0.1", *output)
    assert code == 1
    assert err.startswith(
        "ckrm: the training part holds 126 images, and the selection needs at least 3 layers x 10 maps"
    )
    assert not (tmp_path / "runs").exists()
