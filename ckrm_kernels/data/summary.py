"""What a run keeps of its data set, so that it can be reported and told from others without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ckrm_kernels.data.dataset import Dataset, Skipped
from ckrm_kernels.data.identity import differences


@dataclass(frozen=True)
class DataSummary:
    """A data set in numbers.

    identity, skipped: see `Dataset`; classes: their names
    train, validation, held_out: images of each part
    most_frequent: share of the held-out images that are of their most frequent class
    missing_classes: sentences, see `Dataset.missing_classes`
    """

    name: str
    identity: dict[str, Any]
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    train: int
    validation: int
    held_out: int
    most_frequent: float
    missing_classes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def of(cls, data: Dataset) -> DataSummary:
        """That of a data set."""
        return cls(
            data.name,
            data.identity,
            data.names_of_classes,
            data.image_shape,
            len(data.train),
            len(data.validation),
            len(data.held_out),
            data.held_out.labels.bincount().max().item() / len(data.held_out),
            data.missing_classes,
            data.skipped,
        )


def check_same_data(ours: dict[str, Any], theirs: dict[str, Any], place: str, holds: str) -> None:
    """Raises ValueError, naming the difference, where two identities of data sets are not one.

    place: where ours is; holds: what holds theirs, such as "runs/a holds runs"
    """
    if "contents" in ours and "contents" not in theirs:
        raise ValueError(
            f"{holds} of an earlier version of ckrm_kernels, which kept no digest of their data; choose another folder"
        )
    different = differences(ours, theirs)
    if different:
        raise ValueError(f"{holds} of other data: the data in {place} differs: {different}; choose another folder")
