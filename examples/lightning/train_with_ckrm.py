"""Trains a small network on scikit-learn's digits with Lightning."""

import argparse

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ckrm_kernels.integrations.lightning import RedundancyCallback


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.second_norm = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.dropout, self.head = nn.Dropout(0.2), nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.first_norm(self.first(images)).relu()
        features = self.second_norm(self.second(features)).relu()
        return self.head(self.dropout(features.mean((2, 3))))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many steps")
    parser.add_argument("--output", default="digits.ckpt")
    args = parser.parse_args()

    lightning.seed_everything(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    loader = DataLoader(TensorDataset(images, torch.tensor(digits.target)), batch_size=32, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        max_steps=args.steps,
        logger=False,
        callbacks=[RedundancyCallback()],
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(), loader)
    trainer.save_checkpoint(args.output)


if __name__ == "__main__":
    main()
