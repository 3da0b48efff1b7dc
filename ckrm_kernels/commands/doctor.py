"""`ckrm doctor`."""

from __future__ import annotations

import typer

from ckrm_kernels.commands.shared import interruptible


def doctor() -> None:
    """Show versions, the processor, what is built, and which backend runs on what."""
    from ckrm_kernels.doctor import findings

    with interruptible("run `ckrm doctor` again"):
        for name, finding in findings():
            typer.echo(f"{name:<20}{finding}")
