"""`ckrm shrink`: from a model's constructor, or a run's folder, to a smaller model in files that load again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import write_bars
from PIL import Image
from rich.console import Console
from torch import nn

from ckrm_kernels import load_shrunk
from ckrm_kernels.data import DataConfig
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.training import Runtime, TrainingConfig, load
from ckrm_kernels.training.runs import RunsConfig, train_runs

MODULE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(x.mean((2, 3)))
def trained():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Net()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a module, a checkpoint of its model, images and a tensor of them."""
    (tmp_path / "tiny_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny_nets", raising=False)
    monkeypatch.chdir(tmp_path)
    import tiny_nets

    torch.save({"model": tiny_nets.trained().state_dict(), "epoch": 3}, "model.pt")
    images = np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3), np.uint8)
    Path("images").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(f"images/{index:02}.png")
    np.save("images.npy", images.transpose(0, 3, 1, 2) / np.float32(255))
    yield tmp_path
    sys.modules.pop("tiny_nets")


NET = ("shrink", "tiny_nets:Net", "--weights", "model.pt")
HALF = ("--calibration", "images.npy", "--parameters", "0.5", "--output", "out", "--device", "cpu")


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def printed_lines(out: str) -> str:
    return "\n".join(line.strip() for line in out.split("in Python:\n")[1].splitlines())


def test_from_a_constructor_to_files_that_the_printed_lines_load(place, ckrm):
    import tiny_nets

    code, out, _ = ckrm(*NET, *HALF)
    assert code == 0
    names: dict = {}
    exec(printed_lines(out), names)
    model = names["model"]
    assert count(model) <= count(tiny_nets.Net()) // 2
    assert not model.training
    report = json.loads((place / "out/report.json").read_text())
    assert report["after"]["parameters"] == count(model)
    assert report["verdict"] in out
    assert report["verdict"] in (place / "out/report.html").read_text()
    assert out.startswith((place / "out/report.txt").read_text()[:50])
    kept = json.loads((place / "out/plan.json").read_text())["layers"]
    assert len(kept["first"]) == model.first.out_channels
    x = torch.randn(2, 3, 10, 10)
    assert (model(x) - tiny_nets.trained().eval()(x)).abs().mean() < tiny_nets.trained().eval()(x).abs().mean()


def test_the_same_command_finds_it_done_and_another_is_refused(place, ckrm):
    assert ckrm(*NET, *HALF)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir() if path.name != ".lock"}
    code, out, _ = ckrm(*NET, *HALF)
    assert code == 0
    assert out.startswith("out holds this already")
    assert "load_shrunk(Net, 'out')" in out
    code, _, err = ckrm(*NET, *HALF, "--round-to", "2")
    assert code == 1
    assert "round_to is 1, not 2" in err
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_tensor_in_double_precision_is_taken_in_the_models(place, ckrm):
    assert ckrm(*NET, *HALF)[0] == 0
    np.save("double.npy", np.load("images.npy").astype(np.float64))
    assert ckrm(*NET, *HALF, "--calibration", "double.npy", "--output", "of_double")[0] == 0
    assert Path("out/model.safetensors").read_bytes() == Path("of_double/model.safetensors").read_bytes()


def test_a_lazy_model_is_named(place, ckrm):
    Path("lazy_nets.py").write_text(
        "from torch import nn\ndef made():\n    return nn.Sequential(nn.LazyConv2d(4, 3))\n"
    )
    code, _, err = ckrm("shrink", "lazy_nets:made", *HALF)
    assert code == 1
    assert "0 is a lazy layer without parameters yet" in err


def test_images_in_a_folder_are_those_of_the_tensor(place, ckrm):
    """The file's pixels are those of the images, scaled to [0, 1] as these are."""
    assert ckrm(*NET, *HALF)[0] == 0
    options = (
        *HALF[2:4],
        "--calibration",
        "images",
        "--input-shape",
        "3x10x10",
        "--output",
        "other",
        "--device",
        "cpu",
    )
    assert ckrm(*NET, *options)[0] == 0
    settings = [json.loads(Path(folder, "settings.json").read_text()) for folder in ("out", "other")]
    assert settings[0] == settings[1]
    assert Path("out/model.safetensors").read_bytes() == Path("other/model.safetensors").read_bytes()


