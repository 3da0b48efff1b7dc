"""The networks that have a name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ckrm_kernels.models.mt_unet import MTUNetShape, mt_unet_shape
from ckrm_kernels.models.network import Network
from ckrm_kernels.models.resnet import HeadName, ResNetShape, resnet_shape
from ckrm_kernels.models.three_convolutions import ThreeConvolutions
from ckrm_kernels.models.vgnet import SIZES, VARIANTS, VariantName, VGNetShape, vgnet_shape


@dataclass(frozen=True)
class NamedNetwork:
    """A network by its name, and what it is in one line."""

    name: str
    description: str
    network: Network


def _of_the_paper(widths: tuple[int, ...], head: HeadName = "linear") -> ResNetShape:
    return resnet_shape(50, form="paper", in_channels=1, classes=3, widths=widths, head=head)


def _vgnets() -> Iterator[NamedNetwork]:
    """VGNetG of every size, all variants of the size that the paper compares them at, and those for small images."""
    for size in SIZES:
        plain = vgnet_shape("g", size)
        yield NamedNetwork(f"vgnetg-{size}", "VGNet with fixed blurs where it downsamples", plain)
        yield NamedNetwork(
            f"vgnetg-{size}-se", f"vgnetg-{size} with squeeze-and-excitation", replace(plain, squeeze=True)
        )
    yield NamedNetwork("vgnetg-1.0mp-silu", "vgnetg-1.0mp with SiLU", vgnet_shape("g", "1.0mp", activation="silu"))
    for variant, what in _VARIANTS.items():
        yield NamedNetwork(f"vgnet{variant}-1.5mp", f"VGNet, {what}", vgnet_shape(variant, "1.5mp"))
    for size in SIZES:
        network = vgnet_shape("g", size, form="cifar", classes=100)
        yield NamedNetwork(f"vgnetg-{size}-cifar", f"vgnetg-{size} for small images", network)
    for variant in VARIANTS:
        network = VGNetShape(16, (32, 64, 128), (2, 3, 2), 1, 10, variant, "cifar")
        yield NamedNetwork(f"vgnet{variant}-small", f"the form of vgnet{variant} for small images, narrow", network)


_VARIANTS: dict[VariantName, str] = {
    "c": "all kernels learnable",
    "f1": "6 edge detectors and 2 blurs for kernels, but for the last",
    "f2": "6 edge detectors and 2 blurs for kernels",
    "f3": "4 edge detectors for kernels, but for the last",
    "f4": "4 edge detectors for kernels",
}
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
    *_vgnets(),
    NamedNetwork(
        "mt-unet", "MT-UNet, class and saliency of chest X-rays; one parameter is its loss's", mt_unet_shape()
    ),
    NamedNetwork("mt-unet-small", "MT-UNet of three narrow levels, for small images with gaze maps", MTUNetShape()),
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
