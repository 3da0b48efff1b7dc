"""The files that a command writes what it measured to, `-` being the standard output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import typer

from ckrm_kernels.extras import require

STDOUT = Path("-")


def check_outputs(files: Mapping[str, Path | None], read: Sequence[Path]) -> None:
    """Refuses what could not be written or would be lost, before anything is measured.

    files: by the options that name them, "plot" being a figure; read: those of the checkpoint
    """
    for option, path in files.items():
        if path is not None and path.is_dir():
            raise typer.BadParameter(f"{path} is a folder", param_hint=f"--{option}")
        _check_kept(
            option, path, [(f"--{other}", taken) for other, taken in files.items() if taken and other != option]
        )
    check_read(files, read)
    plot = files["plot"]
    if plot is None:
        return
    with require("--plot", "matplotlib"):
        from matplotlib.backend_bases import FigureCanvasBase
    accepted = FigureCanvasBase.get_supported_filetypes()
    if plot != STDOUT and plot.suffix[1:].lower() not in accepted:
        raise typer.BadParameter(f"{plot} must end in one of {', '.join(sorted(accepted))}", param_hint="--plot")


def check_read(files: Mapping[str, Path | None], read: Sequence[Path]) -> None:
    """Refuses to write over what was read."""
    for option, path in files.items():
        _check_kept(option, path, [("a file of the checkpoint", each) for each in read])


def write(files: Mapping[str, Path | None], content: Callable[[str, Path], str | bytes]) -> None:
    """Makes and writes each file that is asked for. content: of an option and its path"""
    from rich.console import Console

    from ckrm_kernels.storage.files import write_atomically

    console = Console(stderr=True)
    for option, path in files.items():
        if path is None:
            continue
        with console.status(f"making the {option}") if console.is_terminal else nullcontext():
            made = content(option, path)
        if path == STDOUT:
            typer.echo(made, nl=isinstance(made, str) and not made.endswith("\n"))
        else:
            write_atomically(path, made)
            typer.echo(f"wrote {path}", err=True)


def _check_kept(option: str, path: Path | None, others: Sequence[tuple[str, Path]]) -> None:
    for what, other in others:
        if path is not None and path.resolve() == other.resolve():
            raise typer.BadParameter(f"{path} is also {what}", param_hint=f"--{option}")
