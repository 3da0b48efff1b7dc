"""A report as plain text, and as a data frame."""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING

from ckrm_kernels.psi_config import PsiConfig
from ckrm_kernels.report.result import LayerRedundancy

if TYPE_CHECKING:
    import pandas

    from ckrm_kernels.report.result import RedundancyReport


def table(report: RedundancyReport) -> str:
    """A heading and one aligned line a layer."""
    header = columns(report)
    rows = [cells(layer, report) for layer in report.layers]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [_aligned(row, widths) for row in (header, *rows)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join((heading(report), "", *lines))


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
    try:
        import pandas
    except ImportError as error:
        raise ImportError('to_pandas needs pandas: pip install "ckrm-kernels[report]"') from error
    rows = [{**asdict(layer), "median_psi": layer.quantile(0.5)} for layer in report.layers]
    return pandas.DataFrame(rows)


def csv_text(report: RedundancyReport) -> str:
    """A row a layer; empty where there is no value, the kernel as 3x3 and the models' values divided by blanks."""
    out = StringIO()
    fields = [field.name for field in dataclasses.fields(LayerRedundancy) if not field.name.startswith("histogram")]
    writer = csv.DictWriter(out, [*fields, "median_psi"], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for layer in report.layers:
        kernel = "x".join(map(str, layer.kernel_size or ()))
        per_model = {name: " ".join(map(repr, getattr(layer, name))) for name in fields if name.endswith("per_model")}
        median = layer.quantile(0.5)
        writer.writerow({**asdict(layer), "kernel_size": kernel, **per_model, "median_psi": median})
    return out.getvalue()


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    """Words to the left, numbers to the right."""
    padded = [
        cell.ljust(width) if index < 2 or index == len(row) - 1 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()
