"""GG-CAM: class activation maps in place of pooling and linear layer, trained to look where a reader looked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels.models.gaze import check_batch, resized, weighed_by_uncertainty
from ckrm_kernels.models.network import TrainingChoices
from ckrm_kernels.whole_numbers import whole_number

if TYPE_CHECKING:
    from ckrm_kernels.data import Batch, Dataset


class CAMHead(nn.Module):
    """Class activation maps, and logits that are their means. It has the parameters of a linear layer.

    weight: (classes, channels), bias: (classes,), both uniform within +-1 / sqrt(channels) at first
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        channels, classes = whole_number("channels", channels), whole_number("classes", classes)
        self.weight = nn.Parameter(torch.empty(classes, channels))
        self.bias = nn.Parameter(torch.empty(classes))
        bound = 1 / math.sqrt(channels)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def maps(self, features: Tensor) -> Tensor:
        """features (N, channels, h, w) -> maps (N, classes, h, w): of w[k, c] * features[c], the mean over c."""
        channels = self.weight.shape[1]
        if features.dim() != 4 or features.shape[1] != channels:
            raise ValueError(f"features must be (N, {channels}, h, w), got {tuple(features.shape)}")
        return functional.conv2d(features, (self.weight / channels)[:, :, None, None])

    def logits(self, maps: Tensor) -> Tensor:
        """maps (N, classes, h, w) -> logits (N, classes): the mean of each map, and the bias."""
        return maps.mean((2, 3)) + self.bias

    def forward(self, features: Tensor) -> Tensor:
        """features (N, channels, h, w) -> logits (N, classes)."""
        return self.logits(self.maps(features))


