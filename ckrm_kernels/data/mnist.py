"""MNIST's four IDX files, and other data sets in the same files, such as Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.data.dataset import Dataset, Normalization, Part
from ckrm_kernels.data.files import existing_folder
from ckrm_kernels.data.identity import digest_of
from ckrm_kernels.data.split import split_training

_IMAGES, _LABELS = 2051, 2049  # the magic numbers: unsigned bytes in three dimensions, in one
_CLASSES = 10


def mnist(folder: str | Path, split_seed: int = 0) -> Dataset:
    """Ten classes of grey images (N, 1, H, W) uint8; the published test file is the held-out part.

    folder: holds {train,t10k}-{images-idx3,labels-idx1}-ubyte, each plain or with .gz
    split_seed: which random 10 % of the training file, by class, is the validation part
    Raises FileNotFoundError for a folder or file that is missing, ValueError for one that is not of the format, named.
    """
    folder = existing_folder(folder)
    paths = [
        _find(folder, f"{part}-{kind}-ubyte") for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    ]
    images, labels = _read_pair(*paths[:2])
    test_images, test_labels = _read_pair(*paths[2:])
    if images.shape[1:] != test_images.shape[1:]:
        sizes = " and ".join(f"{i.shape[2]}x{i.shape[3]}" for i in (images, test_images))
        raise ValueError(f"{paths[0]} and {paths[2]} must hold images of one size, got {sizes}")
    train, validation = split_training(labels, split_seed)
    normalization = Normalization.of(images[train])
    contents = {
        "images of the training file": digest_of(images),
        "labels of the training file": digest_of(labels),
        "images of the test file": digest_of(test_images),
        "labels of the test file": digest_of(test_labels),
    }
    return Dataset(
        "mnist",
        _CLASSES,
        Part(images[train], labels[train], normalization=normalization),
        Part(images[validation], labels[validation], normalization=normalization),
        Part(test_images, test_labels, normalization=normalization),
        tuple(map(str, range(_CLASSES))),
        {"name": "mnist", "split_seed": split_seed, "contents": contents},
    )


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder / name} is missing, and {name}.gz too")


def _read_pair(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 1, H, W) uint8 and labels (N,) int64 of two files that belong together."""
    images = _read_idx(images_path, _IMAGES, "images").unsqueeze(1)
    labels = _read_idx(labels_path, _LABELS, "labels").long()
    if len(images) != len(labels):
        raise ValueError(f"{labels_path} must hold a label for each of {len(images)} images, got {len(labels)}")
    if labels.max() >= _CLASSES:
        index = int((labels >= _CLASSES).nonzero()[0])
        raise ValueError(f"{labels_path}: labels must lie in 0 to {_CLASSES - 1}, got {labels[index]} at {index}")
    return images, labels


def _read_idx(path: Path, magic: int, what: str) -> Tensor:
    """The file's array, uint8; the magic number's last byte is the number of its dimensions."""
    content = _content(path)
    size = 4 * (1 + (magic & 0xFF))
    if len(content) < size:
        raise ValueError(f"{path} must be an IDX file of {what} with a header of {size} bytes, got {len(content)}")
    given, *shape = np.frombuffer(content[:size], ">i4").tolist()
    if given != magic:
        raise ValueError(f"{path} must be an IDX file of {what}, with the magic number {magic}, got {given}")
    if min(shape) < 1:
        raise ValueError(f"{path}: every dimension must be >= 1, got {shape}")
    expected = size + math.prod(shape)
    if len(content) != expected:
        raise ValueError(f"{path} must have {expected} bytes for {what} of shape {shape}, got {len(content)}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=size).reshape(shape).copy())


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error})") from error
