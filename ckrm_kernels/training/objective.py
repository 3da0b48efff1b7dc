"""What a training makes small."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ckrm_kernels.data import Batch

Loss = Callable[..., Tensor]
"""The mean loss of a batch, of the model, the batch and the weights of the classes (classes,) or None.

One that labels can be smoothed for has an argument `label_smoothing`, too.
"""


class Objective(nn.Module):
    """The loss of a batch as a module, so that processes can share a batch and torch.compile sees all of it."""

    class_weights: Tensor | None

    def __init__(self, model: nn.Module, loss: Loss, class_weights: Tensor | None, label_smoothing: float) -> None:
        super().__init__()
        check_smoothing(loss, label_smoothing)
        self.model, self._loss = model, loss
        self._smoothing = {"label_smoothing": label_smoothing} if label_smoothing else {}
        self.register_buffer("class_weights", class_weights)

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of the batch."""
        return self._loss(self.model, batch, self.class_weights, **self._smoothing)


def check_smoothing(loss: Loss, label_smoothing: float) -> None:
    """Raises ValueError where labels are to be smoothed and the loss has no argument for it."""
    if label_smoothing and "label_smoothing" not in inspect.signature(loss).parameters:
        raise ValueError(
            f"training.label_smoothing must be 0 for a loss without an argument label_smoothing, got {label_smoothing}"
        )


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """(classes,) float32: inverse frequencies, scaled so that the mean over the images is 1; absent classes have 0."""
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, labels.numel() / (counts * (counts > 0).sum()), 0)
