"""`ckrm export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckrm_kernels.commands.shared import interruptible


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of `ckrm search`, of `ckrm train`, or of one seed within.")
    ],
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")],
    which: Annotated[
        str | None, typer.Option(help="Of a search: one compared, such as standard; by default what it ended with.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of several trained alike, that of this seed; by default the first.")
    ] = None,
) -> None:
    """Write a trained network as ONNX, which takes raw pixels (N, C, H, W) and gives logits (N, classes).

    One that predicts saliency has a second output, the logarithm of each pixel's probability (N, H, W).
    """
    from ckrm_kernels.models import predicts_saliency
    from ckrm_kernels.storage.files import write_atomically
    from ckrm_kernels.training import load
    from ckrm_kernels.training.onnx_export import as_onnx

    if onnx.is_dir():
        raise typer.BadParameter(f"{onnx} is a folder", param_hint="--onnx")
    with interruptible("nothing was written; run the same command again"):
        trained = load(run, which=which, seed=seed)
        write_atomically(onnx, as_onnx(trained))
        saliency = predicts_saliency(trained.model)
        pixels = f"{trained.transform.pixels} (N, {', '.join(map(str, trained.image_shape))})"
        typer.echo(
            f"wrote {onnx}: the network of {trained.folder}, images {pixels} -> "
            + ", ".join([f"logits (N, {len(trained.classes)})", *(["saliency (N, H, W)"] if saliency else [])])
        )
