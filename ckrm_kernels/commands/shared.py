"""What several commands need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def interruptible(how_to_go_on: str) -> Iterator[None]:
    """Ends the command with exit code 130 and a line where Ctrl-C interrupts it."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nckrm: interrupted; {how_to_go_on}", err=True)
        raise typer.Exit(130) from None
