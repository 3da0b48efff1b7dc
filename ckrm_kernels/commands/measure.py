"""`ckrm measure`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckrm_kernels.choices import Pointwise, Sort
from ckrm_kernels.commands.shared import (
    Eps,
    ScaleFree,
    Signed,
    SimilarityName,
    Threshold,
    interruptible,
    show,
    use_threads,
    wrong_use,
)
from ckrm_kernels.extras import require
from ckrm_kernels.presentation.progress import tracked

if TYPE_CHECKING:
    from rich.console import Console

    from ckrm_kernels.report import RedundancyReport
    from ckrm_kernels.similarity import Similarity

_STDOUT = Path("-")


def measure(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(metavar="CHECKPOINT", help="File or folder: torch.save, safetensors, .pt2, ONNX, NumPy."),
    ],
    threshold: Threshold = 0.6,
    similarity: SimilarityName = "psi",
    signed: Signed = False,
    eps: Eps = 1e-4,
    scale_free: ScaleFree = False,
    pointwise: Annotated[
        Pointwise, typer.Option(help="1x1 and linear layers: skip, slice by slice, or a filter as one slice.")
    ] = "skip",
    weights: Annotated[
        str | None, typer.Option(metavar="KEY", help="Of several weights in a file: model, ema, or their key.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="MODULE:CONSTRUCTOR", help="Read into this model, which knows groups and transposition."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="List each skipped layer, not one line for each reason.")
    ] = False,
    layer: Annotated[
        str, typer.Option(metavar="PATTERN", help="Only layers with this in their name, or a glob: 'layer1.*'.")
    ] = "*",
    sort: Annotated[
        Sort | None, typer.Option(help="Largest first; by default the model's order, with --top excess over chance.")
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N measured layers.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads; by default torch's, or OMP_NUM_THREADS.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as CSV.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figure: png, pdf or svg.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as one HTML page.")] = None,
) -> None:
    """Measure the convolution weights of checkpoints, layer by layer.

    Several checkpoints of one structure, trained independently, give their mean and standard deviation; those of
    different structure are measured one after the other. A FILE of `-` is the standard output; what is else printed
    then goes to the error output.

    Exit codes: 0, measured; 1, a checkpoint can't be read, a file can't be written, or every layer is skipped;
    2, an option or its value is wrong, before anything is measured.
    """
    from ckrm_kernels.checkpoints import read_checkpoints
    from ckrm_kernels.measurement import measure_layers, structure_of
    from ckrm_kernels.report.selection import fitting
    from ckrm_kernels.report.table import lines

    files = {"json": json, "csv": csv, "plot": plot, "html": html}
    measured = _checked_similarity(similarity, signed, eps, scale_free, threshold)
    _check_outputs(files, checkpoints)
    constructor = _constructor(like)
    use_threads(threads)
    with interruptible("nothing was written; run the same command again"):
        reading = partial(tracked, doing="reading", lines=False)
        read = read_checkpoints(checkpoints, weights=weights, like=constructor, track=reading)
        _check_read(files, [Path(source.name) for each in read for source in each.sources])
        structures: dict[Any, list[Any]] = {}
        for each in read:
            structures.setdefault(structure_of(each.layers), []).append(each)
        if len(structures) > 1 and any(files.values()):
            raise typer.BadParameter(
                f"the checkpoints have {len(structures)} structures, which makes {len(structures)} reports; "
                "measure those of one structure at a time to write files"
            )
        for same in structures.values():
            with wrong_use("--layer"):
                fitting([each.name for each in same[0].layers], layer)
        stream = sys.stderr if _STDOUT in files.values() else sys.stdout
        any_measured = False
        for number, same in enumerate(structures.values()):
            report = measure_layers(
                [each.layers for each in same],
                threshold,
                pointwise,
                measured,
                track=partial(tracked, lines=False),
                sources=[source for each in same for source in each.sources],
                notes=list(dict.fromkeys(note for each in same for note in each.notes)),
            )
            report = report.selected(layer, sort=sort or ("excess" if top else "model"), top=top)
            if number:
                print(file=stream)
            show(partial(lines, report, every=every), stream)
            _write(report, files)
            any_measured = any_measured or bool(report.measured)
    if not any_measured:
        raise typer.Exit(1)


def _checked_similarity(name: str, signed: bool, eps: float, scale_free: bool, threshold: float) -> Similarity:
    """What is measured; refuses numbers that measuring would."""
    from ckrm_kernels.distribution import checked_threshold
    from ckrm_kernels.similarity import Similarity

    with wrong_use("--similarity"):
        Similarity(name)  # type: ignore[arg-type]
    with wrong_use("--eps"):
        similarity = Similarity(name, eps=eps, signed=signed, scale_free=scale_free)  # type: ignore[arg-type]
    with wrong_use("--threshold"):
        checked_threshold(threshold, similarity.lowest)
    return similarity


def _constructor(like: str | None) -> Any:
    """What `--like` names; None without it."""
    if like is None:
        return None
    from ckrm_kernels.checkpoints.into_model import constructor_of

    with wrong_use("--like"):
        return constructor_of(like)


def _check_outputs(files: dict[str, Path | None], checkpoints: Sequence[Path]) -> None:
    """Refuses what could not be written or would be lost, before anything is measured."""
    for option, path in files.items():
        if path is not None and path.is_dir():
            raise typer.BadParameter(f"{path} is a folder", param_hint=f"--{option}")
        _check_kept(
            option, path, [(f"--{other}", taken) for other, taken in files.items() if taken and other != option]
        )
    _check_read(files, checkpoints)
    plot = files["plot"]
    if plot is None:
        return
    with require("--plot", "matplotlib"):
        from matplotlib.backend_bases import FigureCanvasBase
    accepted = FigureCanvasBase.get_supported_filetypes()
    if plot != _STDOUT and plot.suffix[1:].lower() not in accepted:
        raise typer.BadParameter(f"{plot} must end in one of {', '.join(sorted(accepted))}", param_hint="--plot")


def _check_read(files: dict[str, Path | None], read: Sequence[Path]) -> None:
    """Refuses to write over what was read."""
    for option, path in files.items():
        _check_kept(option, path, [("a file of the checkpoint", each) for each in read])


def _check_kept(option: str, path: Path | None, others: Sequence[tuple[str, Path]]) -> None:
    for what, other in others:
        if path is not None and path.resolve() == other.resolve():
            raise typer.BadParameter(f"{path} is also {what}", param_hint=f"--{option}")


def _errors() -> Console:
    """The error stream, where progress is shown if it is a terminal."""
    from rich.console import Console

    return Console(stderr=True)


def _write(report: RedundancyReport, files: dict[str, Path | None]) -> None:
    from ckrm_kernels.storage.files import write_atomically

    console = _errors()
    for option, path in files.items():
        if path is None:
            continue
        with console.status(f"making the {option}") if console.is_terminal else nullcontext():
            content = _content(report, option, path)
        if path == _STDOUT:
            typer.echo(content, nl=isinstance(content, str) and not content.endswith("\n"))
        else:
            write_atomically(path, content)
            typer.echo(f"wrote {path}", err=True)


def _content(report: RedundancyReport, option: str, path: Path) -> str | bytes:
    """What goes into a file; the figure on the standard output is a PNG file."""
    if option == "plot":
        from ckrm_kernels.report.figure import figure, figure_file

        return figure_file(report, figure(report), path.suffix[1:].lower() or "png")
    views = {"json": report.to_json, "csv": report.to_csv, "html": report.to_html}
    return views[option]()
