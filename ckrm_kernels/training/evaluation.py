"""How well a network classifies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels.data import Part

_BATCH, _PIXELS = 512, 1 << 24  # the most of each at once


@dataclass(frozen=True)
class Score:
    """A classification's quality.

    accuracy: share of the images classified rightly
    auc: area under the ROC curve of each class against the rest, mean of the classes
    """

    accuracy: float
    auc: float


def evaluate(model: nn.Module, part: Part, classes: int) -> Score:
    """Accuracy and macro AUC of the model in evaluation mode; its mode is restored."""
    try:
        from torchmetrics.functional.classification import multiclass_accuracy, multiclass_auroc
    except ImportError as error:
        raise ImportError('evaluation needs torchmetrics: pip install "ckrm-kernels[train]"') from error
    probabilities = logits(model, part).softmax(1)
    return Score(
        multiclass_accuracy(probabilities, part.labels, classes, average="micro").item(),
        multiclass_auroc(probabilities, part.labels, classes, average="macro").item(),
    )


def loss_and_accuracy(model: nn.Module, part: Part) -> tuple[float, float]:
    """Mean cross entropy over the part's images, and the share of them classified rightly."""
    outputs = logits(model, part)
    return (
        functional.cross_entropy(outputs.double(), part.labels).item(),
        (outputs.argmax(1) == part.labels).double().mean().item(),
    )


@torch.no_grad()
def logits(model: nn.Module, part: Part) -> Tensor:
    """(N, classes) on the CPU, computed on the model's device in evaluation mode; the model's mode is restored."""
    training, device = model.training, next(model.parameters()).device
    size = max(min(_BATCH, _PIXELS // part.images[0].numel()), 1)
    model.eval()
    outputs = [model(part.batch(indices).images.to(device)).cpu() for indices in torch.arange(len(part)).split(size)]
    model.train(training)
    return torch.cat(outputs)
