"""Networks that lack something, and one that has no more than it must."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from plain_network import PlainModel, PlainNetwork
from torch import nn

from ckrm_kernels.models import Network


@dataclass(frozen=True)
class Pointwise(PlainNetwork):
    """With a width of a 1x1 convolution alone."""

    kind: str = field(default="odd_networks:Pointwise", init=False)

    def build(self) -> PlainModel:
        model = super().build()
        model.out = nn.Conv2d(self.body, self.tail, 1)
        return model


@dataclass(frozen=True)
class Misnamed(PlainNetwork):
    """Its ties name a layer that is not there."""

    kind: str = field(default="odd_networks:Misnamed", init=False)

    def width_of_layer(self) -> dict[str, str]:
        return {**super().width_of_layer(), "three": "body"}


@dataclass(frozen=True)
class WithoutKind(PlainNetwork):
    pass


@dataclass(frozen=True)
class WithoutDefault(PlainNetwork):
    kind: str = field(default="odd_networks:WithoutDefault", init=False)
    depth: int = field(kw_only=True)


@dataclass(frozen=True)
class Unfinished:
    kind: str = field(default="odd_networks:Unfinished", init=False)

    def build(self) -> nn.Module:
        return nn.Identity()

    def widths(self) -> dict[str, int]:
        return {}


@dataclass(frozen=True)
class Flat(Network):
    """A linear layer: without widths, and with the loss and the trainings of every network."""

    kind: str = field(default="odd_networks:Flat", init=False)
    size: int = 4
    classes: int = 3

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(self.size, self.classes))

    def widths(self) -> dict[str, int]:
        return {}

    def with_widths(self, widths: Mapping[str, int]) -> Flat:
        return self

    def width_of_layer(self) -> dict[str, str]:
        return {}

    def stage_of_width(self) -> dict[str, str]:
        return {}

    def adapted_to(self, data) -> Flat:
        return replace(self, size=torch.Size(data.image_shape).numel(), classes=data.classes)
