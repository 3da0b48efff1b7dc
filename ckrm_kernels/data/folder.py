"""Image folders: a folder for each class."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ckrm_kernels.data.dataset import Dataset
from ckrm_kernels.data.files import Track, contents_of_files, existing_folder, untracked
from ckrm_kernels.data.pillow import check_pillow, read_colour
from ckrm_kernels.data.preprocess import Arrays, Preprocessing
from ckrm_kernels.data.split import split_by_class
from ckrm_kernels.storage.built_once import cache_folder

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def image_folder(
    folder: str | Path,
    image_size: tuple[int, int],
    split_seed: int = 0,
    *,
    skip_bad: bool = False,
    cache: str | None = None,
    track: Track = untracked,
) -> Dataset:
    """Colour images (N, 3, H, W) uint8 from folder/class/**/file, split 70 / 10 / 20 % by class.

    folder: its folders, sorted by name, are the classes; names that begin with a dot are passed over
    image_size: (H, W); every image is turned as its EXIF orientation says, scaled to cover it, and its
        middle is cut out
    split_seed: which random split
    skip_bad: leave images out that do not decode; the split is that of all images
    cache: see `DataConfig`; track: shows progress while images are decoded
    Raises ImportError, naming the extra, where Pillow is not installed; FileNotFoundError where there is no folder;
    ValueError for fewer than two classes, one without an image, or a part that is left empty; and `BadFile` for an
    image that does not decode, unless skip_bad.
    """
    check_pillow("reading image folders")
    root = existing_folder(folder)
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(f"{root} must hold a folder for each of at least 2 classes, got {len(classes)}")
    paths: list[Path] = []
    labels: list[int] = []
    groups = {}
    for label, name in enumerate(classes):
        found = images_below(root / name)
        if not found:
            raise ValueError(f"{root / name} holds no image ({', '.join(EXTENSIONS)})")
        groups[f"images of {name}"] = found
        paths += found
        labels += [label] * len(found)

    identity = {
        "name": "folder",
        "image_size": list(image_size),
        "split_seed": split_seed,
        "contents": contents_of_files(root, groups, cache_folder(cache), track),
    }

    def decode(index: int) -> Arrays:
        return {"images": read_colour(paths[index], image_size)}

    indices = split_by_class(torch.tensor(labels), split_seed)
    preprocessing = Preprocessing(identity, (root,), labels, indices, lambda: decode, normalize=True)
    parts, skipped = preprocessing.parts(cache_folder(cache), skip_bad, track)
    return Dataset("folder", len(classes), *parts, tuple(classes), identity, skipped)


def images_below(folder: Path) -> list[Path]:
    """The images in the folder and, links included, the folders below it, in one order on every system."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in files if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
        found += [Path(parent, name) for name in names]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)
