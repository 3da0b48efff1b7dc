"""`ckrm train` and `ckrm compare`, on the embedded digits."""

import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from io import StringIO

import pytest
from idx_files import FILES, write_bars
from rich.console import Console
from safetensors.torch import load_file

from ckrm_kernels.comparison.trained_runs import compare_runs
from ckrm_kernels.data import DataConfig, Part
from ckrm_kernels.models import ResNetShape, count_parameters
from ckrm_kernels.reference import pairwise_psi
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.storage.settings import as_json, read_config
from ckrm_kernels.training import Runtime, TrainingConfig
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.runs import RunsConfig, TrainedRuns, adapted_to, train_runs
from ckrm_kernels.training.workers import Workers

QUIET = Console(quiet=True)
CPU = Runtime(device="cpu")
SMALL = RunsConfig(
    network=ResNetShape(stem=6, inner=((8,),), out=(8,), in_channels=3, classes=7),
    training=TrainingConfig(epochs=2, batch_size=64),
    seeds=(0, 1),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    narrow = replace(SMALL, network=ResNetShape(stem=3, inner=((4,),), out=(5,)))
    for name, config in (("wide", SMALL), ("narrow", narrow)):
        train_runs(folder / name, config, runtime=CPU, processes=1, console=QUIET)
    return folder


def test_scores_are_those_of_the_saved_networks(folders):
    from ckrm_kernels.data import digits

    runs = TrainedRuns.of(folders / "wide", Display(QUIET))
    assert runs.config.network == replace(SMALL.network, in_channels=1, classes=10)
    scores = json.loads((folders / "wide" / "scores.json").read_text())
    held_out = digits().held_out
    for seed in ("0", "1"):
        network = runs.config.network.build().eval()
        network.load_state_dict(load_file(folders / "wide" / f"seed-{seed}" / "weights.safetensors"))
        accuracy = (network(held_out.images).argmax(1) == held_out.labels).float().mean().item()
        assert scores[seed]["accuracy"] == pytest.approx(accuracy)


def test_more_seeds_are_added_and_finished_ones_stay(folders):
    before = (folders / "wide" / "seed-0" / "weights.safetensors").stat().st_mtime_ns
    scores = train_runs(folders / "wide", replace(SMALL, seeds=(0, 1, 2)), runtime=CPU, processes=1, console=QUIET)
    assert set(scores) == {0, 1, 2}
    assert (folders / "wide" / "seed-0" / "weights.safetensors").stat().st_mtime_ns == before


def test_another_configuration_in_the_same_folder(folders):
    other = replace(SMALL, training=TrainingConfig(epochs=3))
    with pytest.raises(
        ValueError, match=r"holds runs of another configuration \(training.epochs is 2, not 3\): choose another folder"
    ):
        train_runs(folders / "narrow", replace(other, network=ResNetShape(stem=3, inner=((4,),), out=(5,))))


def test_seeds_refused():
    with pytest.raises(ValueError, match=r"seeds must be different whole numbers, at least one, got \[1, 1\]"):
        RunsConfig(seeds=(1, 1))


@pytest.mark.parametrize("seeds", [(-1,), (2**63,), (0.5,)])
def test_seeds_that_torch_does_not_take(seeds):
    with pytest.raises(ValueError, match=r"seeds must be whole numbers from 0 to 2\^63 - 1, got "):
        RunsConfig(seeds=seeds)


@pytest.mark.parametrize("processes", [0, -1, 1.5])
def test_processes_refused(tmp_path, processes):
    with pytest.raises(ValueError, match=f"processes must be a whole number >= 1, got {processes}"):
        train_runs(tmp_path, SMALL, runtime=CPU, processes=processes, console=QUIET)


def test_a_network_that_the_data_can_not_train_is_refused_before_anything_is_written(tmp_path):
    config = replace(SMALL, network=replace(SMALL.network, head="gg-cam"))
    with pytest.raises(
        ValueError, match=r"network\.head must be linear for digits, which has no gaze maps, got gg-cam"
    ):
        train_runs(tmp_path, config, runtime=CPU, console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(("module", "work"), [("torchmetrics", "training"), ("tensorboard", "training")])
def test_a_missing_package_is_named_before_anything_is_done(tmp_path, monkeypatch, module, work):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"{work} needs {module}: pip install"):
        train_runs(tmp_path / "new", SMALL, runtime=Runtime(device="cpu", tensorboard=True), console=QUIET)
    assert not (tmp_path / "new").exists()


def test_networks_are_not_compared_without_the_packages_that_it_takes(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match="comparing networks needs scipy: pip install"):
        compare_runs([folders / "wide", folders / "narrow"], 0.02)


def test_a_run_leaves_a_log_of_all_its_starts(tmp_path):
    config = replace(SMALL, seeds=(0,), training=TrainingConfig(epochs=1))
    for seeds in ((0,), (0, 1)):
        train_runs(tmp_path, replace(config, seeds=seeds), runtime=CPU, processes=1, console=QUIET)
    text = (tmp_path / "log.txt").read_text()
    assert text.count("Training ") == 2
    assert text.count("seed 0: epoch 1 of 1") == 1
    assert "finished already: 1 of 2 networks" in text


def test_data_that_can_not_score_is_refused_before_anything_is_trained():
    data = SMALL.data.load()
    ones = data.held_out.labels == 1
    held_out = Part(data.held_out.images[ones], data.held_out.labels[ones])
    with pytest.raises(ValueError, match="the held-out part of digits must hold images of at least 2 classes"):
        adapted_to(SMALL, replace(data, held_out=held_out))


def test_the_folder_of_a_search_is_refused(tmp_path):
    from ckrm_kernels.width_search import WidthSearchConfig

    search = as_json(WidthSearchConfig(network=SMALL.network, training=SMALL.training))
    search["network"] |= {"in_channels": 1, "classes": 10}
    (tmp_path / "config.json").write_text(json.dumps(search))
    with pytest.raises(ValueError, match="holds a search of `ckrm search`, not runs of `ckrm train`"):
        train_runs(tmp_path, SMALL, runtime=CPU, console=QUIET)


def test_the_parameters_shown_are_those_of_the_network_trained(tmp_path):
    file = StringIO()
    config = replace(SMALL, seeds=(0,), training=TrainingConfig(epochs=1))
    train_runs(tmp_path, config, runtime=CPU, processes=1, console=Console(file=file, width=100))
    adapted_to = replace(SMALL.network, in_channels=1, classes=10)
    assert f"Training {count_parameters(adapted_to.build()):,} parameters" in file.getvalue()


def test_groups_compared(folders, tmp_path):
    file = StringIO()
    candidates, comparisons, latencies = compare_runs(
        [folders / "wide", folders / "narrow"], 0.02, tmp_path / "out.json", Console(file=file, width=200)
    )
    wide, narrow = candidates
    assert wide.parameters == count_parameters(TrainedRuns.of(folders / "wide", Display(QUIET)).config.network.build())
    scores = json.loads((folders / "narrow" / "scores.json").read_text())
    assert list(narrow.aucs) == pytest.approx([scores[seed]["auc"] for seed in ("0", "1")])
    by_metric = {each.metric: each for each in comparisons}
    assert by_metric["accuracy"].first == narrow.name
    difference = sum(narrow.accuracies) / len(narrow.accuracies) - sum(wide.accuracies) / len(wide.accuracies)
    assert by_metric["accuracy"].difference.mean == pytest.approx(difference)
    assert all(set(each.seconds) == {wide.name, narrow.name} for each in latencies)
    written = json.loads((tmp_path / "out.json").read_text())
    assert [each["name"] for each in written["networks"]] == [wide.name, narrow.name]
    assert f"{narrow.parameters:,}" in file.getvalue()
    assert (written["threshold"], written["similarity"]) == (0.6, asdict(Similarity()))
    shown = " ".join(file.getvalue().split())
    for each in candidates:
        assert f"lambda^0.6 of the {each.name} network at eps 1e-4 absolute" in shown


def test_groups_compared_at_another_psi(folders, tmp_path):
    file, psi = StringIO(), Similarity(eps=1e-3, scale_free=True)
    both = [folders / "wide", folders / "narrow"]
    console = Console(file=file, width=200)
    candidates, _, _ = compare_runs(both, 0.02, tmp_path / "out.json", console, threshold=0.3, similarity=psi)
    for folder, candidate in zip(both, candidates, strict=True):
        models = [job.trained() for job in TrainedRuns.of(folder, Display(QUIET)).jobs()]
        for layer in candidate.layers:
            weights = [model.get_submodule(layer.name).weight.detach().double() for model in models]
            units = [weight / weight.square().mean().sqrt() for weight in weights]
            shares = [(pairwise_psi(unit, Similarity(eps=1e-3)) > 0.3).double().mean().item() for unit in units]
            assert layer.configured.per_model == pytest.approx(shares)
        words = "at eps 1e-3 relative to each layer's scale"
        assert f"lambda^0.3 of the {candidate.name} network {words}" in " ".join(file.getvalue().split())
    assert "1e-4" not in file.getvalue()
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["threshold"], written["similarity"]) == (0.3, asdict(psi))


