"""`ckrm compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckrm_kernels.commands.shared import interruptible


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS", help="Folders of `ckrm train`, the first the standard.")
    ],
    margin: Annotated[float, typer.Option(help="The largest difference that counts as none.")] = 0.01,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the comparison as JSON.")] = None,
) -> None:
    """Compare networks trained on the same data: quality with tests, parameters, multiply-adds, size and time."""
    from ckrm_kernels.comparison.trained_runs import compare_runs

    with interruptible("nothing was written; run the same command again"):
        compare_runs(runs, margin, json)
