"""`train_runs` and `compare_runs` of networks of other kinds, from their configurations to their scores."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from gaze_digits import gaze_digits
from plain_network import PlainNetwork
from rich.console import Console
from safetensors.torch import load_file

from ckrm_kernels.comparison.trained_runs import compare_runs
from ckrm_kernels.data import DataConfig
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.storage.settings import read_config
from ckrm_kernels.training import Runtime, TrainingConfig
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.runs import RunsConfig, TrainedRuns, train_runs

QUIET = Console(quiet=True)
CPU = Runtime(device="cpu")
PLAIN = RunsConfig(network=PlainNetwork(), training=TrainingConfig(epochs=2), seeds=(0, 1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A plain network trained by two worker processes, a narrower one from a configuration file, and a residual one."""
    folder = tmp_path_factory.mktemp("networks")
    file = folder / "narrow.toml"
    file.write_text(
        'seeds = [0, 1]\n[network]\nkind = "plain_network:PlainNetwork"\nbody = 4\n[training]\nepochs = 2\n'
    )
    narrow = read_config(RunsConfig(), file, ["network.tail=3"])
    residual = replace(PLAIN, network=ResNetShape(stem=3, inner=((4,),), out=(5,)))
    train_runs(folder / "plain", PLAIN, runtime=CPU, processes=2, console=QUIET)
    train_runs(folder / "narrow", narrow, runtime=CPU, processes=1, console=QUIET)
    train_runs(folder / "residual", residual, runtime=CPU, processes=1, console=QUIET)
    return folder


def test_the_network_is_trained_for_the_data_by_its_own_loss(folders):
    runs = TrainedRuns.of(folders / "plain", Display(QUIET))
    assert runs.config.network == PlainNetwork(in_channels=1, classes=10)
    for job in runs.jobs():
        history = job.result().history
        # the Brier score starts at 0.9, the cross entropy at ln 10 = 2.3
        assert all(epoch.loss < 1 for epoch in history)
        assert all(epoch.validation_loss > 1 for epoch in history)


def test_worker_processes_train_the_same(folders, tmp_path):
    train_runs(tmp_path, replace(PLAIN, seeds=(1,)), runtime=replace(CPU, threads=1), processes=1, console=QUIET)
    here, there = (load_file(folder / "seed-1" / "weights.safetensors") for folder in (tmp_path, folders / "plain"))
    for name, value in here.items():  # one process may use all threads, which decide the last bits
        torch.testing.assert_close(value, there[name], rtol=1e-3, atol=1e-4)


def test_the_configuration_saved_is_that_of_the_file(folders):
    saved = json.loads((folders / "narrow" / "config.json").read_text())
    assert saved["network"] == {
        "kind": "plain_network:PlainNetwork",
        "head": 6,
        "body": 4,
        "tail": 3,
        "in_channels": 1,
        "classes": 10,
    }


def test_finished_runs_stay_and_those_of_another_network_are_refused(folders):
    before = (folders / "plain" / "seed-0" / "weights.safetensors").stat().st_mtime_ns
    train_runs(folders / "plain", PLAIN, runtime=CPU, processes=1, console=QUIET)
    assert (folders / "plain" / "seed-0" / "weights.safetensors").stat().st_mtime_ns == before
    other = replace(PLAIN, network=ResNetShape(stem=6))
    message = r"another configuration \(network.kind is plain_network:PlainNetwork, not resnet; network.stem is absent,"
    with pytest.raises(ValueError, match=message):
        train_runs(folders / "plain", other, runtime=CPU, processes=1, console=QUIET)


