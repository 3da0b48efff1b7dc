"""What is measured of each layer of a network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from networks import Trained

from ckrm_kernels.layers import Layer
from ckrm_kernels.measurement import measure_layers
from ckrm_kernels.patterns.matching import match_layers
from ckrm_kernels.patterns.result import PatternReport
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
    """A layer. depth: its place among the network's spatial convolutions, from 0 to 1; of_chance: near to a pattern

    lambda^0.6 and its chance level, distinct are scale-free; dead filters; shares of the spatial kernels
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
            )
        )
    return rows, patterns


def columns() -> list[str]:
    """Of a row."""
    return [field.name for field in fields(Row)]


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
