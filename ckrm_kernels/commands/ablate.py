"""`ckrm ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckrm_kernels.choices import AblationName
from ckrm_kernels.commands import shared


def ablate(
    what: Annotated[
        AblationName, typer.Argument(metavar="WHAT", help="vgnet: which depthwise kernels of a VGNet are fixed.")
    ],
    network: shared.NetworkName = None,
    data: shared.DataName = None,
    data_folder: shared.DataFolder = None,
    image_size: shared.ImageSize = None,
    image_folder: shared.ImageFolder = None,
    skip_bad: shared.SkipBad = False,
    preset: shared.Preset = None,
    epochs: shared.Epochs = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Networks of each variant, from the seeds 0, 1, ...; by default 5.")
    ] = None,
    config: shared.Config = None,
    settings: shared.Settings = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder; an unfinished ablation of the same settings goes on.")
    ] = Path("runs/ablation"),
    device: shared.Device = "auto",
    processes: shared.Processes = None,
    threads: shared.Threads = None,
    data_workers: shared.DataWorkers = 0,
    tensorboard: shared.Tensorboard = False,
) -> None:
    """Train a VGNet in all variants from the same seeds, by default vgnetg-small, and tell how far they are apart.

    Killed at any moment, the same command goes on from the last checkpoint.
    """
    from ckrm_kernels.comparison.ablation import ablate_vgnet
    from ckrm_kernels.models import network_shape
    from ckrm_kernels.storage.settings import read_config
    from ckrm_kernels.training import Runtime
    from ckrm_kernels.training.runs import RunsConfig
    from ckrm_kernels.width_search.config import WidthSearchConfig

    options = shared.settings_of(network, data, data_folder, image_size, image_folder, skip_bad, epochs)
    if seeds is not None:
        options["seeds"] = list(range(seeds))
    default = shared.with_preset(RunsConfig(network=network_shape("vgnetg-small"), seeds=tuple(range(5))), preset)
    chosen = read_config(default, config, settings or (), options, besides=WidthSearchConfig())
    shared.use_threads(threads)
    runtime = Runtime(device=device, threads=threads, data_workers=data_workers, tensorboard=tensorboard)
    with shared.interruptible("the same command goes on, at most half a minute back"):
        ablate_vgnet(output, chosen, runtime=runtime, processes=processes)
