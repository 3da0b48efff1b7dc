"""CIFAR-100's Python version: three pickles, read without running what a pickle may ask for."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.data.dataset import Dataset, Normalization, Part
from ckrm_kernels.data.files import existing_folder
from ckrm_kernels.data.identity import digest_of, digest_of_json
from ckrm_kernels.data.split import split_training

_CLASSES = 100
_SHAPE = (3, 32, 32)


def _encoded(text: str, encoding: str) -> bytes:
    """What a pickle of Python 3 that Python 2 can read says in place of bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}, and only latin1 is allowed")
    return text.encode("latin1")


def _from_buffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    """What a pickle of protocol 5 makes an array of."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


_ARRAYS = {
    "multiarray": {"_reconstruct": np.empty(0).__reduce__()[0], "scalar": np.int64(0).__reduce__()[0]},
    "numeric": {"_frombuffer": _from_buffer},
}
_ALLOWED: dict[tuple[str, str], Any] = {
    **{
        (f"numpy.{core}.{module}", name): value
        for core in ("core", "_core")
        for module, names in _ARRAYS.items()
        for name, value in names.items()
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): bytes,
    ("builtins", "bytes"): bytes,
}


def cifar100(folder: str | Path, split_seed: int = 0) -> Dataset:
    """A hundred fine classes of colour images (N, 3, 32, 32) uint8; the published test file is the held-out part.

    folder: holds train, test and meta, itself or in cifar-100-python
    split_seed: which random 10 % of the training file, by class, is the validation part
    Raises FileNotFoundError for a folder or file that is missing, ValueError for one that is not of the format, named.
    """
    folder = existing_folder(folder)
    if (folder / "cifar-100-python").is_dir():
        folder = folder / "cifar-100-python"
    paths = [folder / name for name in ("train", "test", "meta")]
    images, labels = _read_images(paths[0])
    test_images, test_labels = _read_images(paths[1])
    train, validation = split_training(labels, split_seed)
    normalization, names = Normalization.of(images[train]), _read_names(paths[2])
    contents = {
        "images of train": digest_of(images),
        "labels of train": digest_of(labels),
        "images of test": digest_of(test_images),
        "labels of test": digest_of(test_labels),
        "names of the classes": digest_of_json(names),
    }
    return Dataset(
        "cifar100",
        _CLASSES,
        Part(images[train], labels[train], normalization=normalization),
        Part(images[validation], labels[validation], normalization=normalization),
        Part(test_images, test_labels, normalization=normalization),
        names,
        {"name": "cifar100", "split_seed": split_seed, "contents": contents},
    )


def _read_images(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) uint8 and their fine labels (N,) int64."""
    content = _unpickle(path)
    pixels, labels = _entry(path, content, "data"), _entry(path, content, "fine_labels")
    row = int(np.prod(_SHAPE))
    if not (
        isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.shape[1] == row
    ):
        given = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(f"{path}: data must be an array (N, {row}) of uint8, got {given}")
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        labels = labels.tolist()
    if not isinstance(labels, list) or len(labels) != len(pixels) or not labels:
        given = f"{len(labels)} labels" if isinstance(labels, list) else type(labels).__name__
        raise ValueError(
            f"{path}: fine_labels must be a list with a label for each of {len(pixels)} images, got {given}"
        )
    for index, label in enumerate(labels):
        if not isinstance(label, (int, np.integer)) or not 0 <= label < _CLASSES:
            raise ValueError(f"{path}: labels must lie in 0 to {_CLASSES - 1}, got {label!r} at {index}")
    images = torch.from_numpy(np.ascontiguousarray(pixels)).reshape(-1, *_SHAPE)
    return images, torch.tensor(labels, dtype=torch.int64)


def _read_names(path: Path) -> tuple[str, ...]:
    names = _entry(path, _unpickle(path), "fine_label_names")
    if not isinstance(names, list) or len(names) != _CLASSES:
        given = f"{len(names)} names" if isinstance(names, list) else type(names).__name__
        raise ValueError(f"{path}: fine_label_names must be a list of {_CLASSES} names, got {given}")
    return tuple(_text(name) for name in names)


def _entry(path: Path, content: dict[str, Any], name: str) -> Any:
    if name not in content:
        raise ValueError(f"{path} must hold {name}, got {', '.join(map(str, content)) or 'nothing'}")
    return content[name]


class _Unpickler(pickle.Unpickler):
    """Makes NumPy arrays and Python's plain types, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only NumPy arrays are allowed")
        return _ALLOWED[module, name]


def _unpickle(path: Path) -> dict[str, Any]:
    """The pickled dictionary, with text as its keys. Python 2's strings are read as latin1, which keeps every byte."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a damaged pickle may break with any
        raise ValueError(f"{path} is not a pickle of CIFAR-100: {error or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(content).__name__}")
    return {_text(key): value for key, value in content.items()}


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
