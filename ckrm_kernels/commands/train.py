"""`ckrm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckrm_kernels.commands import shared


def train(
    network: shared.NetworkName = None,
    data: shared.DataName = None,
    data_folder: shared.DataFolder = None,
    image_size: shared.ImageSize = None,
    image_folder: shared.ImageFolder = None,
    skip_bad: shared.SkipBad = False,
    preset: shared.Preset = None,
    epochs: shared.Epochs = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many networks, from the seeds 0, 1, ...; by default 1.")
    ] = None,
    config: shared.Config = None,
    settings: shared.Settings = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The runs' folder; unfinished runs of the same settings go on.")
    ] = Path("runs/train"),
    device: shared.Device = "auto",
    processes: shared.Processes = None,
    threads: shared.Threads = None,
    data_workers: shared.DataWorkers = 0,
    tensorboard: shared.Tensorboard = False,
) -> None:
    """Train a network from one or more seeds, and score it on the held-out part of the data.

    Killed at any moment, the same command goes on from the last checkpoint. Under torchrun, a single network is
    trained by all processes together; several are shared out.
    """
    from ckrm_kernels.storage.settings import read_config
    from ckrm_kernels.training import Runtime
    from ckrm_kernels.training.runs import RunsConfig, train_runs
    from ckrm_kernels.width_search.config import WidthSearchConfig

    options = shared.settings_of(network, data, data_folder, image_size, image_folder, skip_bad, epochs)
    if seeds is not None:
        options["seeds"] = list(range(seeds))
    chosen = read_config(
        shared.with_preset(RunsConfig(), preset), config, settings or (), options, besides=WidthSearchConfig()
    )
    shared.use_threads(threads)
    runtime = Runtime(device=device, threads=threads, data_workers=data_workers, tensorboard=tensorboard)
    with shared.interruptible("the same command goes on, at most half a minute back"):
        train_runs(output, chosen, runtime=runtime, processes=processes)
