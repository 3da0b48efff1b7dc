"""What several commands need."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TextIO, TypeVar

import typer

from ckrm_kernels import choices

if TYPE_CHECKING:
    from ckrm_kernels.presentation.grid import Line

T = TypeVar("T")
_STYLES = {"repeats": "bold red", "scale": "italic yellow", "verdict": "bold", "head": "bold", "soft": "dim", "": ""}


class Size(NamedTuple):
    """Of images, in pixels."""

    height: int
    width: int


def _size(text: str) -> Size:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise typer.BadParameter(f"must be HxW, such as 64x64, got {text}")
    return Size(int(height), int(width))


Config = Annotated[Path | None, typer.Option(metavar="FILE", help="Settings in TOML or JSON, as a run saves them.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as training.epochs=30.")
]
NetworkName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="One of those that `ckrm models` lists, a run's folder, or module:Class, one of your own."
    ),
]
DataName = Annotated[choices.DataName | None, typer.Option(help="The data set; by default digits.")]
DataFolder = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the data set's files are.")]
ImageSize = Annotated[
    Size | None,
    typer.Option(metavar="HxW", parser=_size, help="folder: size of the images, such as 64x64; egd-cxr: 1536x1280."),
]
ImageFolder = Annotated[Path | None, typer.Option(metavar="DIR", help="egd-cxr: where MIMIC-CXR's DICOM files are.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that can't be read, and list them.")]
Preset = Annotated[
    choices.PresetName | None,
    typer.Option(
        help="A training recipe, for any network: vgnet is that of the VGNet paper. Other settings change it further."
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training part.")]
Weights = Annotated[
    str | None, typer.Option(metavar="KEY", help="Of several weights in a file: model, ema, or their key.")
]
Like = Annotated[
    str | None,
    typer.Option(metavar="MODULE:CONSTRUCTOR", help="Read into this model, which knows groups and transposition."),
]
LayerPattern = Annotated[
    str, typer.Option(metavar="PATTERN", help="Only layers with this in their name, or a glob: 'layer1.*'.")
]
MeasuringThreads = Annotated[
    int | None, typer.Option(min=1, max=1024, help="CPU threads; by default torch's, or OMP_NUM_THREADS.")
]
Threshold = Annotated[
    float, typer.Option(help="Pairs of filters with Psi above it count as redundant; in [0, 1], signed in [-1, 1].")
]
SimilarityName = Annotated[
    str, typer.Option("--similarity", metavar="NAME", help="psi, or cosine: of slices as they are, which takes no eps.")
]
Signed = Annotated[bool, typer.Option("--signed", help="A slice and its negative are opposites, near -1, not alike.")]
Eps = Annotated[float, typer.Option(help="The constant of Psi; absolute, unless --scale-free.")]
ScaleFree = Annotated[
    bool, typer.Option("--scale-free", help="Divide each weight by its root mean square first: shapes alone.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N; auto takes a GPU where there is one.")]
Processes = Annotated[int | None, typer.Option(help="Networks trained side by side; by default as many as cores.")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        help="CPU threads, of each network that trains; by default as many as there are cores for it, at most "
        "OMP_NUM_THREADS. On a machine that others use, 1 is often quickest.",
    ),
]
DataWorkers = Annotated[int, typer.Option(help="Processes that load the data ahead, for each network.")]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Write each network's curves for TensorBoard.")]


@contextmanager
def interruptible(how_to_go_on: str) -> Iterator[None]:
    """Ends the command with a line where Ctrl-C or a signal that asks it to end does so; the exit code tells which."""
    codes = {signal.SIGTERM: "ended by SIGTERM"}
    if hasattr(signal, "SIGHUP"):
        codes[signal.SIGHUP] = "its terminal is gone"
    with ExitStack() as restored:
        for number in codes:
            before = signal.getsignal(number)
            if before == signal.SIG_DFL:  # nohup has a command ignore SIGHUP
                signal.signal(number, _raise)
                restored.callback(signal.signal, number, before)
        try:
            yield
        except _Ended as ended:
            typer.echo(f"\nckrm: {codes[ended.number]}; {how_to_go_on}", err=True)
            raise typer.Exit(128 + ended.number) from None
        except KeyboardInterrupt:
            typer.echo(f"\nckrm: interrupted; {how_to_go_on}", err=True)
            raise typer.Exit(128 + signal.SIGINT) from None


@contextmanager
def wrong_use(option: str) -> Iterator[None]:
    """Makes the statement's ValueError one of wrong usage of the option, which ends with exit code 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def constructor_at(like: str | None, option: str = "--like") -> Callable[[], Any] | None:
    """What makes the model that an option names as module:constructor; None without it."""
    if like is None:
        return None
    from ckrm_kernels.checkpoints.into_model import constructor_of

    with wrong_use(option):
        return constructor_of(like)


def show(lines: Callable[[int | None], Iterable[Line]], stream: TextIO) -> None:
    """Lines of text: within COLUMNS or the terminal's width, as wide as they are where the output goes elsewhere.

    lines: gives those of a width, None without a limit
    """
    from rich.console import Console
    from rich.text import Text

    width = _width(stream)
    console = Console(file=stream, width=width or 80)  # its own width wraps nothing here
    for line in lines(width):
        console.print(Text(line.text, _STYLES[line.style]), soft_wrap=True)


def _width(stream: TextIO) -> int | None:
    """Of the lines on a stream; None without a limit."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    return os.get_terminal_size(stream.fileno()).columns or None if stream.isatty() else None


class _Ended(KeyboardInterrupt):
    """A signal asked the process to end, which it does as after Ctrl-C."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


def _raise(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # `timeout` sends two, and the second would end what the first has begun
    raise _Ended(signal.Signals(number))


def use_threads(threads: int | None) -> None:
    """Has this process compute on so many threads; None leaves what torch takes, or OMP_NUM_THREADS says."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def settings_of(
    network: str | None,
    data: choices.DataName | None,
    data_folder: Path | None,
    image_size: Size | None,
    image_folder: Path | None,
    skip_bad: bool,
    epochs: int | None,
) -> dict[str, Any]:
    """The settings that these options give, as a configuration nests them."""
    return given(
        {
            "network": network,
            "data": {
                "name": data,
                "folder": data_folder and str(data_folder.absolute()),
                "image_size": image_size,
                "image_folder": image_folder and str(image_folder.absolute()),
                "skip_bad": skip_bad or None,
            },
            "training": {"epochs": epochs},
        }
    )


def with_preset(config: T, preset: choices.PresetName | None) -> T:
    """The configuration with the training of the preset, if one is asked for."""
    if preset is None:
        return config
    from ckrm_kernels.training.presets import PRESETS

    return replace(config, training=PRESETS[preset])  # type: ignore[type-var]


def given(settings: dict[str, Any]) -> dict[str, Any]:
    """The nested settings without those that are None, whose options were not given."""
    inner = {name: given(value) if isinstance(value, dict) else value for name, value in settings.items()}
    return {name: value for name, value in inner.items() if value is not None and value != {}}
