"""`ckrm patterns`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckrm_kernels.commands.output_files import STDOUT, check_outputs, check_read, write
from ckrm_kernels.commands.shared import (
    LayerPattern,
    Like,
    MeasuringThreads,
    Weights,
    constructor_at,
    interruptible,
    show,
    use_threads,
    wrong_use,
)
from ckrm_kernels.presentation.progress import tracked

if TYPE_CHECKING:
    from ckrm_kernels.checkpoints import Checkpoint
    from ckrm_kernels.patterns import PatternReport


def patterns(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT", help="A file or folder that `ckrm measure` reads, or module:constructor of a model."
        ),
    ],
    bank: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Only these patterns, such as 'identity,gaussian,-gaussian'.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="A kernel whose cosine with no pattern is above it is of none; in [-1, 1].")
    ] = 0.9,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="A kernel and its negative are of one pattern.")] = False,
    weights: Weights = None,
    like: Like = None,
    layer: LayerPattern = "*",
    threads: MeasuringThreads = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the kernels: png, pdf or svg.")] = None,
) -> None:
    """Say which kernels look like a known pattern: identity, blur, edge detector, constant, zero.

    A table, a line a layer. A FILE of `-` is the standard output; the table then goes to the error output.

    Exit codes: 0, compared; 1, the checkpoint can't be read, a file can't be written, or every layer is skipped;
    2, an option or its value is wrong, before anything is compared.
    """
    from ckrm_kernels.checkpoints.reading import UNKNOWN_GROUPS
    from ckrm_kernels.distribution import checked_threshold
    from ckrm_kernels.patterns.bank import names_of
    from ckrm_kernels.patterns.matching import match_layers
    from ckrm_kernels.patterns.table import lines
    from ckrm_kernels.report.selection import fitting
    from ckrm_kernels.similarity import Similarity

    files = {"json": json, "plot": plot}
    names = None if bank is None else [name.strip() for name in bank.split(",")]
    with wrong_use("--bank"):
        names_of(names, not unsigned)
    with wrong_use("--threshold"):
        checked_threshold(threshold, Similarity("cosine", signed=not unsigned).lowest)
    check_outputs(files, [Path(checkpoint)])
    use_threads(threads)
    with interruptible("nothing was written; run the same command again"):
        read = _read(checkpoint, weights, like)
        check_read(files, [Path(source.name) for source in read.sources])
        with wrong_use("--layer"):
            chosen = fitting([each.name for each in read.layers], layer)
        report = match_layers(
            [each for each in read.layers if each.name in chosen],
            names,
            threshold,
            not unsigned,
            track=partial(tracked, lines=False),
            sources=read.sources,
            notes=[note for note in read.notes if note != UNKNOWN_GROUPS],  # a kernel is the same in any group
        )
        show(partial(lines, report), sys.stderr if STDOUT in files.values() else sys.stdout)
        write(files, partial(_content, report))
    if not report.measured:
        raise typer.Exit(1)


def _read(checkpoint: str, weights: str | None, like: str | None) -> Checkpoint:
    """The layers of a checkpoint, or of the model that a constructor makes."""
    from ckrm_kernels.checkpoints import Checkpoint, read_checkpoints

    if Path(checkpoint).exists() or ":" not in checkpoint:
        found = read_checkpoints([checkpoint], weights=weights, like=constructor_at(like))
        if len(found) > 1:
            raise typer.BadParameter(f"{checkpoint} holds {len(found)} checkpoints: name one")
        return found[0]
    for option, given in (("--weights", weights), ("--like", like)):
        if given is not None:
            raise typer.BadParameter(f"{checkpoint} makes a model, which takes none", param_hint=option)
    import torch

    from ckrm_kernels.checkpoints.rows import in_memory
    from ckrm_kernels.layers import model_layers
    from ckrm_kernels.report.result import Source

    make = constructor_at(checkpoint, "CHECKPOINT")
    assert make is not None
    model = make()
    if not isinstance(model, torch.nn.Module):
        raise typer.BadParameter(f"{checkpoint} must make a torch.nn.Module, got {type(model).__name__}")
    with torch.no_grad():
        return Checkpoint(tuple(map(in_memory, model_layers(model))), (Source(checkpoint),), ())


def _content(report: PatternReport, option: str, path: Path) -> str | bytes:
    """What goes into a file; the figure on the standard output is a PNG file."""
    if option == "plot":
        from ckrm_kernels.patterns.figure import figure
        from ckrm_kernels.presentation.drawing import figure_file

        return figure_file(figure(report), path.suffix[1:].lower() or "png")
    return report.to_json()
