"""`torchrun ... -m ckrm_kernels measure` where something is wrong; where nothing is, see test_distributed.py."""

import os
import subprocess
import sys
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


def torchrun(*arguments) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += map(str, arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_the_process_that_fails_is_named_and_all_end(tmp_path):
    (tmp_path / "main.py").write_text(FAILS_ON_RANK_1)
    torch.save({f"{at}.weight": torch.randn(4, 3, 3, 3) for at in range(2)}, tmp_path / "model.pt")
    done = torchrun(tmp_path / "main.py", "measure", tmp_path / "model.pt", "--json", tmp_path / "report.json")
    assert done.returncode == 1
    assert "ckrm: the disk is on fire" in done.stderr
    assert "ckrm: rank 1 of 2 on " in done.stderr
    assert " failed: the disk is on fire" in done.stderr
    assert not (tmp_path / "report.json").exists()


def test_every_process_ends_alike_where_nothing_is_measured(tmp_path):
    torch.save({"fc.weight": torch.ones(3, 4)}, tmp_path / "linear.pt")
    done = torchrun("-m", "ckrm_kernels", "measure", tmp_path / "linear.pt")
    assert done.returncode == 1
    assert done.stderr.count("exitcode  : 1 ") == 2
    assert done.stdout.count("0 of 1 layers measured") == 1
