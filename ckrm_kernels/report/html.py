"""A report as one HTML page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ckrm_kernels.report.table import cells, columns, heading

if TYPE_CHECKING:
    from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport

_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #626a73; --line: #dfe3e8; --back: #ffffff;
  --below: #4c78a8; --above: #d1495b; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --soft: #9aa3ad; --line: #333a42; --back: #15181c;
  --below: #7aa6d8; --above: #f0788a; } }
body { margin: 0 auto; padding: 1.25rem; max-width: 75rem; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .4rem; }
p { color: var(--soft); margin: 0 0 1.1rem; max-width: 60rem; }
div.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: middle; }
th { color: var(--soft); font-weight: 600; font-size: .82rem; white-space: nowrap; }
.word { text-align: left; overflow-wrap: break-word; }
.name { font-weight: 600; max-width: 22rem; }
.skipped, .skipped .name { color: var(--soft); font-weight: 400; }
.high { color: var(--above); font-weight: 700; }
svg { display: block; width: 9rem; height: 2rem; }
.below { fill: var(--below); } .above { fill: var(--above); } .threshold { stroke: var(--above); stroke-width: .6;
  stroke-dasharray: 2 1.5; } .base { stroke: var(--line); stroke-width: .6; }
@media (max-width: 46rem) {
  thead { display: none; }
  tr { display: grid; grid-template-columns: repeat(3, 1fr); gap: .15rem .8rem; padding: .7rem 0;
    border-bottom: 1px solid var(--line); }
  td { border: 0; padding: 0; text-align: left; }
  td:empty { display: none; }
  td[data-label]::before { content: attr(data-label); display: block; color: var(--soft); font-size: .72rem;
    font-weight: 400; }
  .name, .wide { grid-column: 1 / -1; max-width: none; }
  .wide::before { display: none !important; } .name { font-size: 1.02rem; }
  svg { width: 100%; height: 2.4rem; }
}
"""
_EXPLANATION = (
    "Chance is the same layer's redundancy with the positions in every slice permuted; a redundancy above it is red."
)


def page(report: RedundancyReport) -> str:
    """A page of one table, with a small histogram of Omega in each measured row; every name is escaped."""
    header = ["layer", "Ψ of all pairs", *columns(report)[1:]]
    head = "".join(f'<th class="{_style(name)}">{escape(name)}</th>' for name in header)
    rows = "\n".join(_row(layer, report) for layer in report.layers)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Redundancy of a model's layers</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Redundancy of a model's layers</h1>
<p>{escape(heading(report))} {_EXPLANATION}</p>
<div class="scroll"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
</body>
</html>
"""


def _row(layer: LayerRedundancy, report: RedundancyReport) -> str:
    labels, texts = columns(report)[1:], cells(layer, report)
    cell_of = {label: _cell(label, text) for label, text in zip(labels, texts[1:], strict=True)}
    if layer.above_chance:
        cell_of["redundancy"] = _cell("redundancy", f"{layer.redundancy:.4f}", "high")
    if layer.status == "skipped":  # its note takes the place of the numbers
        shown = ("kind", "filters", "slices", "kernel")
        span = len(labels) - len(shown)
        note = f'<td class="word wide" colspan="{span}">{escape(texts[-1])}</td>'
        cell_of = {label: cell_of[label] for label in shown} | {"note": note}
    name = f'<td class="word name">{escape(texts[0])}</td>'
    picture = f'<td class="wide">{_histogram(layer, report.threshold)}</td>'
    return f'<tr class="{layer.status}">{name}{picture}{"".join(cell_of.values())}</tr>'


def _cell(label: str, text: str, style: str = "") -> str:
    return f'<td class="{style or _style(label)}" data-label="{escape(label)}">{escape(text)}</td>'


def _style(column: str) -> str:
    return {"layer": "word", "kind": "word", "note": "word wide", "Ψ of all pairs": "word"}.get(column, "number")


def _histogram(layer: LayerRedundancy, threshold: float) -> str:
    """The layer's distribution of Omega as inline SVG, 100 units wide."""
    if not layer.histogram or not any(layer.histogram):
        return ""
    fullest, width = max(layer.histogram), 100 / len(layer.histogram)
    below: list[str] = []
    above: list[str] = []
    for index, count in enumerate(layer.histogram):
        if count:
            height = max(19 * count / fullest, 0.4)
            bar = f"M{index * width:g} 20v{-height:.3g}h{width:g}v{height:.3g}z"
            (above if index * width >= 100 * threshold - 1e-6 else below).append(bar)
    t = 100 * threshold
    return (
        '<svg viewBox="0 0 100 20" preserveAspectRatio="none" role="img">'
        f"<title>distribution of Psi from 0 to 1, threshold at {threshold:g}</title>"
        f'<path class="below" d="{"".join(below)}"/><path class="above" d="{"".join(above)}"/>'
        f'<path class="base" d="M0 20h100"/><path class="threshold" d="M{t:g} 0v20"/></svg>'
    )
