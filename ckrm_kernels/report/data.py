"""A report as data: JSON, CSV and a data frame."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ckrm_kernels.extras import require
from ckrm_kernels.presentation.tables import csv_text, together
from ckrm_kernels.report.result import KernelPatterns, LayerRedundancy, RedundancyReport, ScaleFreeRedundancy
from ckrm_kernels.report.words import verdict

if TYPE_CHECKING:
    import pandas


def as_json(report: RedundancyReport) -> str:
    """See `RedundancyReport.to_json`."""
    value = {**_of_all(report), "verdict": verdict(report), "layers": [_of_layer(each) for each in report.layers]}
    return json.dumps(value, indent=2, allow_nan=False)


def frame(report: RedundancyReport) -> pandas.DataFrame:
    """A row a layer, with the fields of `LayerRedundancy`, the finding and the median of Psi."""
    with require("to_pandas", "pandas"):
        import pandas
    result = pandas.DataFrame([_flat(layer) for layer in report.layers])
    result.attrs = _of_all(report)
    return result


def as_csv(report: RedundancyReport) -> str:
    """See `RedundancyReport.to_csv`; empty where there is no value, the kernel as 3x3."""
    of_all = {name: _in_one_field(value) for name, value in _of_all(report).items()}
    rows, columns = [], _csv_columns(with_patterns=any(layer.patterns for layer in report.layers))
    for layer in report.layers:
        values = {**_flat(layer), "kernel_size": "x".join(map(str, layer.kernel_size or ()))}
        rows.append([_in_one_field(values.get(name)) for name in columns] + list(of_all.values()))
    return csv_text([*columns, *of_all], rows)


def _of_all(report: RedundancyReport) -> dict[str, Any]:
    """What holds for every layer of a report."""
    return {
        "threshold": report.threshold,
        "models": report.models,
        "similarity": asdict(report.similarity),
        "pointwise": report.pointwise,
        "sources": [asdict(source) for source in report.sources],
        "notes": list(report.notes),
        "created": report.created,
        "versions": dict(report.versions),
    }


def _of_layer(layer: LayerRedundancy) -> dict[str, Any]:
    values = {**asdict(layer), "finding": layer.finding, "median_psi": layer.quantile(0.5)}
    return values if layer.patterns else {name: value for name, value in values.items() if name != "patterns"}


def _flat(layer: LayerRedundancy) -> dict[str, Any]:
    """A layer's values with the fields of `ScaleFreeRedundancy` and `KernelPatterns` beside the others."""
    values = _of_layer(layer)
    within = values.pop("scale_free") or {}
    scale_free = {f"scale_free_{field.name}": within.get(field.name) for field in fields(ScaleFreeRedundancy)}
    patterns = {f"patterns_{name}": share for name, share in values.pop("patterns", {}).items()}
    return {**values, **scale_free, **patterns}


def _csv_columns(with_patterns: bool) -> list[str]:
    own = [field.name for field in fields(LayerRedundancy) if field.name not in ("scale_free", "patterns")]
    scale_free = [f"scale_free_{field.name}" for field in fields(ScaleFreeRedundancy)]
    patterns = [f"patterns_{field.name}" for field in fields(KernelPatterns)] if with_patterns else []
    shown = [name for name in own if not name.startswith("histogram")]
    return [*shown, *scale_free, "finding", "median_psi", *patterns]


def _in_one_field(value: Any) -> Any:
    """A value as CSV has it: several numbers divided by blanks, what has names as JSON, notes by semicolons."""
    if isinstance(value, tuple):
        return together(value)
    if isinstance(value, dict) or (value and isinstance(value, list) and isinstance(value[0], dict)):
        return json.dumps(value)
    return "; ".join(value) if isinstance(value, list) else value
