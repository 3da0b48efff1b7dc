"""scikit-learn's digits as MNIST's files, 28x28: `python docs/studies/digits_as_mnist.py FOLDER`.

A small data set in MNIST's format for trying `--data mnist` without a download. One image in five goes to the test
file.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from ckrm_kernels.storage.files import write_atomically


def main(folder: Path) -> None:
    """Writes the four files."""
    raw = load_digits()
    small = torch.from_numpy(raw.images).float().unsqueeze(1) * (255 / 16)
    images = functional.interpolate(small, size=(28, 28), mode="bicubic").round().clamp(0, 255).byte()[:, 0]
    labels = torch.from_numpy(raw.target).byte()
    test = torch.arange(len(labels)) % 5 == 0
    for part, rows in (("train", ~test), ("t10k", test)):
        write_atomically(folder / f"{part}-images-idx3-ubyte", idx(2051, images[rows]))
        write_atomically(folder / f"{part}-labels-idx1-ubyte", idx(2049, labels[rows]))


def idx(magic: int, values: Tensor) -> bytes:
    """An IDX file of unsigned bytes: magic number and sizes as big-endian int32, then the values."""
    return struct.pack(f">{1 + values.dim()}i", magic, *values.shape) + values.numpy().tobytes()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
