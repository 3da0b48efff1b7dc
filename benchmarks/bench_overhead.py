"""What a call costs beside its arithmetic: the public functions on two filters of one slice, step by step."""

import pytest
import race
import torch

import ckrm_kernels
from ckrm_kernels import native
from ckrm_kernels.ops import by_device as ops
from ckrm_kernels.similarity import Similarity

WEIGHT = torch.ones(2, 1, 3, 3)
TRAINED = torch.ones(2, 1, 3, 3, requires_grad=True)
PSI = Similarity()

STEPS = {
    "torch.add, as a yardstick": lambda: torch.add(WEIGHT, WEIGHT),
    "native.load_cpu": native.load_cpu,
    "the operator": lambda: ops.pairwise_psi(WEIGHT, PSI),
    "the operator, recording": lambda: ops.pairwise_psi(TRAINED, PSI),
    "pairwise_psi": lambda: ckrm_kernels.pairwise_psi(WEIGHT),
    "pairwise_psi, recording": lambda: ckrm_kernels.pairwise_psi(TRAINED),
    "redundancy": lambda: ckrm_kernels.redundancy(WEIGHT),
}
RACE = {}


@pytest.mark.parametrize("step", STEPS)
def test_overhead(report_times, step):
    if not RACE:
        assert native.load_cpu(), native.cpu_failure()
        RACE.update({name: race.enter({"": call}, lambda result: None) for name, call in STEPS.items()})
        race.run(list(RACE.values()))
    report_times("overhead", "2x1x3x3", step, RACE[step].seconds, form="", slice_pairs=0)
