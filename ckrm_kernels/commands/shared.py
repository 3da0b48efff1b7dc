"""What several commands need."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path | None, typer.Option(metavar="FILE", help="Settings in TOML or JSON, as a run saves them.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as training.epochs=30.")
]
NetworkName = Annotated[str | None, typer.Option(metavar="NAME", help="One of those that `ckrm models` lists.")]
DataName = Annotated[
    str | None, typer.Option(metavar="NAME", help="digits, mnist, cifar100, folder or egd-cxr; the default is digits.")
]
DataFolder = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the data set's files are.")]
ImageSize = Annotated[
    str | None, typer.Option(metavar="HxW", help="folder: size of the images, such as 64x64; egd-cxr: 1536x1280.")
]
ImageFolder = Annotated[Path | None, typer.Option(metavar="DIR", help="egd-cxr: where MIMIC-CXR's DICOM files are.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that can't be read, and list them.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training part.")]
Threshold = Annotated[float, typer.Option(help="t of lambda^t, in [0, 1].")]
Eps = Annotated[float, typer.Option(help="The constant of Psi; absolute, unless --scale-free.")]
ScaleFree = Annotated[bool, typer.Option("--scale-free", help="Divide each weight by its RMS first.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N; auto takes a GPU where there is one.")]
Processes = Annotated[int | None, typer.Option(help="Networks trained side by side; by default as many as cores.")]
DataWorkers = Annotated[int, typer.Option(help="Processes that load the data ahead, for each network.")]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Write each network's curves for TensorBoard.")]


@contextmanager
def interruptible(how_to_go_on: str) -> Iterator[None]:
    """Ends the command with exit code 130 and a line where Ctrl-C interrupts it."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nckrm: interrupted; {how_to_go_on}", err=True)
        raise typer.Exit(130) from None


def settings_of(
    network: str | None,
    data: str | None,
    data_folder: Path | None,
    image_size: str | None,
    image_folder: Path | None,
    skip_bad: bool,
    epochs: int | None,
    others: Sequence[str] | None,
) -> list[str]:
    """The settings that the options say, before those that `--set` does."""
    if image_size and not re.fullmatch(r"\d+x\d+", image_size):
        raise typer.BadParameter(f"must be HxW, such as 64x64, got {image_size}", param_hint="--image-size")
    given = {
        "network": network,
        "data.name": data,
        "data.folder": data_folder and str(data_folder.absolute()),
        "data.image_size": image_size and f"[{image_size.replace('x', ',')}]",
        "data.image_folder": image_folder and str(image_folder.absolute()),
        "data.skip_bad": "true" if skip_bad else None,
        "training.epochs": epochs,
    }
    return [*(f"{key}={value}" for key, value in given.items() if value is not None), *(others or ())]
