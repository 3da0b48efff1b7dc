"""docs/studies/shrinking/zoo: the judge of shrunk networks, and its table."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

ZOO = Path(__file__).parents[2] / "docs" / "studies" / "shrinking" / "zoo"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ZOO))  # the study's modules import one another
    JUDGE, TABLES = (SimpleNamespace(**runpy.run_path(str(ZOO / name))) for name in ("judge.py", "tables.py"))
INPUTS = (torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),)


def network(middle=None):
    torch.manual_seed(0)
    middle = middle or nn.BatchNorm2d(6)
    layers = nn.Conv2d(3, 6, 3), middle, nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(20, 4)
    return JUDGE.with_single_values(nn.Sequential(*layers)).eval()


def shrunk(model, filters, read=None):
    """Without filters of the first layer, and without the inputs `read` of the second (the same, if None)."""
    small = copy.deepcopy(model)
    kept = [index for index in range(6) if index not in filters]
    columns = kept if read is None else [index for index in range(6) if index not in read]
    for module in small[:2]:
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(module, name, None)
            if tensor is not None:
                tensor.data = tensor.data[kept]
    small[3].weight.data = small[3].weight.data[:, columns]
    if isinstance(small[1], nn.GroupNorm):
        small[1].num_channels = len(kept)
    return small


@pytest.mark.parametrize("filters", [[0], [2, 5], [0, 1, 2, 3, 4]])
def test_filters_that_leave_with_what_reads_them_are_exact(filters):
    model = network()
    verdict = JUDGE.judge(model, shrunk(model, filters), INPUTS)
    assert verdict.name == "exact"
    assert verdict.left < 1


def test_another_input_than_the_filter_that_left_is_wrong():
    model = network()
    assert JUDGE.judge(model, shrunk(model, [1, 4], read=[1, 3]), INPUTS).name == "wrong"


def test_weights_of_another_network_are_wrong():
    model = network()
    small = shrunk(model, [1])
    small[5].weight.data += 1e-3
    verdict = JUDGE.judge(model, small, INPUTS)
    assert (verdict.name, verdict.detail) == ("wrong", "5.weight has values that the original's has not")


@pytest.mark.parametrize("affine", [True, False])
def test_norms_over_fewer_channels_change_their_statistics(affine):
    model = network(nn.GroupNorm(2, 6, affine=affine))
    assert JUDGE.judge(model, shrunk(model, [1, 4]), INPUTS).name == "statistics"
    assert JUDGE.judge(model, shrunk(model, [1, 4], read=[1, 5]), INPUTS).name == "wrong"


def test_a_network_that_does_not_run_is_an_error_and_an_equal_one_nothing():
    model = network()
    verdict = JUDGE.judge(model, shrunk(model, [1, 2], read=[1]), INPUTS)
    assert (verdict.name, verdict.detail[:13]) == ("error", "RuntimeError:")
    assert JUDGE.judge(model, copy.deepcopy(model), INPUTS).name == "nothing"


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 12, 3, groups=4), nn.ConvTranspose2d(8, 12, 3, groups=4)])
def test_inputs_of_grouped_convolutions_that_nobody_reads(layer):
    """Without the second filter of each group and the second input of each: exactly these inputs are zeroed."""
    JUDGE.with_single_values(layer)
    rows, columns = ([0, 2, 4, 6], slice(None)) if isinstance(layer, nn.ConvTranspose2d) else (slice(None), [0])
    entries = JUDGE.kept_entries(layer.weight, layer.weight.detach()[rows][:, columns])
    mask = JUDGE.still_read(layer, entries, tuple(layer.weight.shape))
    zeroed = layer.weight.detach() * mask
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    expected = layer(x * torch.tensor([1.0, 0.0] * 4, dtype=torch.float64)[:, None, None])
    layer.weight.data = zeroed
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_the_table_counts_the_worst_of_each_tool():
    row = {
        "model": "a",
        "family": "f",
        "ours 25%": "exact",
        "ours 50%": "statistics",
        "torch-pruning pruner_25%": "wrong",
    }
    rows = [row | {"ours seconds": "1", "torch-pruning seconds": "1"}, row | {"model": "b", "ours failed": "crash"}]
    rows[1]["ours seconds"] = "1"  # and not measured by the other tool
    counts = TABLES.outcomes(rows)
    assert counts[2] == "| this package | 0 | 1 | 0 | 0 | 1 | 0 |"
    assert counts[4] == "| torch-pruning, its pruner | 0 | 0 | 0 | 0 | 0 | 1 |"
    assert sum(line.startswith(("| a |", "| b |")) for line in TABLES.markdown(rows).splitlines()) == 2
