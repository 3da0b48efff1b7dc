"""Stands in for `checkpoints.read_checkpoints` and `measurement`'s seams until they are there; to be deleted then."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ckrm_kernels import measurement
from ckrm_kernels.layers import Layer
from ckrm_kernels.report import RedundancyReport
from ckrm_kernels.report.result import Source
from ckrm_kernels.state_dicts import checkpoint_layers
from ckrm_kernels.version import __version__


@dataclass(frozen=True)
class Checkpoint:
    """As in `checkpoints`."""

    layers: tuple[Layer, ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...]


def read_checkpoints(paths: Any, *, weights: Any = None, like: Any = None, track: Any = iter) -> list[Checkpoint]:
    """As in `checkpoints`."""
    return [Checkpoint(tuple(checkpoint_layers(path)), (_source(path),), ()) for path in track(paths)]


def structure_of(layers: Any) -> Hashable:
    """As in `measurement`."""
    return tuple(sorted((layer.name, layer.kind, layer.shape or layer.note) for layer in layers))


def measure_layers(
    models: Any, threshold: Any, pointwise: Any, options: Any, track: Any = iter, *, sources: Any = (), notes: Any = ()
) -> RedundancyReport:
    """As in `measurement`."""
    report = measurement.measure_layers(models, threshold, pointwise, options, track=track)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    versions = {"ckrm_kernels": __version__, "torch": torch.__version__}
    return replace(
        report, pointwise=pointwise, sources=tuple(sources), notes=tuple(notes), created=created, versions=versions
    )


def _source(path: Path) -> Source:
    content = path.read_bytes()
    return Source(str(path), len(content), hashlib.sha256(content).hexdigest())
