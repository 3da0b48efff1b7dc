"""The monitor of a plain training loop."""

from __future__ import annotations

import copy
import importlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from training_examples import changed_lines, run

from ckrm_kernels import redundancy
from ckrm_kernels.integrations import RedundancyMonitor, scalars


def network() -> nn.Module:
    first, second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
    with torch.no_grad():
        first.weight[3] = first.weight[0]
        second.weight[4:] = second.weight[:2]
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(), second, nn.Flatten(), nn.Linear(6 * 16, 2))


def above(layer: nn.Conv2d) -> float:
    pairs = layer.out_channels * (layer.out_channels - 1) // 2
    return redundancy(layer).item() * pairs


class Recorder:
    """A log: the numbers of each step."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: list[dict[str, float]] = []

    def __call__(self, report, step):
        self.steps.append(step)
        self.values.append(scalars(report))


def test_what_is_logged_is_lambda_of_each_layer_and_of_all_pairs():
    model, log = network(), Recorder()
    RedundancyMonitor(model, log_to=log)
    assert log.values == [
        {
            "redundancy": pytest.approx((above(model[0]) + above(model[3])) / (6 + 15)),
            "redundancy/0": redundancy(model[0]).item(),
            "redundancy/3": redundancy(model[3]).item(),
        }
    ]
    assert log.values[0]["redundancy"] > 0


def test_it_measures_at_the_start_every_so_many_steps_and_at_the_end():
    log = Recorder()
    monitor = RedundancyMonitor(network(), every=3, start=4, log_to=log)
    for _ in range(6):
        monitor.step()
    assert log.steps == [4, 6, 9]
    assert monitor.finish() is monitor.report
    assert log.steps == [4, 6, 9, 10]
    monitor.finish()
    assert log.steps == [4, 6, 9, 10]


def test_measuring_leaves_model_and_random_state_as_they_are():
    model = network().train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    monitor = RedundancyMonitor(model)
    monitor.step()
    monitor.finish()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))


def test_options_go_to_measure():
    monitor = RedundancyMonitor(network(), threshold=0.9, details=False, pointwise="vector", signed=True)
    assert monitor.report.threshold == 0.9
    assert monitor.report.similarity.signed
    assert [layer.name for layer in monitor.report.measured] == ["0", "3", "5"]
    assert monitor.report.measured[0].chance is None


def test_it_says_when_to_stop():
    model = network()
    monitor = RedundancyMonitor(model, stop_below=0.01)
    monitor.step()
    assert not monitor.should_stop
    with torch.no_grad():  # four orthogonal filters, six without a similar slice
        model[0].weight.copy_(torch.eye(9)[:4].view(4, 1, 3, 3))
        model[3].weight.copy_(10 * torch.randn(6, 4, 3, 3))
    monitor.step()
    assert monitor.should_stop is (above(model[0]) + above(model[3]) == 0)
    assert monitor.should_stop


def test_weights_that_are_not_finite_do_not_end_the_training():
    model, log = network(), Recorder()
    monitor = RedundancyMonitor(model, log_to=log)
    with torch.no_grad():
        model[3].weight[1, 0, 0, 0] = math.nan
    with pytest.warns(UserWarning, match="redundancy could not be measured at step 1: layer '3' has NaN or Inf"):
        monitor.step()
    assert monitor.report is None
    assert log.steps == [0]


@pytest.mark.exhaustive
def test_the_model_is_shrunk_at_the_end_beside_the_trained_one():
    model = network()
    before = copy.deepcopy(model.state_dict())
    inputs = torch.randn(2, 1, 8, 8)
    wrapped = torch.compile(nn.DataParallel(torch.compile(model)))
    monitor = RedundancyMonitor(wrapped, shrink={"example_inputs": inputs, "parameters": 0.6})
    assert monitor.plan is None
    monitor.finish()
    parameters = [sum(p.numel() for p in each.parameters()) for each in (model, monitor.shrunk)]
    assert parameters[1] <= 0.6 * parameters[0]
    assert monitor.plan.model is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert monitor.shrunk(inputs).shape == (2, 2)


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("parameters out of reach"), "parameters out of reach"), (MemoryError(), "MemoryErr")],
)
def test_what_can_not_be_shrunk_in_the_end_is_no_loss(error, words, monkeypatch):
    monitor = RedundancyMonitor(network(), shrink={"example_inputs": torch.randn(2, 1, 8, 8), "parameters": 0.5})

    def refused(model, **arguments):
        raise error

    monkeypatch.setattr("ckrm_kernels.integrations.monitor.plan_shrink", refused)
    with pytest.warns(UserWarning, match=f"the model was not shrunk: {words}"):
        assert monitor.finish() is not None
    assert monitor.plan is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, ValueError, "every must be a whole number >= 1, got 0"),
        ({"start": -1}, ValueError, "start must be a whole number >= 0, got -1"),
        ({"log_to": "runs"}, TypeError, "log_to must be a SummaryWriter or a function of the report and the step, got"),
        ({"stop_below": 0}, ValueError, "stop_below must be a number above 0 and at most 1, got 0"),
        ({"treshold": 0.5}, TypeError, "unexpected keyword argument 'treshold'"),
        ({"shrink": {"parameters": 0.5}}, TypeError, "shrink must hold arguments of plan_shrink: missing .*example"),
        ({"shrink": {"example_inputs": torch.zeros(2, 1, 8, 8), "size": 1}}, TypeError, "plan_shrink: .*'size'"),
        ({"shrink": {"example_inputs": torch.zeros(2, 3, 8, 8), "parameters": 0.5}}, ValueError, "model"),
        ({"shrink": {"example_inputs": torch.zeros(2, 1, 8, 8)}}, ValueError, "give calibration, .* or a budget"),
        ({"shrink": {"example_inputs": torch.zeros(2, 1, 8, 8), "macs": "half"}}, TypeError, "macs must be a number"),
        ({"shrink": 0.5}, TypeError, "shrink must hold arguments of plan_shrink by their names, got float"),
    ],
)
def test_wrong_options_are_refused_before_the_training(options, error, message):
    with pytest.raises(error, match=message):
        RedundancyMonitor(network(), **options)


def test_a_model_in_which_nothing_can_be_measured_is_refused():
    with pytest.raises(ValueError, match=r"model must have a layer that can be measured\. .* 1 as pointwise"):
        RedundancyMonitor(nn.Linear(3, 4))


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("lightning", "lightning", "lightning"),
        ("transformers", "transformers", "transformers"),
        ("torchmetrics", "torchmetrics", "torchmetrics"),
        ("torch_pruning", "torch_pruning", "torch-pruning"),
    ],
)
def test_an_adapter_names_the_extra_that_it_lacks(module, library, extra, monkeypatch):
    monkeypatch.delitem(sys.modules, f"ckrm_kernels.integrations.{module}", raising=False)
    for name in [library, *(each for each in sys.modules if each.startswith(f"{library}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=re.escape(f'pip install "ckrm-kernels[{extra}]"')):
        importlib.import_module(f"ckrm_kernels.integrations.{module}")


def test_the_example_trains_to_the_same_bits(tmp_path, capsys):
    pytest.importorskip("sklearn")
    assert 0 < len(changed_lines("plain")) <= 5
    for script in ("train", "train_with_ckrm"):
        run("plain", f"{script}.py", tmp_path / script, "--epochs", "2", "--steps", "2")
    without, with_ckrm = (torch.load(tmp_path / name / "digits.pt") for name in ("train", "train_with_ckrm"))
    assert without.keys() == with_ckrm.keys()
    assert all(torch.equal(without[name], with_ckrm[name]) for name in without)
    assert "2 of 5 layers measured." in capsys.readouterr().out


def test_tensorboard_shows_curves_and_histograms(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    model = network()
    with SummaryWriter(str(tmp_path)) as writer:
        monitor = RedundancyMonitor(model, log_to=writer)
        monitor.step()
    events = EventAccumulator(str(tmp_path), {"histograms": 0}).Reload()
    assert [event.step for event in events.Scalars("redundancy")] == [0, 1]
    assert events.Scalars("redundancy/3")[1].value == pytest.approx(redundancy(model[3]).item())
    histogram = events.Histograms("psi/3")[1].histogram_value
    assert sum(histogram.bucket) == histogram.num == 15
    above_threshold = sum(n for limit, n in zip(histogram.bucket_limit, histogram.bucket, strict=True) if limit > 0.605)
    assert above_threshold == above(model[3])


PROCESS = """
import os
import sys
import torch
from torch import nn
from test_monitor import Recorder, network
from ckrm_kernels.distributed import joined, team
from ckrm_kernels.integrations import RedundancyMonitor

