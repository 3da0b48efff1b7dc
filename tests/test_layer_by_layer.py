"""Checkpoints that are measured a layer at a time."""

import copy
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ckrm_kernels import measure
from ckrm_kernels.checkpoints import read_checkpoints
from ckrm_kernels.layer_by_layer import measure_checkpoints
from ckrm_kernels.measurement import measure_layers
from ckrm_kernels.similarity import Similarity


class Tied(nn.Module):
    """Two names of one weight."""

    def __init__(self, first: str, second: str):
        super().__init__()
        setattr(self, first, nn.Conv2d(2, 6, 3))
        setattr(self, second, nn.Conv2d(2, 6, 3))
        self.b.weight = self.a.weight
        self.last = nn.Conv2d(6, 5, 3, groups=1)
        self.pointwise = nn.Conv2d(5, 4, 1)


def mapped() -> int:
    """Bytes of files that this process has in memory."""
    return int(re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.mark.parametrize("pointwise", ["skip", "vector"])
def test_a_layer_at_a_time_gives_what_all_at_once_do(tmp_path, pointwise):
    paths = [tmp_path / "0.pt", tmp_path / "1.pt"]
    for path, names in zip(paths, (("a", "b"), ("b", "a")), strict=True):
        torch.save(Tied(*names).state_dict(), path)
    read = read_checkpoints(paths)
    report = measure_checkpoints(read, 0.3, pointwise, Similarity(), patterns=True)
    together = measure_layers(
        [each.layers for each in read], 0.3, pointwise, Similarity(), patterns=True, sources=report.sources
    )
    assert report.layers == together.layers
    assert [layer.reason for layer in report.layers][1] == "shares its weight with a"
    assert replace(report, created="", notes=()) == replace(together, created="", notes=())


def test_the_numbers_are_those_of_the_model(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    torch.save(net.state_dict(), tmp_path / "a.pt")
    report = measure_checkpoints(read_checkpoints([tmp_path / "a.pt"]), 0.6, "skip", Similarity())
    rows = [replace(row, kind="Conv2d", reason="") for row in report.layers]
    assert rows == list(measure(net).layers)


def test_nan_in_the_last_layer_is_found_before_the_first_is_measured(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        net[2].weight[0] = torch.nan  # of a layer that is skipped
    broken = copy.deepcopy(net)
    broken[1].weight.data[2] = torch.inf
    for name, each in (("net", net), ("broken", broken)):
        torch.save(each.state_dict(), tmp_path / f"{name}.pt")
    measured = []

    def track(pieces):
        for piece in pieces:
            measured.append(piece)
            yield piece

    measure_checkpoints(read_checkpoints([tmp_path / "net.pt"]), 0.6, "skip", Similarity(), track=track)
    assert measured == [0, 1, 2]
    with pytest.raises(ValueError, match=r"layer '1' of \S+broken.pt has NaN or Inf in filters 2: nothing was"):
        measure_checkpoints(read_checkpoints([tmp_path / "broken.pt"]), 0.6, "skip", Similarity(), track=track)
    assert measured == [0, 1, 2]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to see the memory")
@pytest.mark.parametrize("name", ["model.safetensors", pytest.param("model.pt", marks=pytest.mark.exhaustive)])
def test_no_more_than_a_few_layers_are_in_memory(tmp_path, name):
    layers, size = 12, 2 << 20
    weights = {f"{at}.weight": torch.randn(128, size // (128 * 9 * 4), 3, 3) for at in range(layers)}
    (save_file if name.endswith("safetensors") else torch.save)(weights, tmp_path / name)
    del weights
    before, most = [], []

    def track(pieces):
        before.append(mapped())
        for piece in pieces:
            yield piece
            most.append(mapped())

    measure_checkpoints(read_checkpoints([tmp_path / name]), 0.6, "skip", Similarity())  # the libraries are files, too
    report = measure_checkpoints(read_checkpoints([tmp_path / name]), 0.6, "skip", Similarity(), track=track)
    assert len(report.measured) == layers
    assert max(most) - before[0] < 3 * size


MEASURE = """
import sys
from pathlib import Path
import torch
from ckrm_kernels.checkpoints import read_checkpoints
from ckrm_kernels.layer_by_layer import measure_checkpoints
from ckrm_kernels.similarity import Similarity

def memory(field):
    return 1024 * int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])

torch.set_num_threads(1)
for path in sys.argv[1:]:  # the first, for what a first call builds and imports
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = memory("VmRSS")
    measure_checkpoints(read_checkpoints([path]), 0.6, "skip", Similarity(), patterns=True)
    print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc to see the memory")
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("shape", "dtype", "most"),
    [
        ((96, 4856, 3, 3), torch.float32, 3.4),
        ((96, 4856, 3, 3), torch.bfloat16, 5.8),
        ((16, 29136, 3, 3), torch.float32, 3.4),
        ((16, 29136, 3, 3), torch.float16, 5.8),
    ],
)
def test_a_layer_takes_its_copies_and_no_more(tmp_path, shape, dtype, most):
    """The mapped file, the layer over its root mean square, and its slices as the kernels want them: 1 + 1 + 12 / 9.

    Of half types the two copies are of float32: 1 + 2 + 24 / 9. A twentieth of the filters are dead, and some repeat.
    """
    weight = torch.randn(shape) * 0.05
    weight[: len(weight) // 20 + 1] = 0
    weight[-4:] = weight[-8:-4]
    weight = weight.to(dtype)
    paths = [tmp_path / "small.safetensors", tmp_path / "large.safetensors"]
    for path, tensor in zip(paths, (weight[:16, :16].contiguous(), weight), strict=True):
        save_file({"0.weight": tensor}, path)
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}  # else the heap keeps blocks that are free
    ran = subprocess.run([sys.executable, "-c", MEASURE, *paths], check=True, capture_output=True, env=environment)
    assert int(ran.stdout.split()[1]) < most * weight.nbytes + (8 << 20)  # beside what does not grow with it
