"""The tutorial's code runs, and prints what the page shows below it."""

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
TIME = re.compile(r"^\d\d:\d\d:\d\d ", re.MULTILINE)  # of progress lines, where the output is no terminal
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?", re.DOTALL | re.MULTILINE)


# threads: the page sets their number
def test_every_block_prints_what_stands_below_it(tmp_path, monkeypatch, cpu_kernels, threads):
    monkeypatch.chdir(tmp_path)
    blocks = list(BLOCK.finditer(PAGE.read_text()))
    assert len(blocks) == PAGE.read_text().count("```python")
    names = {"__name__": "__main__"}
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], str(PAGE), "exec"), names)
        expected = block["shown"] or ""
        if not doctest.OutputChecker().check_output(expected, TIME.sub("", printed.getvalue()), doctest.ELLIPSIS):
            pytest.fail(
                f"this block\n\n{block['code']}\nprints\n\n{printed.getvalue()}\nnot\n\n{expected}", pytrace=False
            )
    assert (tmp_path / "runs" / "tutorial" / "report.html").is_file()
