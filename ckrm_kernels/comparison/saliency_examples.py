"""Some images with the gaze on them and the saliency that networks predict: what a page or a figure shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels.data import Part
from ckrm_kernels.models import predicts_saliency
from ckrm_kernels.models.gaze import resized
from ckrm_kernels.storage.files import write_atomically
from ckrm_kernels.training.evaluation import saliency_maps
from ckrm_kernels.training.run_files import as_safetensors
from ckrm_kernels.training.saliency import saliency_scores

_MOST = 4  # images
_SIDE = 160  # pixels, at most, of what is kept


@dataclass(frozen=True, eq=False)
class SaliencyExamples:
    """Images beside gaze and predictions, all (N, h, w) from 0 to 1, small enough to be drawn.

    images: the mean of the channels, between its least and largest value; gaze: over its largest value
    predicted: the probabilities over their largest, for each network by its name
    correlations: Pearson's of prediction and gaze, of each image, by the network's name
    labels: the class of each image
    """

    images: Tensor
    gaze: Tensor
    predicted: dict[str, Tensor]
    correlations: dict[str, tuple[float, ...]]
    labels: tuple[int, ...]


def first_of_each_class(part: Part) -> list[int]:
    """The row of the first image of each class, of the first four classes that there are images of."""
    labels = part.labels.tolist()
    return [labels.index(label) for label in sorted(set(labels))[:_MOST]]


def saliency_examples(networks: Mapping[str, nn.Module], part: Part, rows: Sequence[int]) -> SaliencyExamples:
    """The images in those rows of the part, as the networks, by name, see them.

    Raises ValueError for a network that predicts no saliency, a part without gaze maps, and rows that it has not.
    """
    for name, network in networks.items():
        if not predicts_saliency(network):
            raise ValueError(f"networks must predict saliency, see models.SaliencyMaps; {name} does not")
    if part.gaze is None:
        raise ValueError("part must have gaze maps, got none")
    wrong = [row for row in rows if not 0 <= row < len(part)]
    if wrong or not rows:
        raise ValueError(f"rows must be from 0 to {len(part) - 1}, one at least, got {list(rows)}")
    indices = torch.tensor(rows)
    batch = part.batch(indices)
    assert batch.gaze is not None
    logs = {name: saliency_maps(network, part, indices) for name, network in networks.items()}
    grey = batch.images.mean(1)
    grey = grey - grey.amin((1, 2), keepdim=True)
    return SaliencyExamples(
        _drawn(grey),
        _drawn(resized(batch.gaze, grey.shape[1:])),
        {name: _drawn(each.exp()) for name, each in logs.items()},
        {name: tuple(saliency_scores(each, batch.gaze)[:, 1].tolist()) for name, each in logs.items()},
        tuple(batch.labels.tolist()),
    )


def save_examples(path: Path, examples: SaliencyExamples) -> None:
    """Writes them as one safetensors file, whole or not at all."""
    tensors = {"images": examples.images, "gaze": examples.gaze, "labels": torch.tensor(examples.labels)}
    for name, predicted in examples.predicted.items():
        tensors |= {
            f"predicted.{name}": predicted,
            f"correlations.{name}": torch.tensor(examples.correlations[name], dtype=torch.float64),
        }
    write_atomically(path, as_safetensors(tensors, {"networks": json.dumps(list(examples.predicted))}))


def load_examples(path: Path) -> SaliencyExamples | None:
    """What `save_examples` wrote, None where there is no file; raises ValueError, naming it, where it is damaged."""
    if not path.exists():
        return None
    try:
        return _read(path)
    except OSError:  # which names it
        raise
    except Exception as error:
        cure = "delete it to do without its pictures"
        raise ValueError(f"{path} is damaged ({type(error).__name__}); {cure}") from error


def _read(path: Path) -> SaliencyExamples:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = json.loads(file.metadata()["networks"])
        parts = [f"{part}.{name}" for part in ("predicted", "correlations") for name in names]
        tensors = {name: file.get_tensor(name) for name in ("images", "gaze", "labels", *parts)}
    return SaliencyExamples(
        tensors["images"],
        tensors["gaze"],
        {name: tensors[f"predicted.{name}"] for name in names},
        {name: tuple(tensors[f"correlations.{name}"].tolist()) for name in names},
        tuple(tensors["labels"].tolist()),
    )


def _drawn(maps: Tensor) -> Tensor:
    """Maps (N, H, W) >= 0, no side above the limit, each over its largest value; float32."""
    longest = max(maps.shape[1:])
    if longest > _SIDE:
        size = [max(round(side * _SIDE / longest), 1) for side in maps.shape[1:]]
        maps = functional.interpolate(maps[:, None].float(), size, mode="bilinear", antialias=True)[:, 0]
    maps = maps.float()
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
