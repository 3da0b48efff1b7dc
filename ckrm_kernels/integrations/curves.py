"""A report as what loggers take: numbers by their names, and histograms for TensorBoard."""

from __future__ import annotations

from typing import Any

from ckrm_kernels.report import RedundancyReport
from ckrm_kernels.report.columns import shown_name


def pooled_redundancy(report: RedundancyReport) -> float:
    """lambda^t over the pairs of all measured layers together; 0 where there is no pair."""
    above = sum(pairs_above(report))
    return above / max(sum(layer.pairs for layer in report.measured), 1)


def pairs_above(report: RedundancyReport) -> list[int]:
    """How many pairs of filters of each measured layer of one model are above the threshold."""
    return [round(layer.redundancy * layer.pairs) for layer in report.measured if layer.redundancy is not None]


def scalars(report: RedundancyReport) -> dict[str, float]:
    """lambda^t by what loggers call it: of all layers together "redundancy", of each "redundancy/" and its name."""
    of_layers = {
        f"redundancy/{shown_name(layer)}": layer.redundancy for layer in report.measured if layer.redundancy is not None
    }
    return {"redundancy": pooled_redundancy(report), **of_layers}


def add_histograms(writer: Any, report: RedundancyReport, step: int) -> None:
    """Writes the distribution of Psi in each measured layer to a `SummaryWriter`, as "psi/" and its name.

    The sums that TensorBoard keeps with a histogram are of the middles of the bins.
    """
    for layer in report.measured:
        counts = layer.histogram
        if not counts or not sum(counts):
            continue
        width = (1 - layer.lowest) / len(counts)
        middles = [layer.lowest + width * (index + 0.5) for index in range(len(counts))]
        writer.add_histogram_raw(
            f"psi/{shown_name(layer)}",
            min=layer.lowest,
            max=1.0,
            num=sum(counts),
            sum=sum(middle * count for middle, count in zip(middles, counts, strict=True)),
            sum_squares=sum(middle * middle * count for middle, count in zip(middles, counts, strict=True)),
            bucket_limits=[middle + width / 2 for middle in middles],
            bucket_counts=list(counts),
            global_step=step,
        )
