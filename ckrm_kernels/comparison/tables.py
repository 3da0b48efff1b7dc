"""The tables of a comparison, as rich draws them on a terminal and into a text file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from io import StringIO
from typing import Any

from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.comparison.latency import Latency
from ckrm_kernels.comparison.measured_layers import CONFIGURED, SCALE_FREE, Level, MeasuredLayer
from ckrm_kernels.comparison.statistics import deviation
from ckrm_kernels.report.columns import NOTHING
from ckrm_kernels.report.result import TARGET, exceeds_chance
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.training.saliency import SALIENCY_METRICS

_FILE_WIDTH = 80
_BESIDE = 3  # networks that a table of `_FILE_WIDTH` has room for


def compared(candidates: Sequence[Candidate], latencies: Sequence[Latency]) -> Any:
    """What each network costs and how well it does on held-out data, a few networks beside each other."""
    from rich.console import Group

    names = _names_of_widths(candidates)
    several = any(len(each.scores) > 1 for each in candidates)
    what = "Cost and quality" if names is None else "Widths, cost, and quality"
    title = f"{what} on held-out data" + (" (mean ± deviation)" if several else "")
    parts = [candidates[start : start + _BESIDE] for start in range(0, len(candidates), _BESIDE)]
    titles = [title, *[f"{title}, continued"] * (len(parts) - 1)]
    drawn = [
        _beside(title, part, names or (), candidates[0], latencies) for title, part in zip(titles, parts, strict=True)
    ]
    if names is None:
        drawn[-1].caption = "without widths, for not all of the networks share names of them"
    return Group(*drawn)


def _names_of_widths(candidates: Sequence[Candidate]) -> list[str] | None:
    """The names of all widths, in order; None where those of a candidate and of the first one have none in common."""
    named = [each.widths for each in candidates if each.widths]
    if any(named[0].keys().isdisjoint(each) for each in named[1:]):
        return None
    return list(dict.fromkeys(name for widths in named for name in widths))


def _beside(
    title: str, candidates: Sequence[Candidate], names: Sequence[str], first: Candidate, latencies: Sequence[Latency]
) -> Any:
    """A column for each of some candidates. names: of all widths; first: whose shares the costs are"""
    table = new_table(title)
    table.add_column("", no_wrap=True)
    for each in candidates:
        table.add_column(each.name, justify="right", overflow="fold")
    for name in names:
        table.add_row(name, *(str(each.widths.get(name, "")) for each in candidates))
    table.add_section()
    table.add_row("parameters", *(_with_share(each.parameters, first.parameters) for each in candidates))
    table.add_row("multiply-adds", *(_with_share(each.multiply_adds, first.multiply_adds) for each in candidates))
    table.add_row("checkpoint, kB", *(f"{each.checkpoint_bytes / 1000:,.0f}" for each in candidates))
    table.add_row("accuracy", *(mean_and_deviation(each.accuracies) for each in candidates))
    table.add_row("macro AUC", *(mean_and_deviation(each.aucs) for each in candidates))
    for metric, words in SALIENCY_METRICS.items() if any(each.scores[0].saliency for each in candidates) else ():
        values = [each.saliency(metric) for each in candidates]
        table.add_row(f"saliency {words}", *(mean_and_deviation(each) if each else "" for each in values))
    table.add_row("lambda of all pairs", *(_of_all_pairs(each.layers, CONFIGURED) for each in candidates))
    table.add_row("by chance", *(_of_all_pairs(each.layers, CONFIGURED, by_chance=True) for each in candidates))
    if any(SCALE_FREE in layer.levels for each in candidates for layer in each.layers):
        table.add_row("lambda, scale-free", *(_of_all_pairs(each.layers, SCALE_FREE) for each in candidates))
        by_chance = (_of_all_pairs(each.layers, SCALE_FREE, by_chance=True) for each in candidates)
        table.add_row("by chance, scale-free", *by_chance)
    for latency in latencies:
        images = "1 image" if latency.batch == 1 else f"{latency.batch} images"
        times = (f"{latency.seconds[each.name] * 1000:.2f} ms" for each in candidates)
        table.add_row(f"{images}, {latency.device}", *times)
    return table


def layers_of(candidate: Candidate, threshold: float, psi: Similarity) -> Any:
    """lambda of each layer at the psi, and scale-free where that differs, each beside its chance level."""
    table = new_table(
        f"lambda^{threshold:g} of the {candidate.name} network at {psi.in_words()}"
        + (", mean ± deviation over the seeds" if len(candidate.scores) > 1 else "")
    )
    table.add_column("layer", overflow="fold")
    beside = ("scale-free", "chance") if psi.depends_on_scale else ()
    for heading in ("filters", "lambda", "chance", *beside, "distinct"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in candidate.layers:
        levels = [layer.configured, *((layer.scale_free,) if psi.depends_on_scale else ())]
        shown = [text for level in levels for text in _level(level)]
        table.add_row(layer.name, str(layer.filters), *shown, distinct(layer))
    table.caption = (
        "chance: the same, positions in every slice permuted. "
        f"distinct: filters left when repeats at {psi.in_words()} merge, where lambda exceeds chance"
    )
    return table


def distinct(layer: MeasuredLayer) -> str:
    """The mean number of distinct filters; a dash where lambda does not exceed chance, as in a report of `measure`."""
    level, models = layer.configured, len(layer.histograms)
    beyond = exceeds_chance(level.mean, level.chance, layer.pairs, models) and not layer.is_within(TARGET)
    return f"{statistics.fmean(layer.distinct):.1f}" if beyond else NOTHING


def as_text(renderables: Sequence[Any]) -> str:
    """What rich would draw, as plain text."""
    from rich.console import Console

    file = StringIO()
    console = Console(file=file, width=_FILE_WIDTH, color_system=None, force_terminal=False)
    for each in renderables:
        console.print(each, highlight=False, markup=False)
        console.print()
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def mean_and_deviation(values: Sequence[float]) -> str:
    """Of the seeds, in four decimals; a single one has no deviation."""
    spread = deviation(values)
    return f"{statistics.fmean(values):.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def listed(widths: dict[str, int]) -> str:
    """The widths alone, in order."""
    return "/".join(map(str, widths.values()))


def _of_all_pairs(layers: Sequence[MeasuredLayer], level: str, by_chance: bool = False) -> str:
    """The share of the pairs of all layers that are redundant, or would be by chance; a dash where none is measured."""
    pairs = sum(layer.pairs for layer in layers)
    levels = [(layer.pairs, layer.levels[level]) for layer in layers]
    above = sum(count * (each.chance if by_chance else each.mean) for count, each in levels)
    return f"{above / pairs:.3f}" if pairs else NOTHING


def _level(level: Level) -> tuple[str, str]:
    spread = deviation(level.per_model)
    return _short(level.mean) + ("" if spread is None else f"±{_short(spread)}"), f"{level.chance:.3f}"


def _short(share: float) -> str:
    """Three decimals, without the zero before the point."""
    return f"{share:.3f}".removeprefix("0")


def _with_share(value: int, whole: int) -> str:
    return f"{value:,}" if value == whole else f"{value:,} ({value / whole:.1%})"


def new_table(title: str) -> Any:
    """An empty table in the manner of all of them."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
