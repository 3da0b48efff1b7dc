"""`ckrm patterns`, and `ckrm measure --patterns`."""

import csv
import json
from inspect import signature

import pytest
import torch
from torch import nn

from ckrm_kernels import measure
from ckrm_kernels.commands.patterns import patterns
from ckrm_kernels.patterns import edge_detectors, gaussian
from ckrm_kernels.patterns.matching import THRESHOLD


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 5, groups=4), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(edge_detectors().repeat(2, 1, 1).view(4, 3, 3, 3))
        model[1].weight.copy_(gaussian(5, 1.1).expand(4, 1, 5, 5))
    return model


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(network().state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_a_checkpoint(ckrm, checkpoint, tmp_path):
    code, out, _ = ckrm("patterns", checkpoint, "--json", tmp_path / "p.json", "--plot", tmp_path / "p.png")
    assert code == 0
    assert "100.0% of 16 kernels look like a pattern" in out
    assert "all filters of a weight are compared" not in out  # which says nothing of kernels
    value = json.loads((tmp_path / "p.json").read_text())
    assert [layer["families"].get("edge") for layer in value["layers"]] == [pytest.approx(1), 0, None]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_constructor(ckrm, tmp_path, monkeypatch):
    (tmp_path / "of_blurs.py").write_text(
        "import torch\nfrom ckrm_kernels.patterns import gaussian\n"
        "def net():\n    layer = torch.nn.Conv2d(2, 2, 3, groups=2)\n"
        "    layer.weight.data = -gaussian(3, 0.6).float().repeat(2, 1, 1, 1)\n    return layer\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, out, _ = ckrm("patterns", "of_blurs:net")
    assert code == 0
    assert "100.0% blur" in out
    assert "-gaussian" in out
    assert "-gaussian" not in ckrm("patterns", "of_blurs:net", "--unsigned")[1]
    code, out, _ = ckrm("patterns", "of_blurs:net", "--bank", "identity,gaussian")
    assert (code, "0.0% blur" in out) == (0, True)
    assert ckrm("patterns", "of_blurs:net", "--like", "of_blurs:net")[0] == 2
    assert ckrm("patterns", "of_blurs:no")[0] == 2
    code, _, err = ckrm("patterns", "builtins:dict")
    assert (code, "must make a torch.nn.Module, got dict" in " ".join(err.replace("│", " ").split())) == (2, True)


def test_json_on_the_standard_output(ckrm, checkpoint):
    code, out, err = ckrm("patterns", checkpoint, "--layer", "0", "--json", "-")
    assert code == 0
    assert [layer["name"] for layer in json.loads(out)["layers"]] == ["0"]
    assert "look like a pattern" in err


def test_the_threshold_is_that_of_the_function():
    assert signature(patterns).parameters["threshold"].default == THRESHOLD


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--bank", "sobel"], 2, "unknown pattern 'sobel'"),
        (["--threshold", "2"], 2, "threshold must lie in"),
        (["--threshold", "-0.5", "--unsigned"], 2, "threshold must lie in"),
        (["--layer", "stem"], 2, "no layer's name fits"),
        (["--plot", "figure.txt"], 2, "must end in one of"),
        (["--layer", "2"], 1, "1 skipped: pointwise"),
    ],
)
def test_wrong_use(ckrm, checkpoint, arguments, code, words):
    found, out, err = ckrm("patterns", checkpoint, *arguments)
    assert found == code
    assert words in " ".join((out + err).replace("│", " ").split())


def test_a_file_that_is_not_there(ckrm, tmp_path):
    code, _, err = ckrm("patterns", tmp_path / "none.pt")
    assert code == 1
    assert "none.pt" in err


def test_nothing_is_written_over_the_checkpoint(ckrm, checkpoint):
    before = checkpoint.read_bytes()
    assert ckrm("patterns", checkpoint, "--json", checkpoint)[0] == 2
    assert checkpoint.read_bytes() == before


# ---- measure ---------------------------------------------------------------------------------------------------------


def test_measure_shows_them_when_asked(ckrm, checkpoint, tmp_path):
    files = {each: tmp_path / f"report.{each}" for each in ("json", "csv", "html")}
    options = [text for name, path in files.items() for text in (f"--{name}", path)]
    code, out, _ = ckrm("measure", checkpoint, "--patterns", *options)
    assert code == 0
    assert "kernels: shares of spatial kernels" in out
    first, second, pointwise = json.loads(files["json"].read_text())["layers"]
    assert first["patterns"]["edge"] == pytest.approx(1)
    assert second["patterns"]["blur"] == 1
    assert "patterns" not in pointwise
    rows = list(csv.DictReader(files["csv"].open()))
    assert [row["patterns_blur"] for row in rows] == ["0.0", "1.0", ""]
    assert ">identity</th>" in files["html"].read_text()


def test_measure_does_not_without(ckrm, checkpoint, tmp_path):
    code, out, _ = ckrm("measure", checkpoint, "--csv", tmp_path / "report.csv", "--html", tmp_path / "report.html")
    assert code == 0
    assert "identity" not in out
    assert "patterns" not in (tmp_path / "report.csv").read_text()
    assert "identity" not in (tmp_path / "report.html").read_text()
    report = measure(network())
    assert all(layer.patterns is None for layer in report.layers)
    assert '"patterns"' not in report.to_json()
    assert not any(name.startswith("patterns") for name in report.to_pandas().columns)


def test_measure_of_several_models():
    one, other = network(), network()
    with torch.no_grad():
        other[0].weight.copy_(gaussian(3, 1.1).expand(4, 3, 3, 3))
    first, second, pointwise = measure([one, other], patterns=True, details=False).layers
    assert (first.patterns.edge, first.patterns.blur) == pytest.approx((0.5, 0.5))
    assert second.patterns.blur == 1
    assert pointwise.patterns is None
