"""The page on training with the package: the code of each section runs, where the section's library is installed."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
NEEDS = {
    "A loop of your own": ("tensorboard",),
    "Lightning": ("lightning",),
    "Hugging Face": ("transformers", "accelerate", "tensorboard"),
    "Stop by it, and shrink at the end": ("safetensors",),
    "torchmetrics": ("torchmetrics",),
    "torch-pruning": ("torch_pruning",),
    "Arrays of other libraries": (),
}
COMMON, *SECTIONS = PAGE.read_text().split("\n## ")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=pytest.mark.exhaustive if needs else ()) for title, needs in NEEDS.items()]
)
def test_the_code_of_each_section_runs(title, tmp_path, monkeypatch):
    for library in NEEDS[title]:
        pytest.importorskip(library, reason=f"{library} is not installed")
    (section,) = (each for each in SECTIONS if each.partition("\n")[0] == title)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for code in BLOCK.findall(COMMON) + BLOCK.findall(section):
        exec(compile(code, str(PAGE), "exec"), names)


def test_every_section_with_code_is_known():
    assert [each.partition("\n")[0] for each in SECTIONS if BLOCK.search(each)] == list(NEEDS)
