"""A small training with Lightning; imported by the tests that need it alone, since Lightning takes seconds."""

from __future__ import annotations

import lightning.pytorch as lightning
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ckrm_kernels.integrations.lightning import RedundancyCallback


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
