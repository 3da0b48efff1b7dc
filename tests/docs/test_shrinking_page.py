"""The page on shrinking: its code runs, block after block, and leaves what it says."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "shrinking.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def test_every_block_runs(tmp_path, monkeypatch, cpu_kernels, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for code in BLOCK.findall(PAGE.read_text()):
        exec(compile(code, str(PAGE), "exec"), names)
    parameters = [sum(p.numel() for p in names[name].parameters()) for name in ("model", "small")]
    assert parameters[1] <= parameters[0] / 2
    assert "of the parameters" in capsys.readouterr().out
    assert {"report.html", "widths.png", "plan-report.json", "plan.csv", "small"} == {
        p.name for p in tmp_path.iterdir()
    }
    assert torch.equal(names["again"](names["images"]), names["small"](names["images"]))
