"""What holds for every view."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys

import pytest
from hand_made import EVERYTHING, NASTY
from torch import nn

from ckrm_kernels import measure


@pytest.mark.parametrize("threshold", [0.0, 1.0])
@pytest.mark.parametrize("details", [True, False])
def test_every_view_of_a_measured_model(threshold, details, tmp_path):
    net = nn.ModuleDict({NASTY: nn.Conv2d(4, 12, 3), "norm": nn.BatchNorm2d(12), "head": nn.Linear(12, 3)})
    report = measure(net, threshold, details=details)
    assert NASTY in str(report)
    assert f"above {threshold:g};" in str(report)
    assert '<script>alert("x")' not in report.to_html()
    assert json.loads(report.to_json())["layers"][0]["name"] == NASTY
    assert list(report.to_pandas()["name"]) == [NASTY, "norm", "head"]
    assert report.to_csv().count("\n") == 4
    report.plot(tmp_path / "figure.svg")


def test_every_view_of_a_model_without_weights():
    report = measure(nn.ReLU())
    assert "0 of 0 layers" in str(report)
    assert "there is no layer with a weight" in report.to_html()
    assert json.loads(report.to_json())["layers"] == []
    assert len(report.to_pandas()) == 0
    assert report.to_csv().count("\n") == 1
    report.plot()


def test_views_import_only_what_they_need():
    """Neither pyplot's state nor pandas is touched by the figure; the others need neither."""
    code = """
import sys
from torch import nn
import ckrm_kernels
report = ckrm_kernels.measure(nn.Conv2d(1, 4, 3), backend="reference")
str(report), report.to_json(), report.to_csv(), report.to_html(), report.selected(sort="excess")
for name in ("pandas", "matplotlib", "rich", "typer", "scipy", "sklearn", "safetensors"):
    assert name not in sys.modules, name
report.plot()
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("view", "module"), [("to_pandas", "pandas"), ("plot", "matplotlib")])
def test_a_missing_extra_is_named(view, module, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf'{view} needs {module}: pip install "ckrm-kernels\[report\]"'):
        getattr(EVERYTHING, view)()
