"""What a training makes small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels.data import Batch, Part


class Objective(nn.Module):
    """The loss of a batch: cross entropy of the logits, or the network's own where it has one (`GGCAM`).

    class_weights: (classes,), None weighs all alike
    Raises ValueError where the network's own loss needs gaze maps and the part has none.
    """

    class_weights: Tensor | None

    def __init__(self, model: nn.Module, part: Part, class_weights: Tensor | None) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("class_weights", class_weights)
        self._own: Callable[..., Tensor] | None = getattr(model, "loss", None)
        if self._own and part.gaze is None:
            raise ValueError(f"a network with its own loss ({type(model).__name__}) needs gaze maps; the data has none")
        if self._own and class_weights is not None:
            raise ValueError(f"balance_classes must be False for {type(model).__name__}, which has its own loss")

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of the batch."""
        if self._own:
            return self._own(batch.images, batch.labels, batch.gaze)
        return functional.cross_entropy(self.model(batch.images), batch.labels, self.class_weights)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """(classes,) float32: inverse frequencies, scaled so that the mean over the images is 1; absent classes have 0."""
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, labels.numel() / (counts * (counts > 0).sum()), 0)
