"""`ckrm eliminate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckrm_kernels.commands import shared


def eliminate(
    data: shared.DataName = None,
    data_folder: shared.DataFolder = None,
    image_size: shared.ImageSize = None,
    image_folder: shared.ImageFolder = None,
    skip_bad: shared.SkipBad = False,
    epochs: shared.Epochs = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many times, from the seeds 0, 1, ...; by default once.")
    ] = None,
    config: shared.Config = None,
    settings: shared.Settings = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder; an unfinished elimination of the same settings goes on.")
    ] = Path("runs/eliminate"),
    device: shared.Device = "auto",
    processes: shared.Processes = None,
    threads: shared.Threads = None,
    data_workers: shared.DataWorkers = 0,
    tensorboard: shared.Tensorboard = False,
) -> None:
    """Have each image skip the convolutions that it does not need, as a second network predicts.

    Trains three networks, and compares them on the held-out part of the data: report.html, results.json. Killed at any
    moment, the same command goes on from the last checkpoint.
    """
    from ckrm_kernels.layer_elimination import EliminationConfig, eliminate_layers
    from ckrm_kernels.storage.settings import read_config
    from ckrm_kernels.training import Runtime

    options = shared.settings_of(None, data, data_folder, image_size, image_folder, skip_bad, epochs)
    if seeds is not None:
        options["seeds"] = list(range(seeds))
    chosen = read_config(EliminationConfig(), config, settings or (), options)
    shared.use_threads(threads)
    runtime = Runtime(device=device, threads=threads, data_workers=data_workers, tensorboard=tensorboard)
    with shared.interruptible("the same command goes on, at most half a minute back"):
        eliminate_layers(output, chosen, runtime=runtime, processes=processes)