class GazeLoss(nn.Module):
    """Cross entropy, and how far the true class's map is from the gaze map, weighed by three trained scalars.

    CE / sc^2 + ln(sc + 1) + MSE(sigmoid(kappa * map of the true class), gaze) / (2 sd^2) + ln(sd + 1)

    The parameters are ln_sc, ln_sd and ln_kappa, at first 7, -23 and 0 as published. So at first the mean square error
    counts 5e19 times and the cross entropy 8e-7 times: the maps come first, the classes as the scalars find their
    balance. This asks for an optimiser whose steps do not grow with the loss, such as Adam: each step then moves a
    scalar by at most about the learning rate. Gradients are finite in float32, but not in float16 or under its
    autocast, and their norm may overflow float32: clipping by it would then set all of them to 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ln_sc = nn.Parameter(torch.tensor(7.0))
        self.ln_sd = nn.Parameter(torch.tensor(-23.0))
        self.ln_kappa = nn.Parameter(torch.tensor(0.0))

    def forward(self, logits: Tensor, maps: Tensor, labels: Tensor, gaze: Tensor) -> Tensor:
        """The loss, a scalar of at least float32.

        logits: (N, classes); maps: (N, classes, h, w); labels: (N,) int64
        gaze: (N, H, W) in [0, 1], floating point; resized to (h, w) where it differs
        """
        _check_maps(maps, labels)
        check_batch(gaze, maps, "maps")
        dtype = torch.promote_types(maps.dtype, torch.float32)
        seen = resized(gaze.to(dtype), maps.shape[2:])
        looked = torch.sigmoid(self.ln_kappa.exp() * _of_true_class(maps, labels).to(dtype))
        classes = weighed_by_uncertainty(functional.cross_entropy(logits.to(dtype), labels), self.ln_sc)
        return classes + weighed_by_uncertainty(functional.mse_loss(looked, seen) / 2, self.ln_sd)


class GGCAM(nn.Module):
    """Any network whose features are spatial, with maps for a head and a loss that knows where a reader looked.

    features: a module, images -> (N, channels, h, w); its parameters are named "features.*", the head's "head.*", the
        loss's three "gaze_loss.*"
    """

    def __init__(self, features: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.head = CAMHead(channels, classes)
        self.gaze_loss = GazeLoss()

    def forward(self, images: Tensor) -> Tensor:
        """images -> logits (N, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def maps(self, images: Tensor) -> Tensor:
        """images -> class activation maps (N, classes, h, w)."""
        return self.head.maps(self.features(images))

    def loss(self, images: Tensor, labels: Tensor, gaze: Tensor) -> Tensor:
        """The loss to train with, a scalar; see `GazeLoss`.

        labels: (N,) int64; gaze: (N, H, W) in [0, 1], of any size
        """
        maps = self.maps(images)
        loss: Tensor = self.gaze_loss(self.head.logits(maps), maps, labels, gaze)
        return loss


def check_data(data: Dataset) -> None:
    """Raises ValueError where the data has no gaze maps to train with."""
    if data.train.gaze is None:
        raise ValueError(f"network.head must be linear for {data.name}, which has no gaze maps, got gg-cam")


def check_training(training: TrainingChoices) -> None:
    """Raises ValueError for what the loss does not take: weights of the classes, smoothed labels, and float16."""
    if training.balance_classes:
        raise ValueError("training.balance_classes must be false for network.head gg-cam, which has its own loss")
    if training.label_smoothing:
        raise ValueError(
            "training.label_smoothing must be 0 for network.head gg-cam, which has its own loss, "
            f"got {training.label_smoothing!r}"
        )
    if training.precision == "float16":
        raise ValueError(
            "training.precision must be float32 or bfloat16 for network.head gg-cam, whose gradients at "
            "first exceed float16, got float16"
        )


def gaze_loss(model: Any, batch: Batch, class_weights: Tensor | None) -> Tensor:
    """The loss of a batch that has gaze maps, a scalar.

    model: a `GGCAM`; class_weights: None, it takes none
    """
    if batch.gaze is None:
        raise ValueError("batch must have gaze maps for the loss of GG-CAM, got None")
    if class_weights is not None:
        raise ValueError(f"class_weights must be None for the loss of GG-CAM, got {class_weights.tolist()}")
    loss: Tensor = model.loss(batch.images, batch.labels, batch.gaze)
    return loss


def localization_hits(maps: Tensor, labels: Tensor, regions: Tensor, region_of_class: Mapping[int, int]) -> Tensor:
    """Whether the highest cell of the true class's map, or one of the eight around it, lies in the class's region.

    maps: (N, classes, h, w); labels: (N,) int64
    regions: (N, R, h, w) bool, on the grid of the maps
    region_of_class: for each class the index of its region, such as {1: heart, 2: lungs}
    out: (N,) bool
    Raises ValueError for a label without a region: leave those images out.
    """
    _check_maps(maps, labels)
    grid = (maps.shape[0], *maps.shape[2:])
    if regions.dtype != torch.bool or regions.dim() != 4 or (regions.shape[0], *regions.shape[2:]) != grid:
        raise ValueError(
            f"regions must be bool (N, R, h, w) on the grid of maps {tuple(maps.shape)}, "
            f"got {regions.dtype} {tuple(regions.shape)}"
        )
    without = sorted(set(labels.tolist()) - set(region_of_class))
    if without:
        raise ValueError(f"region_of_class must name a region for each class in labels, it has none for {without}")
    for label, index in region_of_class.items():
        if not 0 <= index < regions.shape[1]:
            raise ValueError(f"region_of_class must give an index below {regions.shape[1]}, got {index} for {label}")
    region = torch.tensor([region_of_class[label] for label in labels.tolist()], dtype=torch.long, device=maps.device)
    image = torch.arange(maps.shape[0], device=maps.device)
    near = functional.max_pool2d(regions[image, region].float()[:, None], 3, 1, padding=1).flatten(1)
    highest = _of_true_class(maps, labels).flatten(1).argmax(1)
    return near[image, highest] > 0


def _of_true_class(maps: Tensor, labels: Tensor) -> Tensor:
    return maps[torch.arange(maps.shape[0], device=maps.device), labels]


def _check_maps(maps: Tensor, labels: Tensor) -> None:
    if maps.dim() != 4 or not maps.numel():
        raise ValueError(f"maps must be (N, classes, h, w) and not empty, got {tuple(maps.shape)}")
    if labels.shape != maps.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 ({maps.shape[0]},), got {labels.dtype} {tuple(labels.shape)}")
