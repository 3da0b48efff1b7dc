"""The chosen images as data sets of their own, which CNN 2 and CNN 3 are trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ckrm_kernels.data import DataConfig, Dataset, split_by_class
from ckrm_kernels.data.identity import digest_of
from ckrm_kernels.layer_elimination.strongest import Selection
from ckrm_kernels.storage.files import read_json, write_json
from ckrm_kernels.storage.settings import typed

Task = Literal["layer", "class-by-depth", "class"]
TASKS: dict[str, Task] = {"cnn-2": "layer", "cnn-3": "class-by-depth", "no-skipping": "class"}
"""Of the networks after CNN 1, by the names of their folders, in the order that they are trained in."""
CONFIG = "config.json"  # of the elimination
FEWEST = 5  # of a layer, so that each part has one
_CHOSEN, _IDENTITY = "chosen", "identity"


@dataclass(frozen=True)
class ChosenImages:
    """Loads a data set of the images in a selection's file; a worker process can call it.

    task: "layer": the labels are the layers, for CNN 2; "class-by-depth": the classes, and the depth of each image is
        its layer's, for CNN 3; "class": the classes, and every image passes all layers
    """

    config: DataConfig
    file: Path
    task: Task

    def __call__(self) -> Dataset:
        """The data set."""
        selection = read_selection(self.file)
        return chosen_images(self.config.load(), selection, self.task, self.config.split_seed)


def images_of_network(folder: Path) -> ChosenImages | None:
    """What loads the data that a network after CNN 1 was trained on; None where the folder is of no such network.

    folder: that of a seed, within the network's, within the elimination's
    """
    elimination, task = folder.absolute().parents[1], TASKS.get(folder.absolute().parent.name)
    file, path = selection_file(elimination, folder.name), elimination / CONFIG
    if task is None or not (file.exists() and path.exists()):
        return None
    config: DataConfig = typed(DataConfig, read_json(path)["data"], f"{path}: data")
    return ChosenImages(config, file, task)


def selection_file(elimination: Path, seed: str) -> Path:
    """Which images were chosen. seed: the name of a seed's folder"""
    return elimination / "selection" / f"{seed}.json"


def chosen_images(data: Dataset, selection: Selection, task: Task, split_seed: int) -> Dataset:
    """The chosen images of the data's training part, split 70 / 10 / 20 % by layer, for all tasks alike.

    Raises ValueError where a layer has fewer images than that takes.
    """
    check_every_layer(selection)
    rows, layers = selection.rows, selection.layers
    chosen = data.train.rows(rows)
    if task == "layer":
        chosen = replace(chosen, labels=layers)
    elif task == "class-by-depth":
        chosen = replace(chosen, depths=layers + 1)
    train, validation, held_out = (chosen.rows(part) for part in split_by_class(layers, split_seed))
    digest = {"rows": digest_of(rows), "layers": digest_of(layers)}
    identity = {**data.identity, "chosen": {"task": task, "split_seed": split_seed, **digest}}
    parts = replace(data, train=train, validation=validation, held_out=held_out, identity=identity)
    if task != "layer":
        return parts
    names = tuple(f"layer {layer}" for layer in range(1, len(selection.chosen) + 1))
    return replace(parts, classes=len(names), class_names=names, region_of_class={})


def check_every_layer(selection: Selection) -> None:
    """Raises ValueError for a layer that is left with too few images to be learnt and tested."""
    for layer, count in enumerate(selection.won, 1):
        if count < FEWEST:
            left = f"only {count} images are" if count != 1 else "only 1 image is"
            what = "no image is" if count == 0 else left
            raise ValueError(
                f"{what} left to layer {layer}, which chose {selection.found[layer - 1]}: higher layers chose the "
                f"others, too, and CNN 2 needs at least {FEWEST} of each layer; raise images_per_map or maps"
            )


def write_selection(file: Path, selection: Selection, identity: dict[str, Any]) -> None:
    """identity: what decided it, as JSON."""
    write_json(file, {_IDENTITY: identity, _CHOSEN: selection.chosen})


def stored_selection(file: Path, identity: dict[str, Any], images: int) -> Selection | None:
    """The selection in the file, out of so many images; None where there is none of this identity.

    Raises ValueError, naming the file, where it is damaged.
    """
    if not file.exists():
        return None
    selection = read_selection(file)
    rows = selection.rows
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= images):
        raise ValueError(f"{file} is damaged: it names images that there are not; delete it to choose them anew")
    return selection if read_json(file)[_IDENTITY] == identity else None


def read_selection(file: Path) -> Selection:
    """The selection in the file; raises ValueError, naming the file, where it is damaged."""
    value = read_json(file)
    try:
        chosen = tuple(tuple(tuple(map(_row, rows)) for rows in maps) for maps in value[_CHOSEN])
        if not isinstance(value[_IDENTITY], dict) or not chosen:
            raise TypeError
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged; delete it to choose the images anew") from error
    return Selection(chosen)


def _row(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError
    return value
