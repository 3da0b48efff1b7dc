"""A network that `ckrm train` or `ckrm search` trained, and images of its own training part to calibrate with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ckrm_kernels.data import DataConfig, Dataset, Part
from ckrm_kernels.data.files import Track, untracked
from ckrm_kernels.data.identity import digest_of_json
from ckrm_kernels.models import whole_pass
from ckrm_kernels.storage.files import read_json
from ckrm_kernels.storage.settings import typed
from ckrm_kernels.training.trained import TrainedNetwork

_CONFIG = "config.json"
_SEED = 0


def data_of(trained: TrainedNetwork, track: Track = untracked, load: Callable[[], Dataset] | None = None) -> Dataset:
    """What a network was trained on.

    track: shows progress where images have to be decoded
    load: gives it where it is not what the run's configuration loads, but made of that
    Raises ValueError where its run does not say so, or the data is no longer what it was.
    """
    path = _config_of(trained.folder)
    config: DataConfig = typed(DataConfig, read_json(path)["data"], f"{path}: data")
    data = config.load(track) if load is None else load()
    if digest_of_json(data.identity) != trained.data_digest:
        raise ValueError(f"{path}: the data in {config.place} is not what it trained on")
    return data


def some_images(part: Part, count: int) -> Tensor:
    """At most so many images of the part, drawn at random, always the same: (N, C, H, W) float32, standardised.

    To calibrate with those of the training part: neither validation nor held-out images are then among them.
    """
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(_SEED))
    return part.batch(order[:count]).images


def example_inputs(model: nn.Module, images: Tensor) -> tuple[tuple[Tensor], dict[str, Any]]:
    """What `plan_shrink` traces the network with: a forward pass that computes all that it predicts.

    images: (B, C, H, W), its input
    """
    return ((images,), whole_pass(model))


def _config_of(folder: Path) -> Path:
    """The configuration of the run or search that a trained network's folder lies in."""
    for each in (folder, *folder.absolute().parents[:3]):
        path = each / _CONFIG
        if path.is_file() and isinstance(value := read_json(path), dict) and isinstance(value.get("data"), dict):
            return path
    raise ValueError(f"{folder}: neither it nor what it lies in holds {_CONFIG}, which says what it was trained on")
