"""The networks that have a name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ckrm_kernels.models.resnet import HeadName, ResNetShape, resnet_shape


@dataclass(frozen=True)
class Network:
    """A network by its name, what it is in one line, and its shape."""

    name: str
    description: str
    shape: ResNetShape


def _of_the_paper(widths: tuple[int, ...], head: HeadName = "linear") -> ResNetShape:
    return resnet_shape(50, form="paper", in_channels=1, classes=3, widths=widths, head=head)


_STANDARD, _OPTIMIZED = (64, 64, 128, 256, 512), (16, 16, 32, 24, 18)
_ALL = (
    Network("resnet50-standard", "ResNet50 as the CKRM paper has it", _of_the_paper(_STANDARD)),
    Network("resnet50-optimized", "resnet50-standard with the widths that the paper found", _of_the_paper(_OPTIMIZED)),
    Network("resnet50-standard-ggcam", "resnet50-standard with GG-CAM", _of_the_paper(_STANDARD, "gg-cam")),
    Network("resnet50-optimized-ggcam", "resnet50-optimized with GG-CAM", _of_the_paper(_OPTIMIZED, "gg-cam")),
    *(
        Network(
            f"resnet{depth}",
            "the usual one; torchvision's state dicts load",
            resnet_shape(depth, form="torchvision", in_channels=3, classes=1000),
        )
        for depth in (18, 34, 50, 101, 152)
    ),
    Network("resnet-digits", "basic blocks for 8x8 digits, too wide for them; `ckrm demo` shrinks it", ResNetShape()),
    Network(
        "resnet-paper-digits",
        "bottlenecks in the paper's form for 8x8 digits, too wide for them",
        ResNetShape(32, ((24, 24), (48, 48), (96, 96)), None, block="bottleneck", form="paper-small"),
    ),
)
NETWORKS: dict[str, Network] = {network.name: network for network in _ALL}


def network_shape(name: str, in_channels: int | None = None, classes: int | None = None) -> ResNetShape:
    """The shape of a named network, for other images or classes where they are given.

    Raises ValueError, with the names there are, for an unknown one.
    """
    if name not in NETWORKS:
        raise ValueError(f"name must be one of {', '.join(NETWORKS)}, got {name!r}")
    shape = NETWORKS[name].shape
    return replace(
        shape,
        in_channels=shape.in_channels if in_channels is None else in_channels,
        classes=shape.classes if classes is None else classes,
    )
