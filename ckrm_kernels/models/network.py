"""What a network is to training and to the search for widths: a description that builds it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from typing_extensions import Self

    from ckrm_kernels.data import Batch, Dataset


class WidthTies(Protocol):
    """Which layers share a width, and which widths a stage. Names of layers are those of `nn.Module.named_modules`."""

    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Every width that can be chosen, by name, in the order of the layers."""

    @abstractmethod
    def width_of_layer(self) -> dict[str, str]:
        """For each layer whose filters a width counts, by its name, the name of the width: equal names are tied."""

    @abstractmethod
    def stage_of_width(self) -> dict[str, str]:
        """For each width, by its name, the name of its stage: a rule may give all widths of a stage one value."""


class Network(WidthTies, Protocol):
    """A network's description: a frozen dataclass of plain values, each with a default.

    kind: says in configurations and saved runs which class it is: a field with init=False and, for a class outside this
        package, the default "module:Class" by which other processes import it
    A class that derives from this one has cross entropy for its loss, of any training.
    """

    @property
    def kind(self) -> str:
        """The same for all networks of the class."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, images (N, C, H, W) -> logits (N, classes), newly initialised by torch's default generator."""

    @abstractmethod
    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """The same network with the widths named changed; raises ValueError for an unknown name."""

    @abstractmethod
    def adapted_to(self, data: Dataset) -> Self:
        """The network for the data's channels and classes; raises ValueError where it can't be trained on the data."""

    def check_training(self, training: TrainingChoices) -> None:
        """Raises ValueError where the network can't be trained so."""
        return  # without which mypy takes it for abstract

    def loss(
        self, model: nn.Module, batch: Batch, class_weights: Tensor | None, label_smoothing: float = 0.0
    ) -> Tensor:
        """The mean loss of a batch, a scalar to make small.

        model: one that `build` gave; batch: on its device
        class_weights: (classes,), None weighs all alike
        label_smoothing: the share of each label that all classes have alike; a class may leave this argument out, and
            its networks are then trained without smoothing alone
        """
        return cross_entropy(model, batch, class_weights, label_smoothing)


class TrainingChoices(Protocol):
    """What a network may refuse of a training."""

    @property
    def balance_classes(self) -> bool:
        """Whether the loss is given weights of the classes."""

    @property
    def precision(self) -> str:
        """Of the convolutions: "float32", "bfloat16" or "float16"."""

    @property
    def label_smoothing(self) -> float:
        """The share of each label that all classes have alike."""


@runtime_checkable
class ClassMaps(Protocol):
    """A built network that shows where it sees each class."""

    def maps(self, images: Tensor) -> Tensor:
        """images (N, C, H, W) -> activation maps (N, classes, h, w)."""


@runtime_checkable
class SaliencyMaps(Protocol):
    """A built network that also predicts where a reader looks.

    Its `forward` takes `with_saliency=True`, too, and then gives the logits and that map.
    """

    def saliency(self, images: Tensor) -> Tensor:
        """images (N, C, H, W) -> the logarithm of each pixel's probability (N, H, W); those of an image sum to 1."""


def predicts_saliency(model: nn.Module) -> bool:
    """Whether a built network is one of `SaliencyMaps`, by its methods and the arguments of its `forward`."""
    return isinstance(model, SaliencyMaps) and "with_saliency" in signature(model.forward).parameters


def whole_pass(model: nn.Module) -> dict[str, Any]:
    """Keyword arguments of a built network's forward pass with which it computes all that it predicts."""
    return {"with_saliency": True} if predicts_saliency(model) else {}


def cross_entropy(model: nn.Module, batch: Batch, class_weights: Tensor | None, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of the logits of a batch.

    class_weights: (classes,), None weighs all alike
    label_smoothing: the share of each label that all classes have alike, in [0, 1)
    """
    logits = model(*batch.inputs)
    return functional.cross_entropy(logits, batch.labels, class_weights, label_smoothing=label_smoothing)
