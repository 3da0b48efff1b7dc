"""The networks that have a name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ckrm_kernels.models.network import Network
from ckrm_kernels.models.resnet import HeadName, ResNetShape, resnet_shape
from ckrm_kernels.models.three_convolutions import ThreeConvolutions


@dataclass(frozen=True)
class NamedNetwork:
    """A network by its name, and what it is in one line."""

    name: str
    description: str
    network: Network


def _of_the_paper(widths: tuple[int, ...], head: HeadName = "linear") -> ResNetShape:
    return resnet_shape(50, form="paper", in_channels=1, classes=3, widths=widths, head=head)


_STANDARD, _OPTIMIZED = (64, 64, 128, 256, 512), (16, 16, 32, 24, 18)
_ALL = (
    NamedNetwork("resnet50-standard", "ResNet50 as the CKRM paper has it", _of_the_paper(_STANDARD)),
    NamedNetwork(
        "resnet50-optimized", "resnet50-standard with the widths that the paper found", _of_the_paper(_OPTIMIZED)
    ),
    NamedNetwork("resnet50-standard-ggcam", "resnet50-standard with GG-CAM", _of_the_paper(_STANDARD, "gg-cam")),
    NamedNetwork("resnet50-optimized-ggcam", "resnet50-optimized with GG-CAM", _of_the_paper(_OPTIMIZED, "gg-cam")),
    *(
        NamedNetwork(
            f"resnet{depth}",
            "the usual one; torchvision's state dicts load",
            resnet_shape(depth, form="torchvision", in_channels=3, classes=1000),
        )
        for depth in (18, 34, 50, 101, 152)
    ),
    NamedNetwork(
        "resnet-digits", "basic blocks for 8x8 digits, too wide for them; `ckrm demo` narrows it", ResNetShape()
    ),
    NamedNetwork(
        "resnet-paper-digits",
        "bottlenecks in the paper's form for 8x8 digits, too wide for them",
        ResNetShape(32, ((24, 24), (48, 48), (96, 96)), None, block="bottleneck", form="paper-small"),
    ),
    NamedNetwork(
        "three-convolutions", "CNN 1 of layer elimination, for 28x28 images; `ckrm eliminate`", ThreeConvolutions()
    ),
)
NETWORKS: dict[str, NamedNetwork] = {each.name: each for each in _ALL}


def network_shape(name: str, in_channels: int | None = None, classes: int | None = None) -> Network:
    """A named network, for other images or classes where they are given.

    Raises ValueError, with the names there are, for an unknown one.
    """
    if name not in NETWORKS:
        raise ValueError(f"name must be one of {', '.join(NETWORKS)}, got {name!r}")
    network: Any = NETWORKS[name].network
    given = {"in_channels": in_channels, "classes": classes}
    changed: Network = replace(network, **{field: value for field, value in given.items() if value is not None})
    return changed
