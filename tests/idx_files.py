"""MNIST's four files with small images that are learnt in seconds."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: np.ndarray) -> bytes:
    """An IDX file: two zeros, 8 for unsigned bytes, the number of dimensions; the sizes; the numbers."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def write_bars(folder: Path, train: int = 200, test: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 6x5 images with a bar whose place is the class, of ten; gives images and labels of the test file."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for size in (train, test):
        labels = (np.arange(size) % 10).astype(np.uint8)
        images = random.integers(120, size=(size, 6, 5), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[label % 6, label // 6 :] = 250
        arrays += [images, labels]
    for name, array in zip(FILES, arrays, strict=True):
        (folder / name).write_bytes(idx(array))
    return arrays[2], arrays[3]