def test_groups_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="runs must be two or more different folders, got "):
        compare_runs([folders / "wide"], 0.01)
    with pytest.raises(ValueError, match=r"margin must be a finite number > 0, got 0\.0"):
        compare_runs([folders / "wide", folders / "narrow"], 0.0)
    with pytest.raises(ValueError, match=r"holds no runs of `ckrm train`: config\.json is missing"):
        compare_runs([folders / "wide", tmp_path], 0.01)


def test_groups_of_other_data(folders, tmp_path):
    other = replace(SMALL, data=replace(SMALL.data, split_seed=1), seeds=(0,), training=TrainingConfig(epochs=1))
    train_runs(tmp_path, other, runtime=CPU, processes=1, console=QUIET)
    with pytest.raises(ValueError, match=r"was trained on other data than .*: split_seed is 1, not 0"):
        compare_runs([folders / "wide", tmp_path], 0.01)


# ---- the data and the folder -----------------------------------------------------------------------------------------

ON_BARS = replace(SMALL, seeds=(0,), training=TrainingConfig(epochs=1, batch_size=64))


def on_bars(data) -> RunsConfig:
    return replace(ON_BARS, data=DataConfig("mnist", folder=str(data)))


def trained(folder, config) -> str:
    """What the training printed."""
    file = StringIO()
    train_runs(folder, config, runtime=CPU, processes=1, console=Console(file=file, width=200))
    return file.getvalue()


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """A folder with data, and runs trained on it."""
    folder = tmp_path_factory.mktemp("bars")
    write_bars(folder / "data")
    trained(folder / "runs", on_bars(folder / "data"))
    return folder


