"""How well a network classifies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ckrm_kernels.data import Part

_BATCH = 512


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


def accuracy(model: nn.Module, part: Part) -> float:
    """Share of the part's images classified rightly."""
    return (logits(model, part).argmax(1) == part.labels).double().mean().item()


@torch.no_grad()
def logits(model: nn.Module, part: Part) -> Tensor:
    """(N, classes), computed in evaluation mode; the model's mode is restored."""
    training = model.training
    model.eval()
    outputs = torch.cat([model(images) for images in part.images.split(_BATCH)])
    model.train(training)
    return outputs
