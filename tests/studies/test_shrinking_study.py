"""docs/studies/shrinking: its networks, its file of finished cells, its statistics, and that it goes on."""

# ruff: noqa: E402

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from idx_files import write_bars
from torch import nn

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
scipy_stats = pytest.importorskip("scipy.stats")
sys.path.append(str(Path(__file__).parents[2] / "docs" / "studies" / "shrinking"))

import accuracies
import cells
import computing
import networks
import reporting
import study
from cells import ERROR, FOLD, FULL, NOTHING, SCRATCH, Cell, Result, Results
from fashion import calibration, fashion, first

from ckrm_kernels.models.counts import count_parameters
from ckrm_kernels.training import TrainingConfig

NAMES = list(networks.ARCHITECTURES)


@pytest.mark.parametrize("name", NAMES)
def test_networks_have_100_to_200_thousand_parameters_and_14x14_after_the_stem(name):
    network = networks.ARCHITECTURES[name]().eval()
    stem = network.features[0] if name == "VGG" else network.stem
    images = torch.randn(2, 1, 28, 28)
    assert stem(images).shape[2:] == (14, 14)
    assert network(images).shape == (2, 10)
    assert 100_000 <= sum(each.numel() for each in network.parameters()) <= 200_000


@pytest.mark.parametrize("name", NAMES)
def test_a_uniform_network_is_the_nearest_in_size(name):
    wanted = 40_000
    got = abs(count_parameters(networks.uniform(name, wanted, count_parameters)) - wanted)
    for step in range(10, 201, 30):
        assert got <= abs(count_parameters(networks.ARCHITECTURES[name](step / 200)) - wanted)


def test_cells_are_told_apart_and_the_full_networks_come_first():
    every = cells.all_cells()
    assert len({cell.folder for cell in every}) == len(set(every)) == len(every)
    assert [cell.method for cell in every[:20]] == [FULL] * 20
    assert {cell.seed for cell in every if (cell.method, cell.share) == (ERROR, 0.5)} == set(range(10))


def result(cell: Cell, accuracy: dict[str, float], size: int = 100) -> Result:
    return Result(cell, size, 2 * size, accuracy, 1.0, {})


def test_finished_cells_survive_a_line_cut_short(tmp_path):
    results = Results(tmp_path / "cells.jsonl")
    assert results.read() == {}
    one, two, three = (result(Cell("ResNet", seed, ERROR, 0.5), {FOLD: 0.5 + seed / 10}) for seed in range(3))
    results.add(one)
    results.add(two)
    text = (tmp_path / "cells.jsonl").read_bytes()
    for end in range(len(text)):
        (tmp_path / "cells.jsonl").write_bytes(text[:end])
        found = list(results.read().values())
        assert found == [one, two][: len(found)]
        assert len(found) >= text[:end].count(b"\n")
    (tmp_path / "cells.jsonl").write_bytes(text[:-5])
    results.add(three)
    assert list(results.read().values()) == [one, three]


def test_pairs_by_the_90_percent_interval():
    for values in ([0.001, -0.002, 0.0005, 0.001], [0.004, 0.006, 0.001, 0.002], [-0.02, -0.001, 0.002, 0.001]):
        pair = accuracies.Paired.of(values)
        mean, error = sum(values) / 4, scipy_stats.sem(values)
        low, high = scipy_stats.t.interval(0.9, 3, mean, error)
        assert (pair.equivalence_p < 0.05) == (low > -0.005 and high < 0.005)
        assert (pair.not_worse_p < 0.05) == (low > -0.005)
        assert (pair.difference.low, pair.difference.high) == pytest.approx(
            scipy_stats.t.interval(0.95, 3, mean, error)
        )
    assert accuracies.Paired.of([0.1, 0.2]).equivalence_p is None


def test_differences_are_of_the_same_seed_and_network():
    done = [
        result(Cell(name, seed, method, share), {FOLD if method == ERROR else NOTHING: value}, size)
        for name, seed, method, share, value, size in (
            ("ResNet", 0, FULL, 1.0, 0.9, 100),
            ("ResNet", 1, FULL, 1.0, 0.8, 100),
            ("VGG", 0, FULL, 1.0, 0.7, 300),
            ("ResNet", 1, ERROR, 0.5, 0.75, 40),
            ("VGG", 0, ERROR, 0.5, 0.65, 150),
            ("VGG", 4, SCRATCH, 0.5, 0.1, 150),
        )
    ]
    frame = accuracies.as_frame(done)
    half = accuracies.Way(ERROR, FOLD, 0.5)
    assert accuracies.differences(frame, half, accuracies.WHOLE, ["ResNet"]) == pytest.approx([-0.05])
    assert accuracies.differences(frame, half, accuracies.WHOLE, NAMES) == pytest.approx([-0.05, -0.05])
    assert accuracies.differences(frame, half, accuracies.Way(SCRATCH, NOTHING, 0.5), NAMES) == []
    row = accuracies.of_way(frame, half, ["ResNet"]).iloc[0]
    assert (row.parameters, row.multiply_adds, row.lost) == (0.4, 0.4, pytest.approx(0.05))
    assert "| VGG | 1 | 0.7000 | 0.6500 | -5.00 | -5.00 | 0 of 1 |" in reporting.half_table(frame)