def files(folder) -> dict[str, bytes]:
    """The content of what a run leaves, by file."""
    found = [*folder.rglob("*.json"), *folder.rglob("*.safetensors"), *folder.rglob("*.pt")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_touched_copied_and_moved_data_is_the_same(bars, tmp_path):
    data, runs = tmp_path / "data", tmp_path / "runs"
    shutil.copytree(bars / "data", data)
    shutil.copytree(bars / "runs", runs)
    before = files(runs)
    for path in data.iterdir():
        os.utime(path)
    assert "epoch" not in trained(runs, on_bars(data))
    assert json.loads((runs / "config.json").read_text())["data"]["folder"] == str(data)
    before.pop("config.json")
    assert before.items() <= files(runs).items()
    compare_runs([bars / "runs", runs], 0.02, console=QUIET)


@pytest.mark.parametrize("forgotten", [(), ("config.json",), ("config.json", "data.json")])
def test_other_data_is_refused_by_name_and_nothing_is_replaced(bars, tmp_path, forgotten):
    data, runs = tmp_path / "data", tmp_path / "runs"
    shutil.copytree(bars / "data", data)
    shutil.copytree(bars / "runs", runs)
    for name in forgotten:
        (runs / name).unlink()
    labels = data / FILES[1]
    labels.write_bytes(labels.read_bytes()[:-1] + b"\3")
    before = files(runs)
    message = "the data differs: labels of" if forgotten else f"the data in {data} differs: labels of the training file"
    with pytest.raises(ValueError, match=f"{runs}.* holds .*{message}"):
        train_runs(runs, on_bars(data), runtime=CPU, processes=1, console=QUIET)
    assert files(runs) == before


def test_runs_of_an_earlier_version_are_refused(bars, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(bars / "runs", runs)
    (runs / "data.json").unlink()
    before = files(runs)
    with pytest.raises(ValueError, match="holds runs of an earlier version of ckrm_kernels, which kept no digest"):
        train_runs(runs, on_bars(bars / "data"), runtime=CPU, processes=1, console=QUIET)
    assert files(runs) == before


def test_data_that_changes_while_networks_are_trained_is_refused(bars, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(bars / "data", data)
    monkeypatch.setattr(DataConfig, "load", lambda self, track=None: self._read(track))  # as another process does
    original = Workers.run

    def run(self, jobs, on_event):
        (data / FILES[2]).write_bytes((data / FILES[2]).read_bytes()[:-1] + b"\3")
        return original(self, jobs, on_event)

    monkeypatch.setattr(Workers, "run", run)
    with pytest.raises(ValueError, match="seed-0 changed while networks were trained: images of the test file"):
        train_runs(tmp_path / "runs", on_bars(data), runtime=CPU, processes=1, console=QUIET)
    assert not (tmp_path / "runs" / "seed-0" / "run.json").exists()


def test_a_class_that_a_part_lacks_is_named_before_the_training(bars, tmp_path):
    write_bars(tmp_path / "data", train=41)
    printed = trained(tmp_path / "runs", on_bars(tmp_path / "data"))
    warning = "warning: class 3 has too few images, 10: 4 for training, 0 for validation, 6 held out; the validation"
    assert warning in printed
    assert printed.index(warning) < printed.index("Training")
    kept = json.loads((tmp_path / "runs" / "data.json").read_text())
    assert (kept["name"], kept["train"], kept["held_out"], kept["most_frequent"]) == ("mnist", 40, 60, 0.1)
    assert len(kept["missing_classes"]) == 9


def test_a_run_is_the_name_of_its_network(bars, tmp_path):
    config = replace(ON_BARS, network=str(bars / "runs"))
    assert config.network == replace(SMALL.network, in_channels=1, classes=10)
    assert read_config(RunsConfig(), None, [f"network={bars / 'runs'}"]).network == config.network
