"""What a view shows of each layer, as text: the columns of the table and of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ckrm_kernels.presentation.grid import Column
from ckrm_kernels.presentation.tables import printable
from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport, ScaleFreeRedundancy, exceeds_chance
from ckrm_kernels.similarity import written

NOTHING = "–"  # noqa: RUF001 - an en dash: there is no such number
TOO_FEW = "fewer than two filters"


def columns(report: RedundancyReport, layers: Sequence[LayerRedundancy]) -> list[Column[LayerRedundancy]]:
    """Those that say something of at least one of the layers, and the name."""
    return [column for column in _every(report) if column.key == "layer" or any(map(column.text, layers))]


def shape(layer: LayerRedundancy) -> str:
    """Such as 64x3x7x7; "" where there are no filters."""
    sizes = () if layer.filters is None else (layer.filters, layer.slices or 0, *(layer.kernel_size or ()))
    return "x".join(map(str, sizes))


def shown_name(layer: LayerRedundancy) -> str:
    """The name, with what would move a terminal's cursor written out."""
    return printable(layer.name) or "(whole)"


def note(layer: LayerRedundancy) -> str:
    """How it was compared, or why it was skipped."""
    too_few = TOO_FEW if layer.status == "measured" and not layer.pairs else ""
    return "; ".join(filter(None, (layer.reason, too_few)))


def absolute_group(report: RedundancyReport) -> str:
    """What the columns of lambda as measured are called."""
    return f"eps {written(report.similarity.eps)}" if _has_scale_free(report) else ""


def similarity_word(report: RedundancyReport) -> str:
    """What the similarity of two filters is called."""
    return "Psi" if report.similarity.name == "psi" else report.similarity.name


def place(report: RedundancyReport, value: float) -> float:
    """Where a value of the similarity lies between the least and the most that there is, from 0 to 1."""
    lowest = report.similarity.lowest
    return (value - lowest) / (1 - lowest)


def _has_scale_free(report: RedundancyReport) -> bool:
    return any(layer.scale_free for layer in report.layers)


def _every(report: RedundancyReport) -> list[Column[LayerRedundancy]]:
    absolute = absolute_group(report)
    by_shape = "scale-free" if absolute else ""
    live = "live"
    return [
        Column("layer", "layer", "", shown_name, 0, True),
        Column("kind", "kind", "", lambda layer: layer.kind, 13, True),
        Column("shape", "shape", "", shape, 6),
        Column("redundancy", "lambda", absolute, _of_pairs(lambda layer: layer.redundancy), 1),
        Column("deviation", "deviation", absolute, _of_pairs(lambda layer: layer.deviation), 11),
        Column("chance", "chance", absolute, _of_pairs(lambda layer: layer.chance), 7),
        Column("distinct", "distinct", absolute, _distinct(lambda layer: layer), 8),
        Column("scale-free redundancy", "lambda", by_shape, _of_scale_free("redundancy"), 1),
        Column("scale-free deviation", "deviation", by_shape, _of_scale_free("deviation"), 12),
        Column("scale-free chance", "chance", by_shape, _of_scale_free("chance"), 2),
        Column("scale-free distinct", "distinct", by_shape, _distinct(lambda layer: layer.scale_free), 3),
        Column("dead", "dead", "", lambda layer: _number(layer.dead, ".4g"), 4),
        Column("live redundancy", "lambda", live, lambda layer: _of_live(layer, layer.live_redundancy), 5),
        Column("live chance", "chance", live, lambda layer: _of_live(layer, layer.live_chance), 10),
        Column(
            "median", f"median {similarity_word(report)}", "", lambda layer: _number(layer.quantile(0.5), ".2f"), 14
        ),
        *[
            Column(f"patterns {name}", name, "kernels", _of_patterns(name), rank)
            for name, rank in (("identity", 3), ("blur", 3), ("edge", 3), ("zero", 6), ("none", 9), ("chance", 9))
        ],
        Column("finding", "finding", "", finding, 2, True),
        Column("note", "note", "", note, 15, True),
    ]


def finding(layer: LayerRedundancy) -> str:
    """The mark of what lambda speaks of: "repeats", "scale" or ""."""
    return layer.finding if layer.finding in ("repeats", "scale") else ""


def _of_pairs(value: Callable[[LayerRedundancy], float | None]) -> Callable[[LayerRedundancy], str]:
    """A share of pairs as text; a dash where there is no pair."""

    def text(layer: LayerRedundancy) -> str:
        found = value(layer)
        return NOTHING if found is not None and not layer.pairs else _number(found, ".4f")

    return text


def _of_scale_free(name: str) -> Callable[[LayerRedundancy], str]:
    return _of_pairs(lambda layer: getattr(layer.scale_free, name, None))


def _of_patterns(name: str) -> Callable[[LayerRedundancy], str]:
    return lambda layer: _number(getattr(layer.patterns, name, None), ".1%")


def _distinct(
    of: Callable[[LayerRedundancy], LayerRedundancy | ScaleFreeRedundancy | None],
) -> Callable[[LayerRedundancy], str]:
    """The number of distinct filters, where lambda exceeds chance and the layer's finding says so; otherwise a dash."""

    def text(layer: LayerRedundancy) -> str:
        measured = of(layer)
        if measured is None or measured.distinct is None:
            return ""
        if not finding(layer) or measured.redundancy is None or measured.chance is None:
            return NOTHING
        models = max(len(layer.per_model), 1)
        exceeds = exceeds_chance(measured.redundancy, measured.chance, layer.pairs, models)
        return f"{measured.distinct:.4g}" if exceeds else NOTHING

    return text


def _median(layer: LayerRedundancy) -> str:
    median = layer.quantile(0.5)
    return _number(None if median is None else round(median, 2) + 0.0, ".2f")  # + 0.0: not -0.00


def _of_live(layer: LayerRedundancy, value: float | None) -> str:
    """Of the filters that are not dead, where others are; a dash where no two are left."""
    if not layer.dead or value is None:
        return ""
    return NOTHING if (layer.filters or 0) - layer.dead < 2 else _number(value, ".4f")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
