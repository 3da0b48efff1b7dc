"""`ckrm measure`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckrm_kernels.choices import Pointwise, Sort
from ckrm_kernels.commands.output_files import STDOUT, check_outputs, check_read, write
from ckrm_kernels.commands.shared import (
    Eps,
    LayerPattern,
    Like,
    MeasuringThreads,
    ScaleFree,
    Signed,
    SimilarityName,
    Threshold,
    Weights,
    constructor_at,
    interruptible,
    show,
    use_threads,
    wrong_use,
)
from ckrm_kernels.presentation.progress import tracked

if TYPE_CHECKING:
    from ckrm_kernels.report import RedundancyReport
    from ckrm_kernels.similarity import Similarity


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
    weights: Weights = None,
    like: Like = None,
    every: Annotated[
        bool, typer.Option("--all", help="List each skipped layer, not one line for each reason.")
    ] = False,
    patterns: Annotated[
        bool, typer.Option("--patterns", help="Also the shares of kernels that look like blurs, edges, identities.")
    ] = False,
    layer: LayerPattern = "*",
    sort: Annotated[
        Sort | None, typer.Option(help="Largest first; by default the model's order, with --top excess over chance.")
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N measured layers.")] = None,
    threads: MeasuringThreads = None,
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
    from ckrm_kernels.distributed import joined
    from ckrm_kernels.layer_by_layer import measure_checkpoints
    from ckrm_kernels.measurement import structure_of
    from ckrm_kernels.report.selection import fitting
    from ckrm_kernels.report.table import lines

    files = {"json": json, "csv": csv, "plot": plot, "html": html}
    measured = _checked_similarity(similarity, signed, eps, scale_free, threshold)
    check_outputs(files, checkpoints)
    constructor = constructor_at(like)
    use_threads(threads)
    with interruptible("nothing was written; run the same command again"), joined(gpus=False) as team:
        reading = partial(tracked, doing="reading", lines=False) if team.is_first else iter
        read = read_checkpoints(checkpoints, weights=weights, like=constructor, track=reading, team=team)
        check_read(files, [Path(source.name) for each in read for source in each.sources])
        structures: dict[Any, list[Any]] = {}
        for each in read:
            structures.setdefault(structure_of(each.outlines), []).append(each)
        if len(structures) > 1 and any(files.values()):
            raise typer.BadParameter(
                f"the checkpoints have {len(structures)} structures, which makes {len(structures)} reports; "
                "measure those of one structure at a time to write files"
            )
        for same in structures.values():
            with wrong_use("--layer"):
                fitting([each.name for each in same[0].outlines], layer)
        stream = sys.stderr if STDOUT in files.values() else sys.stdout
        any_measured = False
        for number, same in enumerate(structures.values()):
            tracking = partial(tracked, lines=False) if team.is_first else iter
            report = measure_checkpoints(same, threshold, pointwise, measured, track=tracking, patterns=patterns)
            report = report.selected(layer, sort=sort or ("excess" if top else "model"), top=top)
            any_measured = any_measured or bool(report.measured)
            if not team.is_first:
                continue
            if number:
                print(file=stream)
            show(partial(lines, report, every=every), stream)
            write(files, partial(_content, report))
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


def _content(report: RedundancyReport, option: str, path: Path) -> str | bytes:
    """What goes into a file; the figure on the standard output is a PNG file."""
    if option == "plot":
        from ckrm_kernels.report.figure import figure, figure_file

        return figure_file(report, figure(report), path.suffix[1:].lower() or "png")
    views = {"json": report.to_json, "csv": report.to_csv, "html": report.to_html}
    return views[option]()
