"""float64 beside float32, forward, counts and backward, in turns."""

import pytest
import race
import torch
from checks import PSI, THRESHOLD
from layers import layer

from ckrm_kernels import native, ops

LAYER = layer("512x64x3x3")
DTYPES = {"float32": torch.float32, "float64": torch.float64}
RACES = {}


def calls(dtype):
    """One call of each operation, by its name."""
    weight, edges = LAYER.weight().to(dtype), torch.tensor([THRESHOLD], dtype=dtype)
    grad = torch.ones(LAYER.filters * (LAYER.filters - 1) // 2, dtype=dtype)
    return {
        "pairwise": lambda: ops.by_device.pairwise_psi(weight, PSI),
        "counts": lambda: ops.by_device.psi_counts([weight], edges, PSI),
        "backward": lambda: torch.ops.ckrm.pairwise_psi_backward(grad, weight, *PSI.arguments),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", ["pairwise", "counts", "backward"])
def test_dtypes(report_times, operation, dtype):
    assert native.load_cpu(), native.cpu_failure()
    if operation not in RACES:
        forms = {name: calls(of_name)[operation] for name, of_name in DTYPES.items()}
        RACES[operation] = {name: race.enter({"": call}, lambda result: None) for name, call in forms.items()}
        race.run(list(RACES[operation].values()))
    seconds = RACES[operation][dtype].seconds
    report_times(f"{operation}, by dtype", str(LAYER), dtype, seconds, form="", slice_pairs=LAYER.slice_pairs)
