"""`torchrun ... -m ckrm_kernels measure` where something is wrong; where nothing is, see test_distributed.py."""

import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FAILS_ON_RANK_1 = """
import os, sys
from ckrm_kernels import layer_by_layer
from ckrm_kernels.cli import main

def fails(*arguments, **options):
    raise OSError("the disk is on fire")

if os.environ["RANK"] == "1":
    layer_by_layer.measure_layers = fails
main()
"""

pytestmark = pytest.mark.exhaustive


@dataclass(frozen=True)
class Ended:
    code: int
    output: str
    error: str


def processes(*arguments) -> list[Ended]:
    """Both processes as torchrun starts them, but without torchrun, which ends the second when the first has failed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}
    environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, *map(str, arguments)]
    started = [
        subprocess.Popen(
            command,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        written = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    return [Ended(process.returncode, *each) for process, each in zip(started, written, strict=True)]


def test_the_process_that_fails_is_named_and_all_end(tmp_path):
    (tmp_path / "main.py").write_text(FAILS_ON_RANK_1)
    torch.save({f"{at}.weight": torch.randn(4, 3, 3, 3) for at in range(2)}, tmp_path / "model.pt")
    first, second = processes(
        tmp_path / "main.py", "measure", tmp_path / "model.pt", "--json", tmp_path / "report.json"
    )
    assert (first.code, second.code) == (1, 1)
    assert "ckrm: the disk is on fire" in second.error
    assert re.search("ckrm: rank 1 of 2 on .* failed: the disk is on fire", first.error)
    assert not (tmp_path / "report.json").exists()


def test_every_process_ends_alike_where_nothing_is_measured(tmp_path):
    torch.save({"fc.weight": torch.ones(3, 4)}, tmp_path / "linear.pt")
    both = processes("-m", "ckrm_kernels", "measure", tmp_path / "linear.pt")
    assert [each.code for each in both] == [1, 1]
    assert ["0 of 1 layers measured" in each.output for each in both] == [True, False]
