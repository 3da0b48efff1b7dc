"""The page: what was chosen, how good the networks are, and what an image costs, in one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from markupsafe import Markup

from ckrm_kernels.comparison.statistics import FEWEST, mean_interval
from ckrm_kernels.comparison.verdict import with_interval
from ckrm_kernels.data import Dataset
from ckrm_kernels.layer_elimination.config import EliminationConfig
from ckrm_kernels.layer_elimination.picked_images import sheet
from ckrm_kernels.layer_elimination.results import (
    BATCH,
    BY_LABEL,
    CNN_1,
    FULL,
    PREDICTED,
    WITHOUT,
    Elimination,
    SeedResult,
)
from ckrm_kernels.layer_elimination.strongest import Selection
from ckrm_kernels.models import count_parameters, without_memory
from ckrm_kernels.presentation.markup import Table, image, render
from ckrm_kernels.presentation.numbers import counted, duration, percent, signed, times
from ckrm_kernels.storage.machine import processor, versions

_NAMES = {
    CNN_1: "CNN 1, all layers",
    BY_LABEL: "CNN 3, layers known",
    PREDICTED: "CNN 3, layers predicted by CNN 2",
    FULL: "CNN 3, all layers",
    WITHOUT: "the same images, nothing skipped",
}


def page(result: Elimination, config: EliminationConfig, data: Dataset, selections: Mapping[int, Selection]) -> str:
    """The page as text; selections: of each seed, from the data's training part. The first seed's images are drawn."""
    first = selections[result.seeds[0].seed]
    layers = range(len(first.chosen))
    rendered = render(
        __file__,
        title=f"Layer elimination on {data.name}",
        lead=_lead(result),
        headline=_headline(result),
        accuracy=_accuracy(result),
        cost=_cost(result),
        chosen=_chosen(result),
        sheets=[_sheet(data, first, layer) for layer in layers],
        drawn_seed=result.seeds[0].seed,
        confusion=_confusion(result),
        depths=_depths(result),
        provenance=_provenance(result, config, data),
        terms=_terms(config),
    )
    return str(rendered)


def _mean(result: Elimination, value: Callable[[SeedResult], float]) -> float:
    return mean(map(value, result.seeds))


def _interval(result: Elimination, value: Callable[[SeedResult], float]) -> str:
    return with_interval(mean_interval(list(map(value, result.seeds))))


def _lead(result: Elimination) -> str:
    layer, frequent = (_mean(result, value) for value in (_layer_accuracy, lambda each: each.most_frequent_layer))
    first, predicted, full, without = (
        _mean(result, lambda each, name=name: each.held_out[name])  # type: ignore[misc]
        for name in (CNN_1, PREDICTED, FULL, WITHOUT)
    )
    return (
        f"CNN 2 names the layer of {percent(layer, 1)} of the chosen images that it was not trained on; the most "
        f"frequent layer has {percent(frequent, 1)} of them. On all {result.images:,} held-out images of the data, "
        f"where no layer is known, CNN 3 with the layers that CNN 2 predicts is right in {percent(predicted, 1)}, with "
        f"all layers in {percent(full, 1)}; CNN 1, which saw all training images, in {percent(first, 1)}; a network of "
        f"the same chosen images that skips nothing in {percent(without, 1)}."
    )


def _layer_accuracy(result: SeedResult) -> float:
    return result.layer_accuracy


def _headline(result: Elimination) -> list[tuple[str, str, str]]:
    first, predicted = (
        _mean(result, lambda each, name=name: each.held_out[name])  # type: ignore[misc]
        for name in (CNN_1, PREDICTED)
    )
    by_label = _mean(result, lambda each: each.chosen[BY_LABEL])
    seconds = {name: _mean(result, lambda each, name=name: each.seconds[name]) for name in (CNN_1, PREDICTED)}  # type: ignore[misc]
    return [
        (percent(by_label, 1), "right of the chosen images", "CNN 3, layers known: what the paper reports"),
        (percent(predicted, 1), "right of all held-out images", "CNN 3, layers predicted: what a user gets"),
        (signed(predicted - first), "accuracy, less CNN 1", "on all held-out images"),
        (
            percent(seconds[PREDICTED], seconds[CNN_1]),
            "of the time of CNN 1",
            f"{duration(seconds[PREDICTED])} of {duration(seconds[CNN_1])}, CNN 2 included",
        ),
    ]


def _accuracy(result: Elimination) -> Table:
    counts = sorted({sum(map(sum, each.confusion)) for each in result.seeds})
    chosen = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    interval = " and its 95% interval" if len(result.seeds) >= FEWEST else ""
    rows = [
        [
            name,
            _interval(result, lambda each, key=key: each.chosen[key]),  # type: ignore[misc]
            _interval(result, lambda each, key=key: each.held_out[key])  # type: ignore[misc]
            if key in result.seeds[0].held_out
            else "",
        ]
        for key, name in _NAMES.items()
    ]
    caption = f"Accuracy: the mean of {counted(len(result.seeds), 'seed')}{interval}"
    return Table(caption, ["network", f"chosen images ({chosen})", f"all held-out images ({result.images:,})"], rows)


def _cost(result: Elimination) -> Table:
    names = {
        CNN_1: "CNN 1",
        "cnn-2": "CNN 2",
        "cnn-3": "CNN 3 at the depths that CNN 2 predicts",
        PREDICTED: "both, as a user runs them",
    }
    adds, seconds = (
        {name: _mean(result, lambda each, name=name, field=field: getattr(each, field)[name]) for name in names}  # type: ignore[misc]
        for field in ("multiply_adds", "seconds")
    )
    rows = [
        [
            name,
            f"{adds[key]:,.0f}",
            percent(adds[key], adds[CNN_1]),
            duration(seconds[key]),
            percent(seconds[key], seconds[CNN_1]),
        ]
        for key, name in names.items()
    ]
    caption = f"What an image costs, the mean over held-out images; timed in turns, {BATCH} images at once, 1 thread"
    return Table(caption, ["network", "multiply-adds", "of CNN 1", "time", "of CNN 1"], rows)


def _chosen(result: Elimination) -> Table:
    layers = range(len(result.seeds[0].won))
    head = ["seed", *(f"chosen by layer {layer + 1}" for layer in layers), *(f"left to layer {n + 1}" for n in layers)]
    rows = [[str(each.seed), *map(str, each.found), *map(str, each.won)] for each in result.seeds]
    return Table(
        "Different images that each layer chose, and those of them that no higher layer chose, too", head, rows
    )


def _sheet(data: Dataset, selection: Selection, layer: int) -> tuple[Markup, str]:
    label = f"layer {layer + 1}: a row of images for each of {len(selection.chosen[layer])} maps"
    return image(sheet(data.train, selection, layer), label, "sheet"), f"Layer {layer + 1}: {selection.won[layer]} left"


def _confusion(result: Elimination) -> Table:
    layers = range(len(result.seeds[0].confusion))
    total = [[sum(each.confusion[row][column] for each in result.seeds) for column in layers] for row in layers]
    seeds = f", summed over {counted(len(result.seeds), 'seed')}" if len(result.seeds) > 1 else ""
    return Table(
        f"Held-out chosen images by their layer (rows) and the layer that CNN 2 names{seeds}",
        ["layer", *(f"named {column + 1}" for column in layers), "images"],
        [[f"layer {row + 1}", *map(str, total[row]), str(sum(total[row]))] for row in layers],
    )


def _depths(result: Elimination) -> Table:
    layers = range(len(result.seeds[0].depths))
    rows = [[str(each.seed), *(percent(count, sum(each.depths)) for count in each.depths)] for each in result.seeds]
    head = ["seed", *(counted(layer + 1, "layer") for layer in layers)]
    return Table(f"Shares of all {result.images:,} held-out images that CNN 2 has pass so many layers", head, rows)


def _provenance(result: Elimination, config: EliminationConfig, data: Dataset) -> dict[str, str]:
    training = config.training
    parameters = count_parameters(without_memory(config.network))
    return {
        "data": (
            f"{data.name}: {len(data.train):,} images to train with, {len(data.validation):,} to validate, "
            f"{len(data.held_out):,} held out, of {times(data.image_shape)} (channels, height, width), in "
            f"{data.classes} classes"
        ),
        "networks": (
            f"CNN 1 and CNN 3: three convolutions of {counted(config.network.widths()['width'], 'filter')}, "
            f"{parameters:,} parameters; CNN 2: {config.predictor.kind}, widths "
            f"{_listed(list(config.predictor.widths().values()))}"
        ),
        "selection": (
            f"of the training part, {config.images_per_map} images for each of the first {config.maps} maps of each "
            "layer; split 70 / 10 / 20 % by layer into images to train with, to validate and to score"
        ),
        "training": (
            f"{training.optimizer}, {counted(training.epochs, 'epoch')} of each network, batches of "
            f"{training.batch_size}, learning rate {training.learning_rate:g}, schedule {training.schedule}"
        ),
        "seeds": _listed([each.seed for each in result.seeds]),
        "machine": processor(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions("matplotlib").items()),
    }


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _terms(config: EliminationConfig) -> dict[str, str]:
    """What the words of the page mean."""
    return {
        "CNN 1": "Three convolutions and a dense layer, trained on the training part; it chooses the images.",
        "chosen images": (
            "A layer's activation is what a map of it holds after ReLU, its strength the mean absolute value over the "
            f"positions. Each of the first {config.maps} maps of each layer chooses the {config.images_per_map} images "
            "of the training part that activate it most; an image that several layers chose goes to the highest."
        ),
        "CNN 2": "Trained to name the layer of an image; here a narrow network, since its time is part of the cost.",
        "CNN 3": (
            "Of CNN 1's architecture, trained from new weights on the chosen images alone: one of layer 1 skips the "
            "second and third convolution, one of layer 2 the third. What an image skips takes nothing from it, nor "
            "does a step of the optimiser move a convolution that no image of its batch passes."
        ),
        "nothing skipped": (
            "The same architecture on the same images, each through all layers: what skipping alone changes."
        ),
        "accuracy on chosen images": (
            "On the fifth of them that CNN 2 and CNN 3 were not trained on. CNN 1 was trained on all of them, so its "
            "number is no measure of how it does on new images. The paper compares on such images."
        ),
        "accuracy on all held-out images": (
            "On images that no network was trained on and whose layer nobody knows: what a user gets."
        ),
    }