def test_networks_of_several_kinds_compared(folders):
    shown = StringIO()
    (plain, narrow, residual), comparisons, _ = compare_runs(
        [folders / name for name in ("plain", "narrow", "residual")], 0.02, console=Console(file=shown, width=200)
    )
    assert plain.widths == {"head": 6, "body": 8, "tail": 8}
    assert narrow.widths == {"head": 6, "body": 4, "tail": 3}
    assert plain.parameters == (9 * 6 + 6) + (6 * 9 * 8 + 8) + 2 * (8 * 9 * 8 + 8) + (8 * 10 + 10)
    # 4x4 positions each, and the linear layer
    assert narrow.multiply_adds == 16 * 9 * (1 * 6 + 6 * 4 + 4 * 4 + 4 * 3) + 3 * 10
    assert [layer.name for layer in plain.layers] == ["in", "one", "two", "out"]
    assert list(residual.widths) == ["conv1", "layer1.0.conv1", "layer1"]
    assert all(each.paired for each in comparisons)  # trained from seeds 0 and 1 each
    costs = shown.getvalue().partition("lambda^0.6 of the plain network")[0]
    assert "Cost and quality on held-out data (mean ± deviation)" in costs
    assert "body" not in costs
    assert "without widths, for not all of the networks share names of them" in costs


def ckrm(*arguments, path=()):
    root = str(Path(__file__).parents[2])
    script = "import sys; from ckrm_kernels.cli import main; sys.argv = ['ckrm', *sys.argv[1:]]; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *path])}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.exhaustive
def test_commands_find_the_class_where_python_does(folders):
    tests = str(Path(__file__).parents[1])
    done = ckrm("compare", folders / "plain", folders / "narrow", path=[tests])
    assert done.returncode == 0, done.stderr
    missing = ckrm("compare", folders / "plain", folders / "narrow")
    assert missing.returncode == 1
    assert missing.stderr == (
        f"ckrm: {folders / 'plain' / 'config.json'}: network: kind 'plain_network:PlainNetwork' can't be imported: "
        "No module named 'plain_network'; install it, or put its folder on PYTHONPATH (the current one: PYTHONPATH=.)\n"
    )


def test_what_the_network_refuses_is_refused_before_anything_is_written(tmp_path):
    config = replace(PLAIN, training=TrainingConfig(precision="bfloat16"))
    with pytest.raises(ValueError, match=r"training\.precision must be float32 for a plain network, got bfloat16"):
        train_runs(tmp_path, config, runtime=CPU, console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


# ---- GG-CAM ----------------------------------------------------------------------------------------------------------

CAM = RunsConfig(
    network=ResNetShape(stem=6, inner=((8,),), out=(8,), head="gg-cam"),
    training=TrainingConfig(epochs=2, optimizer="adamw", learning_rate=0.01),
)


@pytest.fixture
def with_gaze(monkeypatch):
    monkeypatch.setattr(DataConfig, "load", lambda self, track=None: gaze_digits())


def test_gg_cam_is_trained_by_its_own_loss_and_localises(with_gaze, tmp_path):
    file = StringIO()
    scores = train_runs(tmp_path, CAM, runtime=CPU, processes=1, console=Console(file=file, width=200))
    assert set(scores) == {0}
    assert "activation maps highest in the right region 0." in file.getvalue()
    weights = load_file(tmp_path / "seed-0" / "weights.safetensors")
    assert weights["gaze_loss.ln_sd"].item() != -23  # which nothing but its own loss trains
    runs = TrainedRuns.of(tmp_path, Display(QUIET))
    assert runs.config == replace(CAM, network=replace(CAM.network, in_channels=1, classes=10))
    assert runs.jobs()[0].result().history[0].loss > 1e12  # by weights of 5e19 at first


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            TrainingConfig(balance_classes=True),
            r"training\.balance_classes must be false for network\.head gg-cam, which has its own loss",
        ),
        (
            TrainingConfig(label_smoothing=0.1),
            r"training\.label_smoothing must be 0 for network\.head gg-cam, which has its own loss, got 0\.1",
        ),
        (
            TrainingConfig(precision="float16"),
            r"training\.precision must be float32 or bfloat16 for network\.head gg-cam, .*, got float16",
        ),
    ],
)
def test_what_gg_cam_refuses(with_gaze, tmp_path, training, message):
    with pytest.raises(ValueError, match=message):
        train_runs(tmp_path, replace(CAM, training=training), runtime=CPU, processes=1, console=QUIET)
