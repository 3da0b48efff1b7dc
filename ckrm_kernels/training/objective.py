"""What a training makes small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ckrm_kernels.data import Batch

Loss = Callable[[nn.Module, Batch, "Tensor | None"], Tensor]
"""The mean loss of a batch, of the model, the batch and the weights of the classes (classes,) or None."""


class Objective(nn.Module):
    """The loss of a batch as a module, so that processes can share a batch and torch.compile sees all of it."""

    class_weights: Tensor | None

    def __init__(self, model: nn.Module, loss: Loss, class_weights: Tensor | None) -> None:
        super().__init__()
        self.model, self._loss = model, loss
        self.register_buffer("class_weights", class_weights)

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of the batch."""
        return self._loss(self.model, batch, self.class_weights)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """(classes,) float32: inverse frequencies, scaled so that the mean over the images is 1; absent classes have 0."""
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, labels.numel() / (counts * (counts > 0).sum()), 0)
