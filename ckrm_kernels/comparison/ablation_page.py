"""What an ablation of VGNet found, as tables and sentences on a terminal and as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ckrm_kernels.comparison.statistics import FEWEST, Interval
from ckrm_kernels.comparison.tables import mean_and_deviation, new_table
from ckrm_kernels.comparison.verdict import with_interval
from ckrm_kernels.models.vgnet import VARIANTS, Kernels
from ckrm_kernels.presentation.drawing import MARGIN, TYPE, WIDTH, inline_svg, new_figure, plain
from ckrm_kernels.presentation.markup import Table, render
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ckrm_kernels.comparison.ablation import AblatedVariant, Ablation

_NONE = "–"  # noqa: RUF001
_ROW, _ABOVE, _BELOW, _LEFT = 24.0, 30.0, 26.0, 74.0  # points


def page(ablation: Ablation) -> str:
    """Differences drawn and in words, both tables, what was trained."""
    config = ablation.config
    rendered = render(
        __file__,
        title="VGNet: which depthwise kernels may be fixed",
        lead=f"{len(VARIANTS)} variants, each from {counted(len(config.seeds), 'seed')}, on {ablation.data}: "
        f"{ablation.images:,} held-out images.",
        figure=inline_svg(_figure(ablation), "differences", "difference in accuracy of each variant, with its interval")
        if _has_intervals(ablation)
        else "",
        sentences=in_words(ablation),
        kernels=_kernels(ablation),
        quality=_quality(ablation),
        redundancy=_redundancy(ablation),
        provenance=[(name, str(value)) for name, value in _provenance(ablation)],
    )
    return str(rendered)


def tables(ablation: Ablation) -> list[Any]:
    """What is fixed, quality and redundancy, as rich draws them."""
    return [_for_terminal(table) for table in (_kernels(ablation), _quality(ablation), _redundancy(ablation))]


def in_words(ablation: Ablation) -> list[str]:
    """A sentence for each variant but the one that learns all kernels: how far its accuracy is from that one's."""
    reference, *others = ablation.variants
    first = name_of(reference)
    return [f"{name_of(each)} less {first}: {_judged(each.accuracy_difference, first)}" for each in others]


def name_of(variant: AblatedVariant) -> str:
    """As the paper has it."""
    return f"VGNet{variant.variant.upper()}"


def _judged(difference: Interval | None, reference: str) -> str:
    assert difference is not None
    if difference.low is None or difference.high is None:
        return f"{with_interval(difference, sign=True)} accuracy, of fewer than {FEWEST} seeds, which give no interval"
    if difference.low <= 0 <= difference.high:
        verdict = "not told apart"
    else:
        verdict = "better" if difference.mean > 0 else "worse"
    return f"{with_interval(difference, sign=True)} accuracy, {verdict}"


def _kernels(ablation: Ablation) -> Table:
    rows = [(name_of(each), *VARIANTS[each.variant]) for each in ablation.variants]
    first = {"cifar": "; for small images, the first downsampling block learns its own", "imagenet": ""}
    caption = f"Kernels of the depthwise layers{first[ablation.network.form]}"
    return Table(caption, ("", *Kernels._fields), rows)


def _quality(ablation: Ablation) -> Table:
    rows = [
        (
            name_of(each),
            f"{each.parameters:,}",
            mean_and_deviation(each.accuracies),
            _written(each.accuracy_difference),
            mean_and_deviation(each.aucs),
        )
        for each in ablation.variants
    ]
    head = ("", "parameters", "accuracy", "less that of VGNetC", "macro AUC")
    return Table("Quality on held-out data (mean ± deviation)", head, rows)


def _redundancy(ablation: Ablation) -> Table:
    head = ("", "depthwise layers", "kernels", "layers", "lambda", "chance")
    rows = [
        (
            name_of(variant),
            each.place,
            "fixed" if each.fixed else "learnable",
            str(each.layers),
            f"{each.redundancy:.3f}",
            f"{each.chance:.3f}",
        )
        for variant in ablation.variants
        for each in variant.depthwise
    ]
    return Table("lambda^0.6 of depthwise layers, scale-free, beside its chance level", head, rows)


def _written(difference: Interval | None) -> str:
    return _NONE if difference is None else with_interval(difference, sign=True)


def _for_terminal(table: Table) -> Any:
    drawn = new_table(table.caption)
    for heading in table.head:
        drawn.add_column(heading, overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def _has_intervals(ablation: Ablation) -> bool:
    return len(ablation.config.seeds) >= FEWEST


def _figure(ablation: Ablation) -> Figure:
    """For each variant the difference in accuracy and its interval, the first on top; a line at no difference."""
    others = ablation.variants[1:]
    total = _ROW * len(others) + _ABOVE + _BELOW
    across = 72 * WIDTH
    figure = new_figure(total / 72)
    axes = figure.add_axes((_LEFT / across, _BELOW / total, 0.95 - _LEFT / across, _ROW * len(others) / total))
    plain(axes)
    axes.axvline(0, color=LIGHT["line"], linewidth=1.2)
    for place, each in enumerate(others):
        difference = each.accuracy_difference
        assert difference is not None
        assert difference.low is not None
        assert difference.high is not None
        axes.plot([difference.low, difference.high], [place, place], color=LIGHT["searched"], linewidth=2)
        axes.plot([difference.mean], [place], "o", color=LIGHT["searched"], markersize=6)
    names = [name_of(each) for each in others]
    axes.set_yticks(range(len(others)), names, fontsize=TYPE, color=LIGHT["text"])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(others) - 0.5, -0.5)
    title = f"Accuracy less that of {name_of(ablation.variants[0])} of the same seed"
    figure.text(MARGIN / WIDTH, 1 - 6 / total, title, fontsize=TYPE + 1, weight="bold", color=LIGHT["text"], va="top")
    return figure


def _provenance(ablation: Ablation) -> Sequence[tuple[str, Any]]:
    config = ablation.config
    training = ", ".join(f"{name} {value}" for name, value in asdict(config.training).items())
    data = ", ".join(f"{name} {value}" for name, value in asdict(config.data).items() if value is not None)
    return (
        ("network", str(ablation.network).partition(" ")[2].strip("()")),
        ("data", data),
        ("training", training),
        ("seeds", ", ".join(map(str, config.seeds))),
        ("version", f"ckrm_kernels {__version__}"),
    )
