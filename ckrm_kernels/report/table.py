"""A report as plain text, as CSV and as a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ckrm_kernels.extras import require
from ckrm_kernels.presentation.tables import aligned, csv_text, together
from ckrm_kernels.psi_config import PsiConfig

if TYPE_CHECKING:
    import pandas

    from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport

WORDS = ("layer", "kind", "note")  # columns, the others are numbers


def table(report: RedundancyReport) -> str:
    """A heading and one aligned line a layer."""
    head = columns(report)
    rows = [head, *(cells(layer, report) for layer in report.layers)]
    numbers = [place for place, name in enumerate(head) if name not in WORDS]
    return f"{heading(report)}\n\n{aligned(rows, numbers, rule=True)}"


def heading(report: RedundancyReport) -> str:
    """What was measured and with which options, in one line."""
    models = f" Mean of {report.models} models." if report.models > 1 else ""
    counted = f"{len(report.measured)} of {len(report.layers)} layers measured"
    share = f"share of pairs of filters with Psi above {report.threshold:g}"
    return f"Redundancy: {share}; {PsiConfig.of(report.psi).in_words()}.{models} {counted}."


def columns(report: RedundancyReport) -> tuple[str, ...]:
    """The headings of `cells`."""
    deviation = ("deviation",) if report.models > 1 else ()
    measured = ("redundancy", *deviation, "chance", "median Psi", "distinct")
    return ("layer", "kind", "filters", "slices", "kernel", *measured, "note")


def cells(layer: LayerRedundancy, report: RedundancyReport) -> tuple[str, ...]:
    """One layer's row as text."""
    kernel = "x".join(map(str, layer.kernel_size or ()))
    deviation = (_number(layer.deviation, ".4f"),) if report.models > 1 else ()
    reason = f"skipped: {layer.reason}" if layer.status == "skipped" else layer.reason
    return (
        layer.name or "(whole)",
        layer.kind,
        _number(layer.filters, "d"),
        _number(layer.slices, "d"),
        kernel,
        _number(layer.redundancy, ".4f"),
        *deviation,
        _number(layer.chance, ".4f"),
        _number(layer.quantile(0.5), ".2f"),
        _number(layer.distinct, ".4g"),
        reason,
    )


def frame(report: RedundancyReport) -> pandas.DataFrame:
    """A row a layer, with the fields of `LayerRedundancy` and the median of Psi."""
    with require("to_pandas", "pandas"):
        import pandas
    rows = [{**asdict(layer), "median_psi": layer.quantile(0.5)} for layer in report.layers]
    return pandas.DataFrame(rows)


def as_csv(report: RedundancyReport, fields: Sequence[str]) -> str:
    """A row a layer; empty where there is no value, the kernel as 3x3 and the models' values divided by blanks.

    fields: of `LayerRedundancy`
    """
    rows = []
    for layer in report.layers:
        kernel = "x".join(map(str, layer.kernel_size or ()))
        per_model = {name: together(getattr(layer, name)) for name in fields if name.endswith("per_model")}
        values = {**asdict(layer), "kernel_size": kernel, **per_model}
        rows.append([*(values[name] for name in fields), layer.quantile(0.5)])
    return csv_text([*fields, "median_psi"], rows)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
