"""Fashion-MNIST, where Debian's package puts it or wherever its four files are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ckrm_kernels.data.dataset import Dataset
from ckrm_kernels.data.mnist import mnist

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts the files."""

_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def fashion_mnist(folder: str | Path | None = None, split_seed: int = 0) -> Dataset:
    """Ten kinds of clothes, 60,000 + 10,000 grey images (N, 1, 28, 28) uint8; the test file is the held-out part.

    folder: holds the four files that `mnist` reads; None: `FOLDER`
    split_seed: which random 10 % of the training file, by class, is the validation part
    Raises what `mnist` does, and FileNotFoundError, which says how to install the package, where there is no `FOLDER`.
    """
    if folder is None and not FOLDER.is_dir():
        raise FileNotFoundError(
            f"fashion-mnist is not in {FOLDER}: on Debian and Ubuntu `apt-get install dataset-fashion-mnist` puts it "
            "there; elsewhere give the folder with its four IDX files as folder (--data-folder)"
        )
    data = mnist(folder or FOLDER, split_seed)
    return replace(
        data, name="fashion-mnist", class_names=_CLASSES, identity={**data.identity, "name": "fashion-mnist"}
    )
