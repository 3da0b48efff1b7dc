"""A small training with Hugging Face's trainer; imported by the tests that need it alone, since that takes seconds."""

from __future__ import annotations

import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from ckrm_kernels.integrations.transformers import RedundancyCallback

__all__ = ["EarlyStoppingCallback", "RedundancyCallback", "trainer"]


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.dropout, self.head = nn.Dropout(), nn.Linear(6, 2)

    def forward(self, images, labels=None):
        features = self.second(self.first(images).relu()).relu()
        logits = self.head(self.dropout(features.mean((2, 3))))
        return (logits,) if labels is None else (nn.functional.cross_entropy(logits, labels), logits)


def trainer(tmp_path, **options) -> Trainer:
    data = [{"images": torch.randn(1, 6, 6), "labels": index % 2} for index in range(24)]  # of 6 batches
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        disable_tqdm=True,
        use_cpu=True,
        **{"report_to": "none", "save_strategy": "no", "num_train_epochs": 2, **options},
    )
    return Trainer(model=Classifier(), args=arguments, train_dataset=data, eval_dataset=data)
