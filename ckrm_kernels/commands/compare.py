"""`ckrm compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckrm_kernels.commands import shared


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUNS",
            help="Folders of `ckrm train`, `ckrm search` or a search's networks, the first the standard.",
        ),
    ],
    margin: Annotated[float, typer.Option(help="The largest difference that counts as none.")] = 0.01,
    threshold: shared.Threshold = 0.6,
    similarity: shared.SimilarityName = "psi",
    signed: shared.Signed = False,
    eps: shared.Eps = 1e-4,
    scale_free: shared.ScaleFree = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads; by default as torch takes them.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the comparison as JSON.")] = None,
) -> None:
    """Compare networks trained on the same data: quality with tests, cost, time, and redundancy by layer."""
    from ckrm_kernels.comparison.trained_runs import compare_runs
    from ckrm_kernels.similarity import Similarity

    shared.use_threads(threads)
    measured = Similarity(similarity, eps=eps, signed=signed, scale_free=scale_free)  # type: ignore[arg-type]
    with shared.interruptible("nothing was written; run the same command again"):
        compare_runs(runs, margin, json, threshold=threshold, similarity=measured)
