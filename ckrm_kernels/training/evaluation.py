"""How well a network classifies, and where it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels.data import Batch, Part
from ckrm_kernels.extras import require
from ckrm_kernels.models import ClassMaps, localization_hits, predicts_saliency
from ckrm_kernels.models.gaze import check_summable
from ckrm_kernels.training.saliency import SaliencyScore, saliency_scores

_BATCH, _PIXELS = 512, 1 << 22  # the most of each at once


@dataclass(frozen=True)
class Score:
    """A classification's quality.

    accuracy: share of the images classified rightly
    auc: area under the ROC curve of each class against the rest, mean of the classes that there are images of
    auc_of_class: that of each class, None of one that there are no images of
    saliency: of a network that predicts it, on images with gaze maps; else None
    """

    accuracy: float
    auc: float
    auc_of_class: tuple[float | None, ...] = ()
    saliency: SaliencyScore | None = None


def evaluate(model: nn.Module, part: Part, classes: int) -> Score:
    """Accuracy, AUCs and, where it predicts saliency, the quality of that; in evaluation mode, its mode is restored.

    Raises ValueError for a part with images of less than two classes, where no AUC is defined, and for gaze maps that
    sum to 0 where saliency is predicted.
    """
    with require("evaluation", "torchmetrics"):
        from torchmetrics.functional.classification import binary_auroc, multiclass_accuracy
    present = part.labels.unique().tolist()  # torchmetrics would count the area of an absent class as 0
    if len(present) < 2:
        raise ValueError(f"part must hold images of at least 2 classes, got {len(present)}")
    probabilities = logits(model, part).softmax(1)
    areas = [binary_auroc(probabilities[:, label], (part.labels == label).long()) for label in present]
    area_of = dict(zip(present, torch.stack(areas).tolist(), strict=True))
    return Score(
        multiclass_accuracy(probabilities, part.labels, classes, average="micro").item(),
        torch.stack(areas).mean().item(),
        tuple(map(area_of.get, range(classes))),
        saliency_score(model, part),
    )


def saliency_score(model: nn.Module, part: Part) -> SaliencyScore | None:
    """How near the predicted saliency is to the gaze, over the part's images; None where there is neither of both."""
    if not predicts_saliency(model) or part.gaze is None:
        return None
    check_summable(part.gaze, "gaze of the part")
    network: Any = model

    def scores(batch: Batch) -> Tensor:
        assert batch.gaze is not None
        return saliency_scores(network.saliency(batch.images), batch.gaze)

    return SaliencyScore(*outputs_of(model, part, torch.arange(len(part)), scores).mean(0).tolist())


def localization(model: nn.Module, part: Part, region_of_class: Mapping[int, int]) -> float | None:
    """Share of the images of those classes whose activation map is highest in the class's region.

    None where the model has no maps or the part no regions.
    """
    inside = torch.tensor([label in region_of_class for label in part.labels.tolist()], dtype=torch.bool)
    if not isinstance(model, ClassMaps) or part.regions is None or not bool(inside.any()):
        return None
    rows = inside.nonzero().flatten()
    network: Any = model
    maps = outputs_of(model, part, rows, lambda batch: network.maps(batch.images))
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
    return outputs_of(model, part, torch.arange(len(part)), lambda batch: model(*batch.inputs))


def saliency_maps(model: nn.Module, part: Part, rows: Tensor) -> Tensor:
    """What the model, one of `models.SaliencyMaps`, predicts for those rows: (N, H, W) on the CPU, as `logits`."""
    network: Any = model
    return outputs_of(model, part, rows, lambda batch: network.saliency(batch.images))


@torch.no_grad()
def outputs_of(
    model: nn.Module,
    part: Part,
    rows: Tensor,
    function: Callable[[Batch], Tensor],
    track: Callable[[Sequence[Tensor]], Iterable[Tensor]] = iter,
) -> Tensor:
    """What the function gives for those rows in batches on the model's device, put together on the CPU.

    The model is in evaluation mode meanwhile; its mode is restored.
    track: wraps the iteration over batches, to show progress
    """
    training, device = model.training, next(model.parameters()).device
    size = max(min(_BATCH, _PIXELS // part.images[0].numel()), 1)
    model.eval()
    outputs = [function(part.batch(indices).to(device)).cpu() for indices in track(rows.split(size))]
    model.train(training)
    return torch.cat(outputs)
