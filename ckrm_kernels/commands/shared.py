"""What several commands need."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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


def aligned(rows: Sequence[Sequence[str]], numbers: Collection[int]) -> str:
    """The rows as lines whose columns line up: those in `numbers` to the right, the others to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
