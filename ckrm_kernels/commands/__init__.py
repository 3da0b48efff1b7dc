"""The commands of `ckrm`, a file for each group. What takes long to import is imported inside them."""

from __future__ import annotations

from typing import Annotated

import typer

import ckrm_kernels
from ckrm_kernels.commands import (
    ablate,
    compare,
    demo,
    doctor,
    eliminate,
    export,
    measure,
    models,
    patterns,
    search,
    shrink,
    train,
)

app = typer.Typer(
    name="ckrm",
    help="How redundant are a network's convolution filters?",
    epilog="Exit codes: 0, done; 1, a failure, said in one line; 2, a wrong use; 130, interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ckrm-kernels {ckrm_kernels.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


_COMMANDS = (  # in the order of `ckrm --help`
    doctor.doctor,
    measure.measure,
    patterns.patterns,
    models.models,
    train.train,
    search.search,
    search.report,
    shrink.shrink,
    eliminate.eliminate,
    compare.compare,
    ablate.ablate,
    export.export,
    demo.demo,
)
for command in _COMMANDS:
    app.command()(command)
