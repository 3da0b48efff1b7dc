"""The callback in Lightning's own trainer."""

from __future__ import annotations

import pytest
import torch
from training_examples import changed_lines, run

from ckrm_kernels import redundancy

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def training():
    pytest.importorskip("lightning", reason="lightning is not installed")
    import lightning_training

    return lightning_training


def test_the_example_trains_to_the_same_bits(training, tmp_path, capsys):
    pytest.importorskip("sklearn")
    assert 0 < len(changed_lines("lightning")) <= 5
    for script in ("train", "train_with_ckrm"):
        run("lightning", f"{script}.py", tmp_path / script, "--epochs", "1", "--steps", "3")
    without, with_ckrm = (
        torch.load(tmp_path / name / "digits.ckpt", weights_only=True)["state_dict"]
        for name in ("train", "train_with_ckrm")
    )
    assert without.keys() == with_ckrm.keys()
    assert all(torch.equal(without[name], with_ckrm[name]) for name in without)
    assert capsys.readouterr().out.count("2 of 5 layers measured.") == 1


def test_it_logs_at_the_start_every_so_many_steps_and_at_the_end(training, tmp_path):
    callback = training.RedundancyCallback(every_steps=2, print_report=False, scale_free=True)
    trainer, module = training.fitted(callback, tmp_path, max_epochs=1, accumulate_grad_batches=2)
    ours = [(step, values) for step, values in trainer.logger.logged if "redundancy" in values]
    assert [step for step, _ in ours] == [0, 2, 3]
    assert ours[-1][1]["redundancy/second"] == redundancy(module.second, scale_free=True).item()
    assert callback.report.similarity.scale_free
    assert [layer.name for layer in callback.report.measured] == ["first", "second"]


@pytest.mark.exhaustive
def test_it_logs_every_so_many_epochs(training, tmp_path):
    trainer, _ = training.fitted(training.RedundancyCallback(every_epochs=2), tmp_path, max_epochs=5)
    assert [step for step, values in trainer.logger.logged if "redundancy" in values] == [0, 12, 24, 30]


def test_it_stops_the_trainer(training, tmp_path):
    trainer, _ = training.fitted(training.RedundancyCallback(every_steps=4, stop_below=1, print_report=False), tmp_path)
    assert trainer.global_step == 4


@pytest.mark.exhaustive
def test_it_shrinks_what_was_trained(training, tmp_path):
    shrink = {"example_inputs": torch.randn(2, 1, 6, 6), "parameters": 0.6}
    callback = training.RedundancyCallback(shrink=shrink, print_report=False)
    _, module = training.fitted(callback, tmp_path)
    assert callback.plan.model is module
    assert sum(p.numel() for p in callback.shrunk.parameters()) <= 0.6 * sum(p.numel() for p in module.parameters())
    assert callback.shrunk(torch.randn(3, 1, 6, 6)).shape == (3, 2)


@pytest.mark.exhaustive
def test_tensorboard_shows_histograms(training, tmp_path):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer, _ = training.fitted(
        training.RedundancyCallback(print_report=False), tmp_path, logger=TensorBoardLogger(tmp_path)
    )
    events = EventAccumulator(trainer.logger.log_dir, {"histograms": 0}).Reload()
    assert [event.step for event in events.Scalars("redundancy/first")] == [0, 6, 12]
    assert [event.histogram_value.num for event in events.Histograms("psi/second")] == [15, 15, 15]


def test_wrong_options_are_refused(training, tmp_path):
    with pytest.raises(ValueError, match="every_steps or every_epochs must be given, not both"):
        training.RedundancyCallback(every_steps=1, every_epochs=1)
    with pytest.raises(ValueError, match="every_steps must be a whole number >= 1, got 0"):
        training.RedundancyCallback(every_steps=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'treshold'"):
        training.fitted(training.RedundancyCallback(treshold=0.5), tmp_path)
