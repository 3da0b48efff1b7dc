"""How well a network classifies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels.data import Part
from ckrm_kernels.extras import require
from ckrm_kernels.models import ClassMaps, localization_hits

_BATCH, _PIXELS = 512, 1 << 24  # the most of each at once


@dataclass(frozen=True)
class Score:
    """A classification's quality.

    accuracy: share of the images classified rightly
    auc: area under the ROC curve of each class against the rest, mean of the classes that there are images of
    """

    accuracy: float
    auc: float


def evaluate(model: nn.Module, part: Part, classes: int) -> Score:
    """Accuracy and macro AUC of the model in evaluation mode; its mode is restored.

    Raises ValueError for a part with images of less than two classes, where no AUC is defined.
    """
    with require("evaluation", "torchmetrics"):
        from torchmetrics.functional.classification import binary_auroc, multiclass_accuracy
    present = part.labels.unique().tolist()  # torchmetrics would count the area of an absent class as 0
    if len(present) < 2:
        raise ValueError(f"part must hold images of at least 2 classes, got {len(present)}")
    probabilities = logits(model, part).softmax(1)
    areas = [binary_auroc(probabilities[:, label], (part.labels == label).long()) for label in present]
    return Score(
        multiclass_accuracy(probabilities, part.labels, classes, average="micro").item(),
        torch.stack(areas).mean().item(),
    )


def localization(model: nn.Module, part: Part, region_of_class: Mapping[int, int]) -> float | None:
    """Share of the images of those classes whose activation map is highest in the class's region.

    None where the model has no maps or the part no regions.
    """
    inside = torch.tensor([label in region_of_class for label in part.labels.tolist()], dtype=torch.bool)
    if not isinstance(model, ClassMaps) or part.regions is None or not bool(inside.any()):
        return None
    rows = inside.nonzero().flatten()
    maps = _outputs(model, part, rows, model.maps)
    regions = functional.interpolate(part.regions[rows].float(), maps.shape[2:], mode="nearest-exact") > 0.5
    return localization_hits(maps, part.labels[rows], regions, region_of_class).double().mean().item()


def loss_and_accuracy(model: nn.Module, part: Part) -> tuple[float, float]:
    """Mean cross entropy over the part's images, and the share of them classified rightly."""
    outputs = logits(model, part)
    return (
        functional.cross_entropy(outputs.double(), part.labels).item(),
        (outputs.argmax(1) == part.labels).double().mean().item(),
    )


def logits(model: nn.Module, part: Part) -> Tensor:
    """(N, classes) on the CPU, computed on the model's device in evaluation mode; the model's mode is restored."""
    return _outputs(model, part, torch.arange(len(part)), model)


@torch.no_grad()
def _outputs(model: nn.Module, part: Part, rows: Tensor, function: Callable[..., Tensor]) -> Tensor:
    """What the function, one of the model's, gives for the images of those rows, in evaluation mode."""
    training, device = model.training, next(model.parameters()).device
    size = max(min(_BATCH, _PIXELS // part.images[0].numel()), 1)
    model.eval()
    outputs = []
    for indices in rows.split(size):
        inputs = [each.to(device) for each in part.batch(indices).inputs]
        outputs.append(function(*inputs).cpu())
    model.train(training)
    return torch.cat(outputs)
