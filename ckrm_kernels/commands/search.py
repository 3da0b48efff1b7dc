"""`ckrm search`, and `ckrm report` of what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckrm_kernels.choices import SearchRule, Tied
from ckrm_kernels.commands import shared


def search(
    network: shared.NetworkName = None,
    data: shared.DataName = None,
    data_folder: shared.DataFolder = None,
    image_size: shared.ImageSize = None,
    image_folder: shared.ImageFolder = None,
    skip_bad: shared.SkipBad = False,
    preset: shared.Preset = None,
    epochs: shared.Epochs = None,
    seeds: Annotated[int | None, typer.Option(help="Networks of each round; by default 3.")] = None,
    final_seeds: Annotated[int | None, typer.Option(help="Networks of each kind compared; by default 10.")] = None,
    eps: Annotated[
        float | None, typer.Option(help="The constant of Psi, by default 1e-4; absolute, unless --scale-free.")
    ] = None,
    scale_free: shared.ScaleFree = False,
    rule: Annotated[
        SearchRule | None,
        typer.Option(
            help="Whether widths fall until no layer is redundant, or are those that shrinking the trained standard "
            "network to --parameters keeps at the least error."
        ),
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(help="With --rule error: the share of the parameters to keep, by default 0.5.")
    ] = None,
    tied: Annotated[
        Tied | None,
        typer.Option(help="Whether each layer has a width of its own, or all of a stage one."),
    ] = None,
    multiple: Annotated[int | None, typer.Option(help="Widths are multiples of this.")] = None,
    config: shared.Config = None,
    settings: shared.Settings = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run's folder, by default runs/search; an unfinished run goes on, of the same settings but for "
            "those that change no trained network.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with the run in this folder, with its settings; those that change no trained network may be "
            "given anew.",
        ),
    ] = None,
    device: shared.Device = "auto",
    processes: shared.Processes = None,
    threads: shared.Threads = None,
    data_workers: shared.DataWorkers = 0,
    tensorboard: shared.Tensorboard = False,
) -> None:
    """Find the widths at which no layer of a network is redundant, and compare the network found.

    Trains, measures and changes widths in rounds; then trains the standard network, the one found and one of as many
    parameters narrowed alike, compares them, and writes report.html. With --rule error one of as many multiply-adds
    and the shrunk one are compared, too. Killed at any moment, it goes on from its last checkpoint; margin, most_rounds
    and final_seeds may be others then, and target and rule.* where they would have led to the same networks.
    """
    from ckrm_kernels.storage.settings import read_config
    from ckrm_kernels.training import Runtime
    from ckrm_kernels.training.runs import RunsConfig
    from ckrm_kernels.width_search.config import WidthSearchConfig
    from ckrm_kernels.width_search.pipeline import search_widths
    from ckrm_kernels.width_search.state import config_of

    options = {
        **shared.settings_of(network, data, data_folder, image_size, image_folder, skip_bad, epochs),
        **shared.given(
            {
                "seeds": seeds,
                "final_seeds": final_seeds,
                "similarity": {"eps": eps, "scale_free": scale_free or None},
                "rule": {"by": rule, "parameters": parameters, "tied": tied, "multiple": multiple},
            }
        ),
    }
    if resume and output:
        raise typer.BadParameter("names the folder of the run: leave out --output", param_hint="--resume")
    folder = resume or output or Path("runs/search")
    default = shared.with_preset(config_of(resume) if resume else WidthSearchConfig(), preset)
    chosen = read_config(default, config, settings or (), options, besides=RunsConfig())
    shared.use_threads(threads)
    runtime = Runtime(device=device, threads=threads, data_workers=data_workers, tensorboard=tensorboard)
    with shared.interruptible(f"`ckrm search --resume {folder}` goes on, at most half a minute back"):
        search_widths(folder, chosen, runtime=runtime, processes=processes)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished `ckrm search` or `ckrm demo`.")],
) -> None:
    """Write the report, figures and tables of a finished search again."""
    from ckrm_kernels.width_search.pipeline import report

    with shared.interruptible("run the same command again"):
        report(run)
