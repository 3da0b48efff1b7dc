"""`ckrm demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckrm_kernels.commands.shared import interruptible


def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder; an unfinished run goes on.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Train on real images, measure, shrink and compare: a few minutes on a few cores."""
    from ckrm_kernels.shrinking.demo import run_demo

    with interruptible(f"`ckrm demo --output {output}` goes on after the last network that was trained"):
        run_demo(output)
