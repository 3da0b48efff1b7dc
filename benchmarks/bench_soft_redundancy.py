"""Values and gradients of `RedundancyLoss`: fused, of the other operators, and in plain PyTorch; in turns."""

import pytest
import race
import torch
from checks import PSI, THRESHOLD
from layers import layer

from ckrm_kernels import native
from ckrm_kernels.backends import BY_DEFINITION

RESNET18 = ["64x3x7x7", *["64x64x3x3"] * 4, "128x64x3x3", *["128x128x3x3"] * 3, "256x128x3x3", *["256x256x3x3"] * 3]
BANKS = {
    "32x32x3x3": ["32x32x3x3"],
    "128x128x3x3": ["128x128x3x3"],
    "20 layers of 32x32x3x3": ["32x32x3x3"] * 20,
    "a ResNet18 without its last stage": RESNET18,
}
WAYS = ["fused", "composed", "plain PyTorch"]
TEMPERATURE = 0.1
RACES = {}


def composed(banks, thresholds, temperature):
    """Values and gradients of the operators for Psi and its gradient, a bank at a time."""
    values, gradients = [], []
    for bank, threshold in zip(banks, thresholds, strict=True):
        omega = torch.ops.ckrm.pairwise_psi(bank, *PSI.arguments)
        soft = ((omega - threshold) / temperature).sigmoid()
        values.append(soft.mean())
        of_omega = soft * (1 - soft) / (temperature * omega.numel())
        gradients.append(torch.ops.ckrm.pairwise_psi_backward(of_omega, bank, *PSI.arguments))
    return torch.stack(values), gradients


def calls(shapes):
    """One call of each way: values and gradients; plain PyTorch by its autograd."""
    banks = [layer(shape).weight(seed) for seed, shape in enumerate(shapes)]
    thresholds = torch.full((len(banks),), THRESHOLD)

    def by_definition():
        of_banks = [bank.detach().requires_grad_() for bank in banks]
        values = BY_DEFINITION.soft_redundancy(of_banks, thresholds, TEMPERATURE, PSI)
        return torch.autograd.grad(values.sum(), of_banks)

    arguments = (banks, thresholds, TEMPERATURE, True, *PSI.arguments)
    return {
        "fused": lambda: torch.ops.ckrm.soft_redundancy(*arguments)[1],
        "composed": lambda: composed(banks, thresholds, TEMPERATURE)[1],
        "plain PyTorch": by_definition,
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("banks", BANKS)
def test_soft_redundancy(report_times, banks, way):
    assert native.load_cpu(), native.cpu_failure()
    if banks not in RACES:
        forms = calls(BANKS[banks])
        expected = forms["composed"]()

        def check(found):
            for gradient, exact in zip(found, expected, strict=True):
                torch.testing.assert_close(gradient, exact, rtol=0, atol=1e-3 * exact.abs().max().item())

        taking_part = {name: call for name, call in forms.items() if name != "plain PyTorch" or banks.endswith("x3x3")}
        RACES[banks] = {}
        for name, call in taking_part.items():
            try:
                RACES[banks][name] = race.enter({"": call}, check)
            except race.NoEntry as reason:
                RACES[banks][name] = reason
        race.run([entry for entry in RACES[banks].values() if isinstance(entry, race.Entry)])
    entry = RACES[banks].get(way, "too slow")
    if not isinstance(entry, race.Entry):
        pytest.skip(str(entry))
    work = sum(layer(shape).slice_pairs for shape in BANKS[banks])
    report_times("soft redundancy", banks, way, entry.seconds, form="", slice_pairs=work)
