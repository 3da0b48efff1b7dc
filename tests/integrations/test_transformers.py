"""The callback in Hugging Face's own trainer."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from training_examples import changed_lines, run

from ckrm_kernels import redundancy

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def training():
    for library in ("transformers", "accelerate"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    import transformers_training

    return transformers_training


def steps_logged(trainer) -> list[int]:
    return [entry["step"] for entry in trainer.state.log_history if "redundancy" in entry]


def test_the_example_trains_to_the_same_bits(training, tmp_path, capsys):
    pytest.importorskip("sklearn")
    assert 0 < len(changed_lines("transformers")) <= 5
    for script in ("train", "train_with_ckrm"):
        run("transformers", f"{script}.py", tmp_path / script, "--steps", "3")
    without, with_ckrm = (
        load_file(tmp_path / name / "digits" / "model.safetensors") for name in ("train", "train_with_ckrm")
    )
    assert without.keys() == with_ckrm.keys()
    assert all(torch.equal(without[name], with_ckrm[name]) for name in without)
    assert capsys.readouterr().out.count("5 of 13 layers measured.") == 1


def test_it_logs_at_the_start_every_so_many_steps_and_at_the_end(training, tmp_path):
    ours = training.trainer(tmp_path, num_train_epochs=1, gradient_accumulation_steps=2, logging_steps=2)
    callback = training.RedundancyCallback(ours, every_steps=2, print_report=False, scale_free=True)
    ours.add_callback(callback)
    ours.train()
    assert steps_logged(ours) == [0, 2, 3]
    assert [entry["step"] for entry in ours.state.log_history if "loss" in entry] == [2]  # none is lost by ours
    last = next(entry for entry in reversed(ours.state.log_history) if "redundancy" in entry)
    assert last["redundancy/second"] == redundancy(ours.model.second, scale_free=True).item()
    assert [layer.name for layer in callback.report.measured] == ["first", "second"]


@pytest.mark.exhaustive
def test_it_logs_every_so_many_epochs(training, tmp_path):
    ours = training.trainer(tmp_path, num_train_epochs=5)
    ours.add_callback(training.RedundancyCallback(ours, every_epochs=2))
    ours.train()
    assert steps_logged(ours) == [0, 12, 24, 30]


@pytest.mark.exhaustive
def test_it_stops_the_training(training, tmp_path):
    ours = training.trainer(tmp_path)
    ours.add_callback(training.RedundancyCallback(ours, every_steps=4, stop_below=1, print_report=False))
    ours.train()
    assert ours.state.global_step == 4


@pytest.mark.exhaustive
def test_the_report_is_of_the_best_model_where_that_is_loaded(training, tmp_path):
    ours = training.trainer(
        tmp_path,
        num_train_epochs=3,
        learning_rate=0.1,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
    )
    callback = training.RedundancyCallback(ours, threshold=0.2, print_report=False)
    ours.add_callback(callback)
    ours.add_callback(training.EarlyStoppingCallback())
    ours.train()
    found = {layer.name: layer.redundancy for layer in callback.report.measured}
    assert found == {name: redundancy(getattr(ours.model, name), 0.2).item() for name in ("first", "second")}


@pytest.mark.exhaustive
def test_it_shrinks_what_was_trained(training, tmp_path):
    ours = training.trainer(tmp_path)
    shrink = {"example_inputs": {"images": torch.randn(2, 1, 6, 6)}, "parameters": 0.6}
    callback = training.RedundancyCallback(ours, shrink=shrink, print_report=False)
    ours.add_callback(callback)
    ours.train()
    assert callback.plan.model is ours.model
    assert sum(p.numel() for p in callback.shrunk.parameters()) <= 0.6 * sum(p.numel() for p in ours.model.parameters())


@pytest.mark.exhaustive
def test_tensorboard_shows_curves_and_histograms(training, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ours = training.trainer(tmp_path, report_to="tensorboard")
    ours.add_callback(training.RedundancyCallback(ours, print_report=False))
    ours.train()
    (folder,) = (tmp_path / "runs").iterdir()
    events = EventAccumulator(str(folder), {"histograms": 0}).Reload()
    assert [event.step for event in events.Scalars("train/redundancy/first")] == [0, 6, 12]
    assert [event.histogram_value.num for event in events.Histograms("psi/second")] == [15, 15, 15]


def test_wrong_options_are_refused(training, tmp_path):
    with pytest.raises(TypeError, match=r"trainer must be a transformers\.Trainer, got NoneType"):
        training.RedundancyCallback(None)
    ours = training.trainer(tmp_path)
    with pytest.raises(ValueError, match="every_steps or every_epochs must be given, not both"):
        training.RedundancyCallback(ours, every_steps=1, every_epochs=1)
    ours.add_callback(training.RedundancyCallback(ours, treshold=0.5))
    with pytest.raises(TypeError, match="unexpected keyword argument 'treshold'"):
        ours.train()
