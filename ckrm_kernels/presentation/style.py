"""The page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping

from ckrm_kernels.presentation.colours import DARK, LIGHT


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


STYLE = (
    f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n"
    """
*, ::before, ::after { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 66rem; margin: 0 auto; padding: 2.2rem 1.25rem 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .8rem; letter-spacing: -.01em; text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 0 0 .9rem; padding-top: .9rem; border-top: 2px solid var(--text); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
section { margin-top: 3rem; }
p, ul { margin: 0 0 .9rem; max-width: 46rem; }
ul { padding-left: 1.2rem; }
li { margin-bottom: .3rem; }
.lead { font-size: 1.08rem; }
.note, figcaption { color: var(--soft); font-size: .87rem; line-height: 1.45; max-width: 46rem; }
.headline { display: grid; grid-template-columns: repeat(4, 1fr); margin: 1.6rem 0;
  border-block: 1px solid var(--line); }
.headline div { display: flex; flex-direction: column; padding: .9rem 1rem; border-left: 1px solid var(--line); }
.headline div:first-child { border-left: 0; padding-left: 0; }
.headline dt { order: 1; font-size: .9rem; }
.headline dd { margin: 0; }
.headline .number { font-size: 1.75rem; line-height: 1.25; font-weight: 600; letter-spacing: -.02em; }
.headline .word { font-size: 1.2rem; line-height: 1.82; letter-spacing: 0; }
.headline .detail { order: 2; color: var(--soft); font-size: .82rem; }
figure.table { margin-bottom: 1.2rem; }
.table > figcaption { margin: 0 0 .35rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; min-width: 100%; }
th, td { padding: .36rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--back); }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 600; font-size: .84rem; border-bottom-color: var(--soft); }
tbody th { font-weight: 500; }
tbody th, tfoot th { max-width: 18rem; overflow-wrap: break-word; white-space: normal; min-width: 7rem; }
tfoot th { font-weight: 400; color: var(--soft); }
tfoot td { color: var(--soft); }
tfoot tr:last-child > * { color: var(--text); font-weight: 600; border-bottom: 0; }
.kept { display: inline-flex; align-items: center; justify-content: flex-end; gap: .6rem; }
.kept span:last-child { min-width: 3.9em; }
.bar { width: 5rem; height: .45rem; background: linear-gradient(var(--searched) 0 0) left / var(--share) 100% no-repeat
  var(--line); }
.swatch { font-weight: 600; white-space: nowrap; }
.swatch::before { content: ""; display: inline-block; width: .62em; height: .62em; border-radius: 50%;
  margin-right: .4em; background: var(--soft); }
.swatch.standard::before { background: var(--standard); }
.swatch.searched::before { background: var(--searched); }
.swatch.uniform::before { background: var(--uniform); }
figure { margin: 0 0 1.4rem; }
figcaption { margin-top: .5rem; }
.columns { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.5rem 2rem; align-items: start; }
svg { display: block; width: 100%; max-width: 31rem; height: auto; overflow: visible; }
svg * { stroke-linejoin: round; }
svg text, svg tspan { font-family: inherit !important; font-variant-numeric: tabular-nums; }
.round { border: 0 !important; }
.round summary { font-weight: 600; padding: .25rem 0; }
.round .note { margin-bottom: .4rem; }
.changes { padding: 0; list-style: none; font-size: .9rem; }
.legends { display: flex; flex-wrap: wrap; gap: .3rem 2rem; color: var(--soft); font-size: .87rem;
  margin-bottom: 1rem; }
.legends span { white-space: nowrap; }
.legend { width: 9rem; height: .7rem; margin: 0 .5rem; border: 1px solid var(--line); }
details { border-bottom: 1px solid var(--line); }
details:first-of-type { border-top: 1px solid var(--line); }
summary { padding: .6rem 0; cursor: pointer; }
summary b, summary .network { margin-right: 1.1rem; display: inline-block; }
summary .network { color: var(--soft); font-size: .87rem; }
summary .swatch { font-weight: 400; }
.layer > div { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem 2.5rem;
  padding-bottom: 1.2rem; }
.layer h3 { margin-top: .3rem; }
.matrix, .kernels, .patch { image-rendering: pixelated; display: block; width: 100%; }
.matrix { aspect-ratio: 1; border: 1px solid var(--line); }
.look > figure { max-width: 22rem; margin-bottom: 1rem; }
.pairs { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem 1.2rem; }
.pairs figure { margin: 0; }
.look figcaption { margin-top: .2rem; font-size: .82rem; }
.pairs figcaption span { display: block; }
.patches table { min-width: 0; }
.patches td { text-align: center; padding: .2rem .45rem; }
.patches th { font-weight: 500; text-align: center; }
.patches tbody tr:not(:last-child) > * { border-bottom: 0; }
.patches tbody tr:first-child > * { padding-top: .6rem; }
.patches tr > :first-child { min-width: 5rem; text-align: left; }
.patch { width: 4.6rem; height: 4.6rem; border: 1px solid var(--line); }
.terms { display: grid; grid-template-columns: 11rem minmax(0, 46rem); gap: .7rem 1.5rem; margin: 0; }
.terms dt { font-weight: 600; }
.terms dd { margin: 0; }
@media (max-width: 50rem) {
  .columns, .layer > div { grid-template-columns: minmax(0, 1fr); }
  .headline { grid-template-columns: 1fr 1fr; }
  .headline div { padding: .8rem; }
  .headline div:nth-child(odd) { border-left: 0; padding-left: 0; }
  .headline div:nth-child(n + 3) { border-top: 1px solid var(--line); }
}
@media (max-width: 34rem) {
  main { padding: 1.3rem 1rem 3rem; }
  h1 { font-size: 1.4rem; }
  .headline .number { font-size: 1.45rem; }
  .headline .word { font-size: 1.1rem; line-height: 1.65; }
  .terms { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .terms dd { margin-bottom: .9rem; }
  .bar { display: none; }
  .patches td, .patches thead th { padding: .15rem; font-size: .8rem; }
  .patches tr > :first-child { min-width: 3rem; padding-right: .2rem; }
  .look figcaption { font-size: .76rem; }
  summary .network { display: block; }
  .patch { width: 2.7rem; height: 2.7rem; }
}
@media print { main { max-width: none; padding: 0; } section, figure { break-inside: avoid-page; } }
"""
)