def test_the_tables_pair_and_leave_out_what_is_missing():
    values = {FULL: (0.9, 0.9, 0.9), SCRATCH: (0.8, 0.7, 0.6), cells.SCRATCH_PARAMETERS: (0.79, 0.68)}
    done = [
        result(Cell("VGG", seed, method, 1.0 if method == FULL else 0.5), {NOTHING: value})
        for method, accuracies_of in values.items()
        for seed, value in enumerate(accuracies_of)
    ]
    done += [
        result(Cell("VGG", 1, ERROR, 0.5), {NOTHING: 0.2, FOLD: 0.71}),
        result(Cell("VGG", 1, ERROR, 0.5, FOLD, 1), {FOLD: 0.73}),
        result(Cell("VGG", 1, "l1", 0.5), {NOTHING: 0.2, FOLD: 0.70}),
        result(Cell("VGG", 1, "l1", 0.5, NOTHING, 1), {NOTHING: 0.72}),
    ]
    frame = accuracies.as_frame(done)
    assert "| 0.5 | VGG | 2 | +1.50 |  | 0 |  |  |" in reporting.widths_table(frame)
    assert "| 0.5 | VGG | 1 | +1.00 |  |  | +3.00 |" in reporting.scratch_table(frame)
    assert "| 0.5 | l1 | 1 | 100 % | 0.2000 |  | 0.7000 |  | -1.00 |" in reporting.methods_table(frame)
    tuned = reporting.tuned_table(frame)
    assert "| error, fold | 1 | 1 | 0.7100 | 0.7300 |  | +3.00 |" in tuned
    assert "| l1, nothing | 1 | 1 | 0.2000 | 0.7200 | -1.00 | +2.00 |" in tuned


def test_new_weights_at_the_same_widths():
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
    network[1].running_mean.fill_(5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    renewed = computing.renewed(network).state_dict()
    assert {name: each.shape for name, each in renewed.items()} == {name: each.shape for name, each in before.items()}
    assert not torch.equal(renewed["0.weight"], before["0.weight"])
    assert not renewed["1.running_mean"].any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_splits_share_no_image_and_calibration_is_of_the_training_part(tmp_path):
    write_bars(tmp_path)
    data = fashion(tmp_path)
    assert len(data.held_out) == 60
    assert len(data.train) + len(data.validation) == 200
    training = {image.numpy().tobytes() for image in data.train.images}
    assert not training & {image.numpy().tobytes() for image in data.validation.images}
    normalised = {image.numpy().tobytes() for image in data.train.batch(torch.arange(len(data.train))).images}
    assert {image.numpy().tobytes() for image in calibration(data, 3)} <= normalised
    assert torch.equal(first(data.train, 5).batch(torch.arange(5)).images, data.train.batch(torch.arange(5)).images)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A study of small ResNets, trained for an epoch on 6x5 bars."""
    monkeypatch.setitem(networks.ARCHITECTURES, "ResNet", partial(networks.ResNet, 0.25))
    write_bars(tmp_path / "data")
    return computing.Bench(
        fashion(tmp_path / "data"), tmp_path / "networks", training=TrainingConfig(epochs=1, batch_size=32)
    )


@pytest.mark.exhaustive
def test_a_cell_of_each_kind(tiny):
    full = tiny.compute(Cell("ResNet", 0, FULL))
    small = tiny.compute(Cell("ResNet", 0, ERROR, 0.5))
    assert set(small.accuracy) == set(reporting.COMPENSATIONS)
    assert small.parameters <= full.parameters / 2
    scratch = tiny.compute(Cell("ResNet", 0, SCRATCH, 0.5))
    assert scratch.parameters == small.parameters
    tuned = tiny.compute(Cell("ResNet", 0, ERROR, 0.5, FOLD, 1))
    assert set(tuned.accuracy) == {FOLD}
    assert tuned.parameters == small.parameters
    assert tuned.details["learning_rate"] in computing.TUNING_RATES


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """The folder's lock, held by another process."""
    folder.mkdir(parents=True, exist_ok=True)
    holds = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    command = [sys.executable, "-c", holds, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield
        process.communicate(b"\n")


def test_it_goes_on(tiny, tmp_path, monkeypatch):
    todo = [Cell("ResNet", seed, FULL) for seed in range(3)]
    monkeypatch.setattr(study, "all_cells", lambda: todo)
    monkeypatch.setattr(study, "Bench", lambda *options: tiny)
    file = tmp_path / "cells.jsonl"
    arguments = ["study.py", "--data", str(tmp_path / "data"), "--networks", str(tmp_path / "networks")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--results", str(file)])
    monkeypatch.setattr(study, "HERE", tmp_path)

    class Killed(BaseException):
        pass

    def dies(bench, cell, results, place, whole=study.compute_one):
        if cell.seed == 1:
            raise Killed
        whole(bench, cell, results, place)

    with monkeypatch.context() as patch:
        patch.setattr(study, "compute_one", dies)
        with pytest.raises(Killed):
            study.main()
    before = file.read_text()
    assert [json.loads(line)["cell"]["seed"] for line in before.splitlines()] == [0]
    with in_use(tiny.folder / todo[2].folder):
        study.main()
    assert [json.loads(line)["cell"]["seed"] for line in file.read_text().splitlines()] == [0, 1]
    study.main()
    assert file.read_text().startswith(before)
    assert [json.loads(line)["cell"]["seed"] for line in file.read_text().splitlines()] == [0, 1, 2]
    assert (tmp_path / "accuracy.png").read_bytes()[:4] == b"\x89PNG"
