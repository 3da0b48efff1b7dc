"""The examples' two versions, run in this process."""

from __future__ import annotations

import difflib
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def changed_lines(example: str) -> list[str]:
    """What has to be added to the example's training script, and removed from it, to have it measured."""
    without, with_ckrm = (
        (EXAMPLES / example / name).read_text().splitlines() for name in ("train.py", "train_with_ckrm.py")
    )
    return [line for line in difflib.ndiff(without, with_ckrm) if line[0] in "+-"]


def run(example: str, script: str, folder: Path, *arguments: str) -> None:
    """Runs a script of an example in the folder."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", [script, *arguments])
        runpy.run_path(str(EXAMPLES / example / script), run_name="__main__")
