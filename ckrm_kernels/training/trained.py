"""A trained network for use elsewhere: `load`, and what the file of its weights says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ckrm_kernels.data import Dataset
from ckrm_kernels.data.identity import digest_of_json
from ckrm_kernels.models import Network
from ckrm_kernels.models.kinds import described_network
from ckrm_kernels.storage.run_folders import WEIGHTS, finished_run
from ckrm_kernels.training.run_files import load_metadata, load_weights
from ckrm_kernels.training.transform import Transform
from ckrm_kernels.version import __version__


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network, with what is needed to use it. It unpacks into `model` and `transform`.

    model: in evaluation mode, (N, C, H, W) float32 standardised -> logits (N, classes)
    transform: makes that input of raw images
    classes: the names, in the order of the logits; image_shape: (C, H, W)
    network: the description that built the model
    data, data_digest: the name of what it was trained on, and what tells that from other data; seed: of the training
    folder: where it was loaded from
    """

    model: nn.Module
    transform: Transform
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    network: Network
    data: str
    data_digest: str
    seed: int
    folder: Path

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.transform))


def load(
    folder: str | Path, *, which: str | None = None, seed: int | None = None, device: str | torch.device = "cpu"
) -> TrainedNetwork:
    """The trained network that a run left in a folder: `model, transform = load("runs/search")`.

    folder: of `ckrm search`, of `ckrm train`, or of one seed within
    which: of a search, one of those compared, such as "standard"; by default the one that it ended with
    seed: by default the first
    device: where the model is put
    Raises FileNotFoundError or ValueError where there is no such network, or its files are damaged; ValueError for a
    device that torch does not know.
    """
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device must be one of torch's, such as cpu or cuda:0, got {device!r}") from None
    run = finished_run(folder, which, seed)
    metadata = load_metadata(run)
    if "mean" not in metadata:
        raise ValueError(
            f"{run / WEIGHTS} does not say how its inputs are standardised: an earlier version of ckrm_kernels wrote "
            "it; train the network anew in another folder"
        )
    network = described_network(json.loads(metadata["network"]), str(run))
    model = network.build()
    load_weights(run, model)
    shape = tuple(json.loads(metadata["image_shape"]))
    mean, deviation = (tuple(json.loads(metadata[name])) for name in ("mean", "deviation"))
    return TrainedNetwork(
        model=model.to(device),
        transform=Transform(shape, mean, deviation, metadata["pixels"], fits=metadata["data"] == "folder"),
        classes=tuple(json.loads(metadata["classes"])),
        image_shape=shape,
        network=network,
        data=metadata["data"],
        data_digest=metadata["data_digest"],
        seed=int(metadata["seed"]),
        folder=run,
    )


def metadata_of(network: dict[str, Any], data: Dataset, seed: int) -> dict[str, str]:
    """What the file of a trained network's weights says of it: texts, those of lists and tables JSON.

    network: the settings of its description, with its kind
    """
    channels, standardization = data.image_shape[0], data.standardization
    mean, deviation = ([0.0] * channels, [1.0] * channels)
    if standardization is not None:
        mean, deviation = list(standardization.mean), list(standardization.deviation)
    raw = data.train.images.dtype == torch.uint8
    return {
        "format": "pt",
        "ckrm_kernels": __version__,
        "network": json.dumps(network),
        "classes": json.dumps(data.names_of_classes),
        "image_shape": json.dumps(data.image_shape),
        "pixels": "uint8" if raw else "float32",
        "mean": json.dumps(mean),
        "deviation": json.dumps(deviation),
        "data": data.name,
        "data_digest": digest_of_json(data.identity),
        "seed": str(seed),
    }
