"""`ckrm measure`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ckrm_kernels.commands.shared import Eps, ScaleFree, Threshold, interruptible
from ckrm_kernels.extras import require
from ckrm_kernels.measurement import Pointwise

if TYPE_CHECKING:
    from rich.table import Table

    from ckrm_kernels.report import RedundancyReport

Item = TypeVar("Item")


def measure(
    checkpoints: Annotated[
        list[Path], typer.Argument(metavar="CHECKPOINT", help="safetensors or torch.save state dict")
    ],
    threshold: Threshold = 0.6,
    eps: Eps = 1e-4,
    scale_free: ScaleFree = False,
    pointwise: Annotated[
        Pointwise, typer.Option(help="1x1 and linear layers: skip, slice by slice, or a filter as one slice.")
    ] = "skip",
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as CSV.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figure: png, pdf or svg.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as one HTML page.")] = None,
) -> None:
    """Measure the convolution weights of a checkpoint, layer by layer.

    Several checkpoints of one structure, trained independently, give their mean and standard deviation. A state
    dict does not say which convolutions are grouped or transposed, so all filters of a weight are compared.
    """
    from ckrm_kernels.checkpoints import read_checkpoints
    from ckrm_kernels.functional import PsiOptions
    from ckrm_kernels.measurement import measure_layers

    files = {"json": json, "csv": csv, "plot": plot, "html": html}
    _check_outputs(files)
    with interruptible("nothing was written; run the same command again"):
        models = [checkpoint.layers for checkpoint in read_checkpoints(checkpoints)]
        options = PsiOptions(eps=eps, scale_free=scale_free)
        report = measure_layers(models, threshold, pointwise, options, track=_tracked)
        _show(report)
        _write(report, files)


def _tracked(items: Sequence[Item]) -> Iterable[Item]:
    """Iterates with a progress bar on the terminal's error stream."""
    from rich.console import Console
    from rich.progress import track

    return track(items, "measuring", console=Console(stderr=True), transient=True)


def _check_outputs(files: dict[str, Path | None]) -> None:
    """Refuses what could not be written, before anything is measured."""
    for option, path in files.items():
        if path is not None and path.is_dir():
            raise typer.BadParameter(f"{path} is a folder", param_hint=f"--{option}")
    plot = files["plot"]
    if plot is None:
        return
    with require("--plot", "matplotlib"):
        from matplotlib.backend_bases import FigureCanvasBase
    accepted = FigureCanvasBase.get_supported_filetypes()
    if plot.suffix[1:].lower() not in accepted:
        raise typer.BadParameter(f"{plot} must end in one of {', '.join(sorted(accepted))}", param_hint="--plot")


def _show(report: RedundancyReport) -> None:
    """The report on the terminal, within its width; the full plain-text table where the output goes elsewhere."""
    from rich.console import Console
    from rich.text import Text

    from ckrm_kernels.report.table import heading

    console = Console()
    if not console.is_terminal:
        typer.echo(str(report))
        return
    console.print(Text(heading(report)), _measured_rows(report))
    by_note: dict[str, list[str]] = {}
    for layer in report.layers:
        if layer.reason:
            by_note.setdefault(f"{layer.status}, {layer.reason}", []).append(layer.name or "(whole)")
    for note, names in by_note.items():
        console.print(Text.assemble((f"{note}: ", "bold"), (", ".join(names), "dim")))


def _measured_rows(report: RedundancyReport) -> Table:
    """A compact table of the measured layers, those above their chance level in bold."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from ckrm_kernels.report.table import cells, columns

    shown = [name for name in columns(report) if name not in ("kind", "slices", "kernel", "note")]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        table.add_column(name, justify="left" if name == "layer" else "right", overflow="fold", no_wrap=name != "layer")
    for layer in report.measured:
        row = dict(zip(columns(report), cells(layer, report), strict=True))
        row["filters"] = "x".join(map(str, (layer.filters, layer.slices, *(layer.kernel_size or ()))))
        table.add_row(
            *(Text(row[name]) for name in shown), style="bold" if (layer.finding in ("repeats", "scale")) else ""
        )
    return table


def _write(report: RedundancyReport, files: dict[str, Path | None]) -> None:
    from io import BytesIO

    from ckrm_kernels.storage.files import write_atomically

    for option, path in files.items():
        if path is None:
            continue
        if option == "plot":
            picture = BytesIO()
            report.plot().savefig(picture, format=path.suffix[1:].lower(), dpi=150)
            write_atomically(path, picture.getvalue())
        else:
            views = {"json": report.to_json, "csv": report.to_csv, "html": report.to_html}
            write_atomically(path, views[option]())
        typer.echo(f"wrote {path}", err=True)
