"""The study's figure: accuracy over size."""

from __future__ import annotations

import pandas
from accuracies import WHOLE, Way, of_way
from cells import (
    ARCHITECTURES,
    BATCH_NORM,
    ERROR,
    FOLD,
    MERGED,
    NOTHING,
    PEER,
    SCRATCH,
    SCRATCH_PARAMETERS,
    SHARES,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ckrm_kernels.comparison.statistics import mean_interval
from ckrm_kernels.presentation.drawing import new_figure
from ckrm_kernels.presentation.theme import LIGHT

LINES = (  # method, compensation, words, colour, dashes
    (ERROR, FOLD, "shrunk, folded", "searched", "-"),
    (ERROR, BATCH_NORM, "shrunk, batch norm re-estimated", "searched", "--"),
    (ERROR, NOTHING, "shrunk, nothing", "searched", ":"),
    (SCRATCH, NOTHING, "trained from scratch, the same widths", "standard", "-"),
    (SCRATCH_PARAMETERS, NOTHING, "trained from scratch, uniform widths", "uniform", "-"),
    (MERGED, BATCH_NORM, "merged without data, batch norm re-estimated", "narrower", "--"),
    (PEER, BATCH_NORM, "torch-pruning, batch norm re-estimated", "redundant", "--"),
)
LOWEST, HIGHEST = 0.70, 0.92
_APART = 0.004  # of two lines at one size, so that their intervals can be told apart


def drawn(frame: pandas.DataFrame) -> Figure:
    """A panel a kind of network, a line a way with 95 % intervals over seeds; the grey line is the full network."""
    figure = new_figure(7.8, 9.2, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, name in zip(panels.flat, ARCHITECTURES, strict=True):
        axes.axhline(of_way(frame, WHOLE, [name]).accuracy.mean(), color=LIGHT["soft"], linewidth=0.8, zorder=0)
        for place, line in enumerate(LINES):
            _draw(axes, frame, name, _APART * (place - len(LINES) / 2), line)
        axes.set_title(name, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(LOWEST, HIGHEST)
        axes.set_xticks(SHARES, [f"{100 * share:.0f}" for share in SHARES])
    for axes in panels[-1]:
        axes.set_xlabel("parameters left, %")
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _draw(axes: Axes, frame: pandas.DataFrame, name: str, shift: float, line: tuple[str, str, str, str, str]) -> None:
    method, compensation, words, colour, dashes = line
    x, y, below, above = [], [], [], []
    for share in SHARES:
        values = of_way(frame, Way(method, compensation, share), [name]).accuracy.tolist()
        if values:
            interval = mean_interval(values)
            x.append(share + shift)
            y.append(interval.mean)
            shown = interval.low is not None and interval.high is not None and interval.mean >= LOWEST
            below.append(interval.mean - interval.low if shown else 0.0)
            above.append(interval.high - interval.mean if shown else 0.0)
    style = {"color": LIGHT[colour], "linestyle": dashes, "linewidth": 1.3, "elinewidth": 0.9}
    axes.errorbar(x, y, (below, above), label=words, marker="o", markersize=2.5, capsize=1.5, **style)
