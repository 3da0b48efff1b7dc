"""What is measured of each layer of a network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import torch
from networks import Trained

from ckrm_kernels.layers import Layer
from ckrm_kernels.measurement import measure_layers
from ckrm_kernels.patterns.bank import GAUSSIAN, NEGATIVE, OFF_CENTRE, family_of
from ckrm_kernels.patterns.matching import match_layers
from ckrm_kernels.patterns.result import LayerPatterns, PatternReport
from ckrm_kernels.similarity import Similarity

THRESHOLD = 0.6
KINDS = (
    "depthwise, strided",
    "depthwise, last",
    "depthwise, others",
    "first, of up to 3 channels",
    "of one channel's lines",
    "others",
)


@dataclass(frozen=True)
class Row:
    """A layer.

    depth: its place among the network's spatial convolutions, from 0 to 1
    redundancy, chance, distinct: lambda^0.6, its chance level and the distinct filters, scale-free; dead: filters
    identity to none: shares of the spatial kernels; by_chance: near to any pattern with their positions permuted
    centred, off_centre: shares near to a Gaussian in the middle, and half a position from it; down, right: where the
        centre of the absolute values of the blurs lies from the middle, in positions, their median; 0 without blurs
    """

    network: str
    package: str
    layer: str
    kind: str
    shape: str
    stride: int
    depth: float
    redundancy: float
    chance: float
    distinct: float
    finding: str
    dead: float
    identity: float
    blur: float
    edge: float
    zero: float
    none: float
    by_chance: float
    mostly: str
    centred: float
    off_centre: float
    down: float
    right: float


def rows_of(network: Trained) -> tuple[list[Row], PatternReport]:
    """A row for each spatial convolution, and what its kernels look like."""
    layers, strides = network.layers()
    spatial = [layer for layer in layers if layer.shape and len(layer.shape) > 2 and max(layer.shape[2:]) > 1]
    report = measure_layers([spatial], THRESHOLD, "skip", Similarity(scale_free=True), patterns=True)
    patterns = match_layers(spatial)
    depthwise = [layer.name for layer in spatial if _is_depthwise(layer)]
    rows = []
    for place, (layer, found, of) in enumerate(zip(spatial, report.layers, patterns.layers, strict=True)):
        assert layer.shape is not None
        assert found.patterns is not None
        stride = strides.get(layer.name, 1)
        rows.append(
            Row(
                network.name,
                network.package,
                layer.name,
                _kind(layer, stride, layer.name == (depthwise or [""])[-1]),
                "x".join(map(str, layer.shape)),
                stride,
                place / max(len(spatial) - 1, 1),
                found.redundancy or 0.0,
                found.chance or 0.0,
                found.distinct or 0.0,
                found.finding or "",
                found.dead or 0.0,
                **{name: value for name, value in asdict(found.patterns).items() if name != "chance"},
                by_chance=found.patterns.chance,
                mostly=of.most_frequent,
                centred=_of_either_sign(of, GAUSSIAN),
                off_centre=_of_either_sign(of, OFF_CENTRE),
                **_centre(layer, of, patterns.names),
            )
        )
    return rows, patterns


def columns() -> list[str]:
    """Of a row."""
    return [field.name for field in fields(Row)]


def _of_either_sign(layer: LayerPatterns, name: str) -> float:
    assert layer.shares is not None
    return layer.shares[name] + layer.shares[NEGATIVE + name]


def _centre(layer: Layer, found: LayerPatterns, names: tuple[str, ...]) -> dict[str, float]:
    assert found.places is not None
    blurs = [place for place, name in enumerate(names) if family_of(name) == "blur"]
    kernels = torch.cat([bank.flatten(0, 1) for bank in layer.banks])[
        torch.isin(found.places.flatten(), torch.tensor(blurs))
    ]
    if kernels.dim() != 3 or not len(kernels):
        return {"down": 0.0, "right": 0.0}
    weights = kernels.detach().double().abs()
    weights /= weights.sum((1, 2), keepdim=True)
    middles = [torch.arange(size) - (size - 1) / 2 for size in weights.shape[1:]]
    down, right = ((weights.sum(3 - axis) * middles[axis - 1]).sum(1).median().item() for axis in (1, 2))
    return {"down": down, "right": right}


def _kind(layer: Layer, stride: int, is_last: bool) -> str:
    assert layer.shape is not None
    if _is_depthwise(layer):
        return KINDS[0] if stride > 1 else KINDS[1] if is_last else KINDS[2]
    if layer.shape[1] <= 3:
        return KINDS[3] if sum(size > 1 for size in layer.shape[2:]) > 1 else KINDS[4]
    return KINDS[5]


def _is_depthwise(layer: Layer) -> bool:
    """By its groups, or, of a state dict, by its single slice behind more than one channel."""
    return "depthwise" in layer.note
