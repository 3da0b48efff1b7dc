"""A network from outside the package: convolutions in a row, one of them repeated, with a loss of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels.models import Network


@dataclass(frozen=True)
class PlainNetwork(Network):
    """Widths "head", "body", which two layers share and which a sum ties, and "tail"; body and tail are one stage."""

    kind: str = field(default="plain_network:PlainNetwork", init=False)
    head: int = 6
    body: int = 8
    tail: int = 8
    in_channels: int = 3
    classes: int = 7

    def __post_init__(self) -> None:
        for name, width in self.widths().items():
            if width < 1:
                raise ValueError(f"{name} must be >= 1, got {width}")

    def build(self) -> PlainModel:
        return PlainModel(self)

    def widths(self) -> dict[str, int]:
        return {"head": self.head, "body": self.body, "tail": self.tail}

    def with_widths(self, widths: Mapping[str, int]) -> PlainNetwork:
        unknown = sorted(set(widths) - set(self.widths()))
        if unknown:
            raise ValueError(f"widths has unknown names {unknown}; accepted are {sorted(self.widths())}")
        return replace(self, **widths)

    def width_of_layer(self) -> dict[str, str]:
        return {"in": "head", "one": "body", "two": "body", "out": "tail"}

    def stage_of_width(self) -> dict[str, str]:
        return {"head": "early", "body": "late", "tail": "late"}

    def adapted_to(self, data) -> PlainNetwork:
        if data.image_shape[1] < 8:
            raise ValueError(f"images must be of at least 8 rows, got {data.image_shape[1]}")
        return replace(self, in_channels=data.image_shape[0], classes=data.classes)

    def check_training(self, training) -> None:
        if training.precision != "float32":
            raise ValueError(f"training.precision must be float32 for a plain network, got {training.precision}")

    def loss(self, model, batch, class_weights) -> Tensor:
        """The Brier score: at most 2, and 0.9 where all of 10 classes are equally likely."""
        wanted = functional.one_hot(batch.labels, self.classes)
        distance = (model(batch.images).softmax(1) - wanted).square().sum(1)
        return (distance if class_weights is None else distance * class_weights[batch.labels]).mean()


class PlainModel(nn.Module):
    def __init__(self, network: PlainNetwork) -> None:
        super().__init__()
        self.add_module("in", nn.Conv2d(network.in_channels, network.head, 3, 2, padding=1))
        self.one = nn.Conv2d(network.head, network.body, 3, padding=1)
        self.two = nn.Conv2d(network.body, network.body, 3, padding=1)
        self.out = nn.Conv2d(network.body, network.tail, 3, padding=1)
        self.logits = nn.Linear(network.tail, network.classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.one(self.get_submodule("in")(images).relu()).relu()
        features = self.out((features + self.two(features)).relu()).relu()
        return self.logits(features.mean((2, 3)))
