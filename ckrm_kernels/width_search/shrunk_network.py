"""The description of a network that shrinking made of another: the other's, and what stays of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ckrm_kernels.models import AnyNetwork, Network, network_shape, without_memory
from ckrm_kernels.models.network import TrainingChoices
from ckrm_kernels.shrinking.surgery import Kept, cut_in_place

if TYPE_CHECKING:
    from ckrm_kernels.data import Batch, Dataset


@dataclass(frozen=True)
class ShrunkNetwork(Network):
    """A network without some of its filters, each layer with a width of its own.

    original: the whole network; kept: for each tensor that loses anything, and each dimension that does, the ascending
        indices that stay, as JSON holds them
    It can be built, loaded and trained, but not searched: its widths are those that were kept.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: str = field(default=f"{__name__}:ShrunkNetwork", init=False)
    original: AnyNetwork = field(default_factory=partial(network_shape, "resnet-paper-digits"))
    kept: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, original: Network, kept: Kept) -> ShrunkNetwork:
        """The network of what `shrinking.surgery.kept_indices` gives."""
        return cls(original, {name: {str(dim): list(each) for dim, each in of.items()} for name, of in kept.items()})

    def widths(self) -> dict[str, int]:
        """The filters of each layer whose filters a width of the original counts, by the layer's name."""
        filters = dict(without_memory(self).named_parameters())
        return {layer: len(filters[f"{layer}.weight"]) for layer in self.original.width_of_layer()}

    def width_of_layer(self) -> dict[str, str]:
        """Each layer has its own."""
        return {layer: layer for layer in self.original.width_of_layer()}

    def stage_of_width(self) -> dict[str, str]:
        """That of the original's width."""
        stages = self.original.stage_of_width()
        return {layer: stages[width] for layer, width in self.original.width_of_layer().items()}

    def build(self) -> nn.Module:
        """A newly initialised original, cut."""
        model = self.original.build()
        cut_in_place(model, {name: {int(dim): each for dim, each in of.items()} for name, of in self.kept.items()})
        return model

    def with_widths(self, widths: Mapping[str, int]) -> ShrunkNetwork:
        """The same network; raises ValueError for other widths than its own."""
        if dict(widths) != self.widths():
            raise ValueError("the widths of a shrunk network are those that were kept: search those of its original")
        return self

    def adapted_to(self, data: Dataset) -> ShrunkNetwork:
        """What stays of the original for the data's channels and classes."""
        return replace(self, original=self.original.adapted_to(data))

    def check_training(self, training: TrainingChoices) -> None:
        """As the original does."""
        self.original.check_training(training)

    def loss(
        self, model: nn.Module, batch: Batch, class_weights: Tensor | None, label_smoothing: float = 0.0
    ) -> Tensor:
        """That of the original."""
        smoothing = {"label_smoothing": label_smoothing} if label_smoothing else {}
        return self.original.loss(model, batch, class_weights, **smoothing)
