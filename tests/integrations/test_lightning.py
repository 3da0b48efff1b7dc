"""The callback in Lightning's own trainer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training_examples import changed_lines, run

lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
from lightning.pytorch.loggers.logger import DummyLogger

from ckrm_kernels import redundancy
from ckrm_kernels.integrations.lightning import RedundancyCallback

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.dropout, self.head = nn.Dropout(), nn.Linear(6, 2)

    def forward(self, images):
        features = self.second(self.first(images).relu()).relu()
        return self.head(self.dropout(features.mean((2, 3))))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Recorder(DummyLogger):
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.logged = []

    def log_metrics(self, metrics, step=None):
        self.logged.append((step, dict(metrics)))


def loader() -> DataLoader:
    return DataLoader(TensorDataset(torch.randn(24, 1, 6, 6), torch.randint(2, (24,))), batch_size=4)  # of 6 batches


def fitted(callback: RedundancyCallback, tmp_path, **options) -> tuple[lightning.Trainer, Classifier]:
    options = {"max_epochs": 2, "logger": Recorder(), "enable_checkpointing": False, **options}
    trainer = lightning.Trainer(
        callbacks=[callback],
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    module = Classifier()
    trainer.fit(module, loader())
    return trainer, module


def test_the_example_trains_to_the_same_bits(tmp_path, capsys):
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


def test_it_logs_at_the_start_every_so_many_steps_and_at_the_end(tmp_path):
    callback = RedundancyCallback(every_steps=2, print_report=False, scale_free=True)
    trainer, module = fitted(callback, tmp_path, max_epochs=1, accumulate_grad_batches=2)
    ours = [(step, values) for step, values in trainer.logger.logged if "redundancy" in values]
    assert [step for step, _ in ours] == [0, 2, 3]
    assert ours[-1][1]["redundancy/second"] == redundancy(module.second, scale_free=True).item()
    assert callback.report.similarity.scale_free
    assert [layer.name for layer in callback.report.measured] == ["first", "second"]


@pytest.mark.exhaustive
def test_it_logs_every_so_many_epochs(tmp_path):
    trainer, _ = fitted(RedundancyCallback(every_epochs=2), tmp_path, max_epochs=5)
    assert [step for step, values in trainer.logger.logged if "redundancy" in values] == [0, 12, 24, 30]


def test_it_stops_the_trainer(tmp_path):
    trainer, _ = fitted(RedundancyCallback(every_steps=4, stop_below=1, print_report=False), tmp_path)
    assert trainer.global_step == 4


@pytest.mark.exhaustive
def test_it_shrinks_what_was_trained(tmp_path):
    shrink = {"example_inputs": torch.randn(2, 1, 6, 6), "parameters": 0.6}
    callback = RedundancyCallback(shrink=shrink, print_report=False)
    _, module = fitted(callback, tmp_path)
    assert callback.plan.model is module
    assert sum(p.numel() for p in callback.shrunk.parameters()) <= 0.6 * sum(p.numel() for p in module.parameters())
    assert callback.shrunk(torch.randn(3, 1, 6, 6)).shape == (3, 2)


@pytest.mark.exhaustive
def test_tensorboard_shows_histograms(tmp_path):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer, _ = fitted(RedundancyCallback(print_report=False), tmp_path, logger=TensorBoardLogger(tmp_path))
    events = EventAccumulator(trainer.logger.log_dir, {"histograms": 0}).Reload()
    assert [event.step for event in events.Scalars("redundancy/first")] == [0, 6, 12]
    assert [event.histogram_value.num for event in events.Histograms("psi/second")] == [15, 15, 15]


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="every_steps or every_epochs must be given, not both"):
        RedundancyCallback(every_steps=1, every_epochs=1)
    with pytest.raises(ValueError, match="every_steps must be a whole number >= 1, got 0"):
        RedundancyCallback(every_steps=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'treshold'"):
        fitted(RedundancyCallback(treshold=0.5), tmp_path)
