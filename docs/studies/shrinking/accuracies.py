"""The finished cells as a table, and ways compared over networks of the same seed and architecture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas
from cells import FULL, NOTHING, Result
from scipy.stats import ttest_1samp

from ckrm_kernels.comparison.statistics import FEWEST, Interval, mean_interval

MARGIN = 0.005
"""Half a point: the largest difference in accuracy that counts as none."""


@dataclass(frozen=True)
class Way:
    """How networks come about; see `cells.Cell`. With epochs the compensation is that from which tuning started."""

    method: str
    compensation: str
    share: float
    epochs: int = 0


WHOLE = Way(FULL, NOTHING, 1.0)


@dataclass(frozen=True)
class Paired:
    """Differences in accuracy, one a pair of networks.

    equivalence_p: of two one-sided t-tests against `MARGIN`; not_worse_p: of the one that asks whether the first is
        worse by the margin; different_p: two-sided, whether they differ at all; None of fewer than `FEWEST` pairs
    """

    difference: Interval
    pairs: int
    equivalence_p: float | None = None
    not_worse_p: float | None = None
    different_p: float | None = None

    @classmethod
    def of(cls, differences: Sequence[float]) -> Paired:
        """The first way less the second."""
        interval = mean_interval(differences)
        if len(differences) < FEWEST:
            return cls(interval, len(differences))
        above = float(ttest_1samp(differences, -MARGIN, alternative="greater").pvalue)
        below = float(ttest_1samp(differences, MARGIN, alternative="less").pvalue)
        different = float(ttest_1samp(differences, 0).pvalue)
        return cls(interval, len(differences), max(above, below), above, different)


def as_frame(results: Iterable[Result]) -> pandas.DataFrame:
    """A row an accuracy.

    parameters, multiply_adds: shares of the full network's; lost: the full network's accuracy less the row's
    """
    rows = [
        {
            "architecture": result.cell.architecture,
            "seed": result.cell.seed,
            "method": result.cell.method,
            "share": result.cell.share,
            "compensation": compensation,
            "epochs": result.cell.epochs,
            "parameters": result.parameters,
            "multiply_adds": result.multiply_adds,
            "accuracy": accuracy,
        }
        for result in results
        for compensation, accuracy in result.accuracy.items()
    ]
    frame = pandas.DataFrame(rows)
    full = frame[frame.method == FULL].set_index(["architecture", "seed"])
    frame = frame.join(full[["parameters", "multiply_adds", "accuracy"]].add_suffix("_full"), ["architecture", "seed"])
    for size in ("parameters", "multiply_adds"):
        frame[size] = frame[size] / frame[f"{size}_full"]
    frame["lost"] = frame.accuracy_full - frame.accuracy
    return frame.drop(columns=[name for name in frame if name.endswith("_full")])


def of_way(frame: pandas.DataFrame, way: Way, architectures: Sequence[str]) -> pandas.DataFrame:
    """The rows of a way."""
    chosen = frame.architecture.isin(architectures) & (frame.method == way.method) & (frame.share == way.share)
    return frame[chosen & (frame.compensation == way.compensation) & (frame.epochs == way.epochs)]


def differences(frame: pandas.DataFrame, first: Way, second: Way, architectures: Sequence[str]) -> list[float]:
    """The first way's accuracies less the second's, of the networks that have both."""
    both = of_way(frame, first, architectures).merge(
        of_way(frame, second, architectures), on=["architecture", "seed"], suffixes=("_first", "_second")
    )
    return (both.accuracy_first - both.accuracy_second).tolist()
