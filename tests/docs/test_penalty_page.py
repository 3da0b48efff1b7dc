"""The page on the penalty: its code runs, block after block."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "penalty.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def test_every_block_runs(cpu_kernels):
    names = {"__name__": "__main__"}
    for code in BLOCK.findall(PAGE.read_text()):
        exec(compile(code, str(PAGE), "exec"), names)
        value = names["penalty"]()
        value.backward()
        assert value > 0