with joined():
    torch.manual_seed(0)
    model, log = nn.parallel.DistributedDataParallel(network()), Recorder()
    monitor = RedundancyMonitor(model, log_to=log, stop_below=1)
    monitor.step()
    has_report = monitor.finish() is not None
    print(f"rank {team().rank}: {log.steps} {has_report} {monitor.should_stop}\\n", end="")

    second = torch.distributed.new_group([1])
    if team().rank == 1:
        alone = RedundancyMonitor(network(), log_to=log, stop_below=1, group=second)
        print(f"rank 1 in a group of its own: {log.steps} {alone.report is not None}\\n", end="")

    def full(report, step):
        raise OSError("the disk is full")

    try:
        RedundancyMonitor(model, log_to=full, stop_below=1)
    except Exception as error:
        print(f"rank {team().rank}: {type(error).__name__}: {error}\\n", end="")
sys.stdout.flush()
os._exit(0)  # a thread of gloo that frees a tensor while Python ends would abort the process
"""


@pytest.mark.exhaustive
def test_of_several_processes_the_first_one_logs_and_all_of_them_stop_or_fail(tmp_path):
    (tmp_path / "process.py").write_text(PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "process.py"]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "rank 0: OSError: the disk is full",
        "rank 0: [0, 1] True True",
        "rank 1 in a group of its own: [0] True",
        "rank 1: RuntimeError: the first process could not measure: OSError: the disk is full",
        "rank 1: [] False True",
    ]
