"""docs/studies/patterns: what is replaced by what, how layers are sorted, and the page's tables."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ckrm_kernels.patterns import edge_detectors, gaussian

STUDY = Path(__file__).parents[2] / "docs" / "studies" / "patterns"
NAMES = ("networks", "small", "pictures", "rows", "replaced", "page", "nearness")


@pytest.fixture(scope="module")
def study():
    """The study's modules, which import one another by names that other studies have, too."""
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY))
        import networks
        import page
        import replaced
        import rows
        import small
    yield SimpleNamespace(networks=networks, page=page, replaced=replaced, rows=rows, small=small)
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def depthwise():
    """A strided depthwise layer of two shapes of kernels, one of stride 1, and logits."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    with torch.no_grad():
        factors = torch.tensor([1, 1, -1.2, 0.9, 1.1, -1, 1, -0.9]).view(8, 1, 1, 1)
        model[1].weight.copy_(factors * torch.stack((gaussian(3, 1.1), edge_detectors()[0])).repeat(4, 1, 1)[:, None])
    return model.eval()


def trained(study, make=depthwise):
    layers = partial(study.networks._of_model, make)
    inputs = partial(torch.randn, 6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return study.networks.Trained("net", "package==1", "nothing", layers, make, inputs)


def test_rows(study):
    first, strided, last = study.rows.rows_of(trained(study))[0]
    assert [row.kind for row in (first, strided, last)] == [study.rows.KINDS[place] for place in (3, 0, 1)]
    assert (strided.blur, strided.edge, strided.stride) == (0.5, 0.5, 2)
    assert strided.distinct == 2
    assert [row.depth for row in (first, strided, last)] == [0, 0.5, 1]


def test_repeats_are_multiples_of_what_they_repeat(study):
    found = study.replaced.replaced(trained(study), "1")
    assert (found.kept, found.kernels, found.matched) == (2, 8, 8)
    assert found.repeats == pytest.approx(1, abs=1e-6)
    assert found.patterns == pytest.approx(1, abs=1e-6)
    assert found.shuffled < 0.99
    assert found.other_patterns < 0.99
    assert study.replaced.replaced(trained(study), study.replaced.ALL).kernels == 16


def test_which_layers_are_replaced(study):
    replaced = study.replaced
    assert replaced.layers_of(trained(study)) == ["1", "3", replaced.STRIDED, replaced.ALL]


def test_multiples_are_the_nearest(study):
    weight, other = torch.randn(2, 5, 1, 3, 3, dtype=torch.float64)
    found = study.replaced.multiples(weight, other)
    left = (weight - found) * other
    assert left.flatten(1).sum(1).abs().max() < 1e-12
    assert torch.equal(study.replaced.multiples(weight, torch.zeros_like(weight)), torch.zeros_like(weight))


def test_mobilenet_has_torchvisions_names_and_size(study):
    model = study.networks.MobileNetV2()
    assert sum(each.numel() for each in model.parameters()) == 3_504_872
    names = set(model.state_dict())
    assert {
        "features.0.0.weight",
        "features.1.conv.0.0.weight",
        "features.17.conv.2.weight",
        "classifier.1.bias",
    } < names


def test_tables(study):
    rows = study.rows.rows_of(trained(study))[0]
    packaged = [study.rows.Row(**{**asdict(rows[0]), "kind": kind, "blur": 0.25}) for kind in study.rows.KINDS]
    head, _, *lines = study.page.kinds(packaged).split("\n")
    assert head.startswith("| kind | layers | lambda | chance |")
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == list(study.rows.KINDS)
    assert all("25%" in line for line in lines)
    assert study.page.markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | --: |\n| x | 1 |"


def test_shares_by_depth(study):
    rows = study.rows.rows_of(trained(study))[0]
    of = {"kind": study.rows.KINDS[2], "identity": 0.5}
    layers = [study.rows.Row(**{**asdict(rows[0]), **of, "depth": d, "edge": 1 - d, "blur": d}) for d in (0, 0.5, 1)]
    line = study.page.depths(layers).split("\n")[2].strip("| ").split(" | ")
    assert line[1:] == ["50%", "50%", "50%", "100%", "50%", "0%", "0%", "50%", "100%", "", "-1.00", "+1.00"]


def test_tables_of_what_was_replaced(study):
    found = study.replaced.replaced(trained(study), "1")
    assert "| net | 1 | 2 of 8 | 1.000 |" in study.page.table_of_replaced([found])
    assert "| net | strided | 1 | 25% | 1.000 |" in study.page.others(
        [found, study.replaced.replaced(trained(study), "3")]
    )
    assert study.page.ranges([found])["matched"] == "100 to 100 %"


def test_the_small_network(study):
    assert study.small.network()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