@pytest.mark.exhaustive
def test_standardisation_decides_the_result(place, ckrm):
    options = ("--mean", "0.5,0.4,0.3", "--deviation", "0.2")
    assert ckrm(*NET, *HALF, *options)[0] == 0
    seen = json.loads(Path("out/settings.json").read_text())["calibration"]
    assert ckrm(*NET, *HALF[:-3], "other", "--device", "cpu")[0] == 0
    assert json.loads(Path("other/settings.json").read_text())["calibration"] != seen


def test_without_calibration_it_merges_and_says_what_that_costs(place, ckrm):
    code, out, _ = ckrm(*NET, "--input-shape", "3x10x10", "--macs", "0.5", "--output", "out")
    assert code == 0
    assert "without calibration" in out


@pytest.mark.exhaustive
def test_a_constructor_that_loads_its_weights_needs_no_file(place, ckrm):
    code, out, _ = ckrm("shrink", "tiny_nets:trained", *HALF)
    assert code == 0
    assert "model = load_shrunk(trained, 'out')" in out


def test_an_interrupted_one_goes_on_from_its_plan(place, ckrm, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    assert ckrm(*NET, *HALF[:-3], "whole", "--device", "cpu")[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr("ckrm_kernels.shrinking.plan.refit", interrupt)
        code, _, err = ckrm(*NET, *HALF)
    assert code == 130
    assert "interrupted; run the same command again" in err
    assert not Path("out/plan.json").exists()
    with monkeypatch.context() as patched:
        patched.setattr("ckrm_kernels.shrinking.shrink_run.plan_shrink", interrupt)  # which is not called again
        assert ckrm(*NET, *HALF)[0] == 0
    for name in ("model.safetensors", "plan.json"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()
    reports = [json.loads(Path(folder, "report.json").read_text()) for folder in ("out", "whole")]
    assert reports[0]["layers"] == reports[1]["layers"]
    assert {path.name for path in Path("out").iterdir()} == {path.name for path in Path("whole").iterdir()}


def test_what_it_did_not_write_is_not_replaced(place, ckrm):
    Path("out").mkdir()
    Path("out/plan.json").write_text("mine")
    code, _, err = ckrm(*NET, *HALF)
    assert code == 1
    assert "out holds plan.json, which this did not write: choose another folder" in err
    assert Path("out/plan.json").read_text() == "mine"


WRONG = {
    "no such thing": (
        ("shrink", "nowhere"),
        "must be module:constructor, such as my_models:Net, or the folder of a run",
    ),
    "no module": (("shrink", "no_such_nets:Net"), "can't be imported"),
    "no weights": (("shrink", "tiny_nets:Net", *HALF), "--weights.*makes a model with other weights each time"),
    "no shape": ((*NET, "--parameters", "0.5"), "--input-shape.*is needed without --calibration"),
    "shape": ((*NET, "--input-shape", "3x0x8"), "must be the sizes of one input, such as 3x224x224, got 3x0x8"),
    "other shape": ((*NET, *HALF, "--input-shape", "3x8x8"), r"--calibration.*inputs of shape \(3, 10, 10\), not"),
    "mean": ((*NET, *HALF, "--mean", "a"), "must be numbers such as 0.485,0.456,0.406, got a"),
    "means": ((*NET, *HALF, "--mean", "1,2"), "mean and deviation must have one number, or one for each channel"),
    "mean alone": ((*NET, "--input-shape", "3x8x8", "--mean", "1"), "--mean.*is of no use without --calibration"),
    "share": ((*NET, *HALF[:2], "--parameters", "-1"), r"--parameters.*must be a share in \(0, 1\]"),
    "two budgets": ((*NET, *HALF, "--macs", "0.5"), "--parameters / --macs.*one of parameters, macs, latency"),
    "threshold": ((*NET, *HALF, "--threshold", "2"), "--threshold"),
    "minimum": ((*NET, *HALF, "--minimum", "1.5"), "must be a whole number, or a share below 1, got 1.5"),
    "choose": ((*NET, *HALF, "--choose", "luck"), "--choose"),
    "device": ((*NET, *HALF[:-1], "toaster"), "--device"),
    "which": ((*NET, *HALF, "--which", "standard"), "--which.*is for a NETWORK that is the folder of a run"),
    "weights of a run": (("shrink", ".", "--weights", "x"), "--weights.*is for a NETWORK that is module:constructor"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_use_is_named_before_anything_is_done(place, ckrm, case):
    import re

    arguments, message = WRONG[case]
    code, out, err = ckrm(*arguments)
    assert (code, out) == (2, "")
    plain = re.sub(r"[│╭╮╰╯─\s]+", " ", err)
    assert re.search(message.replace(" ", r"\s*"), plain), plain
    assert not Path("out").exists()


FAILURES = {
    "no weights file": (("shrink", "tiny_nets:Net", "--weights", "no.pt", *HALF), "no.pt: no such file"),
    "no run": (("shrink", "images", "--output", "out"), "images holds no trained network"),
    "no layer": ((*NET, *HALF, "--ignore", "nothing*"), "ignore holds 'nothing.'"),
    "out of reach": ((*NET, *HALF[:2], "--parameters", "3", "--output", "out"), "parameters.*can"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_line_and_writes_no_model(place, ckrm, case):
    import re

    arguments, message = FAILURES[case]
    code, out, err = ckrm(*arguments)
    assert (code, out) == (1, "")
    assert re.search(message, err.splitlines()[-1])
    assert not Path("out").exists()  # so that another command may use it


def test_a_checkpoint_without_a_norms_statistics_is_refused(place, ckrm):
    import tiny_nets

    state = tiny_nets.trained().state_dict()
    torch.save({name: value for name, value in state.items() if "running_var" not in name}, "model.pt")
    code, _, err = ckrm(*NET, *HALF)
    assert code == 1
    assert "model.pt: lacks norm.running_var, which the model computes with" in err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_bars(folder / "data")
    config = RunsConfig(
        network=ResNetShape(stem=4, inner=((6,),), out=(6,)),
        data=DataConfig("mnist", folder=str(folder / "data")),
        training=TrainingConfig(epochs=1, batch_size=32),
    )
    train_runs(folder / "runs", config, runtime=Runtime(device="cpu"), processes=1, console=Console(quiet=True))
    return folder / "runs"


def test_a_run_is_calibrated_with_its_own_training_part(run, ckrm, tmp_path, monkeypatch):
    from ckrm_kernels.shrinking import shrink_run

    seen = []
    plan_shrink = shrink_run.plan_shrink
    monkeypatch.setattr(shrink_run, "plan_shrink", lambda *a, **o: seen.append(o) or plan_shrink(*a, **o))
    code, out, _ = ckrm("shrink", run, "--parameters", "0.8", "--images", "20", "--output", tmp_path / "out")
    assert code == 0
    original, _ = load(run)
    names: dict = {}
    exec(printed_lines(out), names)
    assert count(names["model"]) <= 0.8 * count(original)
    part = DataConfig("mnist", folder=str(run.parent / "data")).load().train
    training = {image.numpy().tobytes() for image in part.batch(torch.arange(len(part))).images}
    images = seen[0]["calibration"]
    assert len(images) == 20
    assert all(image.numpy().tobytes() in training for image in images)
    validation = DataConfig("mnist", folder=str(run.parent / "data")).load().validation
    x, labels, *_ = validation.batch(torch.arange(len(validation)))
    scores = [(model(x).argmax(1) == labels).double().mean() for model in (original, names["model"])]
    assert f"validation part: {scores[0]:.4f}, of the small model {scores[1]:.4f}" in out
    again = load_shrunk(original, tmp_path / "out").state_dict()
    assert all(torch.equal(again[name], value) for name, value in names["model"].state_dict().items())


def test_a_run_whose_data_has_changed_is_refused(run, ckrm, tmp_path):
    config = run / "config.json"
    before = config.read_text()
    write_bars(tmp_path / "data", train=190)
    value = json.loads(before)
    value["data"]["folder"] = str(tmp_path / "data")
    try:
        config.write_text(json.dumps(value))
        code, _, err = ckrm("shrink", run, "--parameters", "0.8", "--output", tmp_path / "out")
    finally:
        config.write_text(before)
    assert code == 1
    assert "is not what it trained on" in err


@pytest.mark.exhaustive
@pytest.mark.parametrize("seconds", [1.5, 2.5, 3.0, 3.5, 4.0, 5.0])
def test_killed_at_any_moment_the_same_command_ends_as_an_unbroken_one(place, ckrm, seconds):
    assert ckrm(*NET, *HALF[:-3], "whole", "--device", "cpu")[0] == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *sys.path])}
    command = [sys.executable, "-c", "from ckrm_kernels.cli import main; main()", *NET, *HALF]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ckrm(*NET, *HALF)[0] == 0
    for name in ("model.safetensors", "plan.json"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()
