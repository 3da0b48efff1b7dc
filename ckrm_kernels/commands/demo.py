"""`ckrm demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckrm_kernels.commands import shared


def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder; an unfinished run goes on.")] = Path(
        "runs/demo"
    ),
    threads: shared.Threads = None,
) -> None:
    """Train on real images, measure, search narrower widths and compare: a few minutes on a few cores."""
    from ckrm_kernels.models import network_shape
    from ckrm_kernels.training import Runtime
    from ckrm_kernels.width_search.config import WidthSearchConfig
    from ckrm_kernels.width_search.pipeline import search_widths

    config = WidthSearchConfig(network=network_shape("resnet-digits"), final_seeds=3)
    shared.use_threads(threads)
    with shared.interruptible(f"`ckrm demo --output {output}` goes on, at most half a minute back"):
        search_widths(output, config, runtime=Runtime(threads=threads))
