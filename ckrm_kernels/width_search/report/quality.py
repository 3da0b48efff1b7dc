"""How good the networks are on held-out data, what they cost, and what may be concluded from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.comparison.statistics import Comparison, mean_interval
from ckrm_kernels.comparison.verdict import in_words, p_value, with_interval
from ckrm_kernels.presentation.markup import Table, render, swatch
from ckrm_kernels.presentation.numbers import duration, percent, size
from ckrm_kernels.presentation.tables import csv_text, together
from ckrm_kernels.training.saliency import SALIENCY_METRICS
from ckrm_kernels.width_search.findings import Findings, Latency
from ckrm_kernels.width_search.report.boxplots import box_plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"accuracy": "Accuracy", "auc": "AUC"}
_FIELDS = ("mean", "low", "high", "per_model")


def quality_figures(findings: Findings) -> dict[str, Figure]:
    """The box plots, by the name of their metric."""
    return {
        metric: box_plots(
            f"{title} on {findings.images:,} held-out images",
            [(each.name, values_of(each, metric)) for each in findings.candidates],
        )
        for metric, title in METRICS.items()
    }


def quality_section(findings: Findings, drawings: Mapping[str, Markup]) -> Markup:
    """Figures, means, comparisons in numbers and in words, and costs. drawings: all figures of the page"""
    networks = len(findings.candidates[0].scores)
    each = f"each of the {networks} networks of a group" if networks > 1 else "the one network of each group"
    boxes = "Boxes span the quartiles, whiskers the whole range; the line is the median. " if networks > 1 else ""
    return render(
        __file__,
        drawings=[drawings[metric] for metric in METRICS],
        caption=f"{boxes}A dot is {each}, from its own seed.",
        means=_means(findings.candidates),
        saliency=_means_of_saliency(findings.candidates),
        comparisons=_comparisons(findings.comparisons) if findings.comparisons else None,
        in_words=[f"{METRICS[each.metric]}: {in_words(each)}." for each in findings.comparisons],
        costs=_costs(findings),
    )


def quality_csv(findings: Findings) -> str:
    """A row for each candidate: means with intervals, each network's value, and costs."""
    of_metrics = [f"{metric}_{field}" for metric in METRICS for field in _FIELDS]
    of_metrics += [f"saliency_{metric}_{field}" for metric in _saliency(findings.candidates) for field in _FIELDS]
    costs = ["parameters", "multiply_adds", "checkpoint_bytes"]
    rows = [
        [
            each.name,
            len(each.scores),
            *(cell for metric in METRICS for cell in _metric_cells(values_of(each, metric))),
            *(cell for metric in _saliency(findings.candidates) for cell in _metric_cells(each.saliency(metric))),
            *(getattr(each, cost) for cost in costs),
        ]
        for each in findings.candidates
    ]
    return csv_text(["name", "networks", *of_metrics, *costs], rows)


def latency_csv(findings: Findings) -> str:
    """A row for each candidate on each device, with each number of images at once."""
    rows = [
        [candidate.name, latency.device, latency.batch, latency.seconds[candidate.name]]
        for latency in findings.latencies
        for candidate in findings.candidates
    ]
    return csv_text(["name", "device", "images", "seconds"], rows)


def comparisons_csv(findings: Findings) -> str:
    """A row for each comparison."""
    fields = (
        "metric",
        "first",
        "second",
        "difference_p",
        "margin",
        "equivalence_p",
        "different",
        "equivalent",
        "paired",
    )
    rows = [
        [*(getattr(each, field) for field in fields), each.difference.mean, each.difference.low, each.difference.high]
        for each in findings.comparisons
    ]
    return csv_text([*fields, "difference", "difference_low", "difference_high"], rows)


def values_of(candidate: Candidate, metric: str) -> tuple[float, ...]:
    """The metric of each network."""
    return candidate.aucs if metric == "auc" else candidate.accuracies


def _metric_cells(values: Sequence[float]) -> list[object]:
    interval = mean_interval(values)
    return [interval.mean, interval.low, interval.high, together(values)]


def _means(candidates: Sequence[Candidate]) -> Table:
    intervals = any(mean_interval(each.accuracies).low is not None for each in candidates)
    rows = [
        [
            swatch(each.name),
            str(len(each.scores)),
            *(with_interval(mean_interval(values_of(each, metric))) for metric in METRICS),
        ]
        for each in candidates
    ]
    caption = "Mean over the networks" + (", with its 95% interval" if intervals else "")
    return Table(caption, ["network", "seeds", *METRICS.values()], rows)


def _means_of_saliency(candidates: Sequence[Candidate]) -> Table | None:
    metrics = _saliency(candidates)
    rows = [
        [swatch(each.name), *(with_interval(mean_interval(each.saliency(metric))) for metric in metrics)]
        for each in candidates
    ]
    return Table("Predicted saliency against the gaze", ["network", *metrics.values()], rows) if metrics else None


def _saliency(candidates: Sequence[Candidate]) -> Mapping[str, str]:
    """The metrics of saliency, by their names; none where the networks predict no saliency."""
    return SALIENCY_METRICS if candidates[0].scores[0].saliency else {}


def _comparisons(comparisons: Sequence[Comparison]) -> Table:
    rows = [
        [
            f"{METRICS[each.metric]}: {each.first} − {each.second}",
            with_interval(each.difference, sign=True),
            p_value(each.difference_p),
            f"±{each.margin:g}",
            p_value(each.equivalence_p),
        ]
        for each in comparisons
    ]
    interval = " [95% interval]" if comparisons[0].difference.low is not None else ""
    head = ["comparison", f"difference{interval}", "difference p", "margin", "equivalence p"]
    how = ", paired by seed" if all(each.paired for each in comparisons) else ""
    return Table(f"Differences of the means{how}", head, rows)


def _costs(findings: Findings) -> Table:
    """A row for each candidate, beside its share of the first one's."""
    candidates, latencies = findings.candidates, findings.latencies
    columns = {
        "parameters": _with_shares([each.parameters for each in candidates]),
        "multiply-adds for one image": _with_shares([each.multiply_adds for each in candidates]),
        "checkpoint": [size(each.checkpoint_bytes) for each in candidates],
        **{_latency_in_words(each): _latency_cells(each, candidates) for each in latencies},
    }
    rows = [[swatch(each.name), *cells] for each, *cells in zip(candidates, *columns.values(), strict=True)]
    latency = ", and the latency of a forward pass" if latencies else ""
    return Table(f"Cost of a network{latency}", ["network", *columns], rows)


def _with_shares(values: Sequence[int]) -> list[str]:
    whole = values[0]
    return [f"{whole:,}", *(f"{value:,} ({percent(value, whole)})" for value in values[1:])]


def _latency_in_words(latency: Latency) -> str:
    images = "1 image" if latency.batch == 1 else f"{latency.batch} images"
    return f"{images}, {latency.device}"


def _latency_cells(latency: Latency, candidates: Sequence[Candidate]) -> list[str]:
    first, *others = (latency.seconds[each.name] for each in candidates)
    return [duration(first), *(f"{duration(each)} ({first / each:.1f}× as fast)" for each in others)]
