"""What a layer elimination ends with: how good the networks are, and what an image costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ckrm_kernels.comparison.latency import one_thread, time_in_turns
from ckrm_kernels.data import Dataset, Part
from ckrm_kernels.layer_elimination.predicted_depth import PredictedDepth
from ckrm_kernels.layer_elimination.strongest import Selection
from ckrm_kernels.models import count_multiply_adds
from ckrm_kernels.training.evaluation import logits, loss_and_accuracy

CNN_1, BY_LABEL, PREDICTED, FULL, WITHOUT = "cnn-1", "cnn-3-by-label", "cnn-3-predicted", "cnn-3-full", "no-skipping"
BATCH = 64  # images at once that are timed
_TIMED = 512  # images, all batches together
_SECONDS = 2.0  # of timing, once the fewest rounds are done


@dataclass(frozen=True)
class SeedResult:
    """What the networks of one seed gave.

    Networks are named "cnn-1"; "cnn-3-by-label", "cnn-3-predicted" and "cnn-3-full", CNN 3 with the depth of each image
    known, predicted by CNN 2, or all layers for every image; and "no-skipping", of the architecture of CNN 3 and
    trained on the same images, each through all layers.

    found, won: of each layer, how many images it chose, and how many of them no higher layer chose, too
    confusion: of the held-out fifth of the chosen images, how many of each layer (rows) CNN 2 assigns to each (columns)
    chosen: accuracy of each network on that fifth. CNN 1 was trained on these images, the others were not
    held_out: accuracy of each network on the held-out part of the data, where no depth is known
    depths: how many images of the held-out part CNN 2 has pass 1, 2, 3 layers
    multiply_adds, seconds: of an image of the held-out part, the mean; that of CNN 2 within "cnn-3-predicted". "cnn-3"
        is CNN 3 alone at the depths that CNN 2 predicts
    """

    seed: int
    found: tuple[int, ...]
    won: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    chosen: dict[str, float]
    held_out: dict[str, float]
    depths: tuple[int, ...]
    multiply_adds: dict[str, float]
    seconds: dict[str, float]

    @property
    def layer_accuracy(self) -> float:
        """Share of the images whose layer CNN 2 names."""
        right = sum(row[layer] for layer, row in enumerate(self.confusion))
        return right / sum(map(sum, self.confusion))

    @property
    def most_frequent_layer(self) -> float:
        """Share of those images that are of their most frequent layer."""
        return max(map(sum, self.confusion)) / sum(map(sum, self.confusion))


@dataclass(frozen=True)
class Elimination:
    """The results of all seeds.

    images: of the held-out part of the data
    """

    images: int
    seeds: tuple[SeedResult, ...]


def evaluated(
    seed: int,
    selection: Selection,
    data: Dataset,
    of_layers: Dataset,
    by_depth: Dataset,
    models: Mapping[str, nn.Module],
) -> SeedResult:
    """The result of one seed's networks.

    of_layers, by_depth: the chosen images with their layers, and with their classes and depths
    models: trained, on the CPU: "cnn-1", "cnn-2", "cnn-3", "no-skipping"
    """
    cnn_1, cnn_2, cnn_3, without = (models[name] for name in ("cnn-1", "cnn-2", "cnn-3", "no-skipping"))
    routed = PredictedDepth(cnn_2, cnn_3)
    labelled, unlabelled = by_depth.held_out, replace(by_depth.held_out, depths=None)
    of_all = {CNN_1: cnn_1, PREDICTED: routed, FULL: cnn_3, WITHOUT: without}
    chosen = {name: _accuracy(model, unlabelled) for name, model in of_all.items()}
    layers = len(selection.chosen)
    depths = logits(cnn_2, data.held_out).argmax(1) + 1
    shares = tuple(depths.bincount(minlength=layers + 1)[1:].tolist())
    return SeedResult(
        seed,
        selection.found,
        selection.won,
        _confusion(cnn_2, of_layers.held_out, layers),
        {CNN_1: chosen.pop(CNN_1), BY_LABEL: _accuracy(cnn_3, labelled), **chosen},
        {name: _accuracy(model, data.held_out) for name, model in of_all.items()},
        shares,
        _multiply_adds(cnn_1, cnn_2, cnn_3, shares, data.image_shape),
        _seconds(cnn_1, routed, data, depths),
    )


def _accuracy(model: nn.Module, part: Part) -> float:
    return loss_and_accuracy(model, part)[1]


def _confusion(model: nn.Module, part: Part, layers: int) -> tuple[tuple[int, ...], ...]:
    """(layers, layers): images by label and by what the model says."""
    places = part.labels * layers + logits(model, part).argmax(1)
    return tuple(map(tuple, places.bincount(minlength=layers**2).view(layers, layers).tolist()))


class _AtDepth(nn.Module):
    """A network that every image passes to the same depth."""

    def __init__(self, network: Any, depth: int) -> None:
        super().__init__()
        self.network, self._depth = network, depth

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.network.to_depth(images, self._depth)
        return result


def _multiply_adds(
    cnn_1: nn.Module, cnn_2: nn.Module, cnn_3: nn.Module, depths: tuple[int, ...], image_shape: tuple[int, ...]
) -> dict[str, float]:
    of_depth = [count_multiply_adds(_AtDepth(cnn_3, depth), image_shape) for depth in range(1, len(depths) + 1)]
    skipping = sum(count * each for count, each in zip(depths, of_depth, strict=True)) / sum(depths)
    return {
        CNN_1: float(count_multiply_adds(cnn_1, image_shape)),
        "cnn-2": float(count_multiply_adds(cnn_2, image_shape)),
        "cnn-3": skipping,
        PREDICTED: count_multiply_adds(cnn_2, image_shape) + skipping,
    }


def _seconds(cnn_1: nn.Module, routed: PredictedDepth, data: Dataset, depths: Tensor) -> dict[str, float]:
    """Of an image, on one thread of the CPU.

    Each call goes through all batches: a single one would be timed with what the call before left in caches and memory.
    """
    rows = torch.arange(min(_TIMED, len(data.held_out))).split(BATCH)
    images = [data.held_out.batch(each).images for each in rows]
    known = [(batch, depths[each]) for batch, each in zip(images, rows, strict=True)]
    unknown = [(batch,) for batch in images]
    calls = {
        CNN_1: partial(_through, cnn_1, unknown),
        "cnn-2": partial(_through, routed.predictor, unknown),
        "cnn-3": partial(_through, routed.network, known),
        PREDICTED: partial(_through, routed, unknown),
    }
    with one_thread():
        seconds = time_in_turns(calls, torch.device("cpu"), _SECONDS)
    return {name: each / sum(map(len, images)) for name, each in seconds.items()}


def _through(model: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> None:
    for inputs in batches:
        model(*inputs)
