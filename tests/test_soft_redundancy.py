"""The operator `soft_redundancy`: the mean over pairs of sigmoid((Psi - t) / temperature), and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from compare import DTYPES, all_pairs, expected_psi, poisoned, weight
from definition import Cosine, Psi, omega
from tolerances import GRADIENT

from ckrm_kernels import backends, ops, reference
from ckrm_kernels.ops import result_dtype
from ckrm_kernels.similarity import Similarity

SHAPES = [(9, 5, 3, 3), (17, 3, 2), (2, 4, 5, 5), (1, 3, 3, 3), (0, 2, 3), (6, 7)]
THRESHOLDS = [0.3, 0.5, 0.1, 0.6, 0.6, 0.9]
TEMPERATURE = 0.1
NAMESPACES = ["ckrm", pytest.param("ckrm_triton", marks=pytest.mark.exhaustive)]


@pytest.fixture(params=NAMESPACES)
def operators(request):
    """The operators of a namespace that computes on CPU tensors."""
    if request.param == "ckrm":
        request.getfixturevalue("cpu_kernels")
    elif failure := backends.why_not("triton", torch.device("cpu")):
        pytest.skip(failure)
    return getattr(torch.ops, request.param)


def banks_of(dtype):
    return [weight(shape, dtype).requires_grad_() for shape in SHAPES]


def thresholds_of(dtype):
    return torch.tensor(THRESHOLDS, dtype=result_dtype(dtype))


def expected(bank, threshold, psi):
    """The value in float64 of Psi by the reference on the rounded weight, and its gradient."""
    exact = bank.detach().double().requires_grad_()
    of_pairs = expected_psi(exact, all_pairs(bank.shape[0]), psi)
    value = torch.sigmoid((of_pairs - threshold) / TEMPERATURE).sum() / max(of_pairs.numel(), 1)
    return value, torch.autograd.grad(value, exact)[0]


def test_the_reference_by_the_definition():
    """Loops in 40 digits."""
    w = weight((4, 2, 3), torch.float64)
    soft = [1 / (1 + math.exp((0.3 - value) / 0.2)) for value in omega(w, Psi()).tolist()]
    found = reference.soft_redundancy(w, torch.tensor(0.3, dtype=torch.float64), 0.2, Similarity())
    assert found.item() == pytest.approx(sum(soft) / 6, abs=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("psi", [Psi(), Psi(0.5, 2.0, 0.5, 1e-2, True), Cosine()], ids=str)
def test_values_and_gradients(operators, dtype, psi):
    banks = banks_of(dtype)
    with poisoned():
        values, gradients = operators.soft_redundancy(
            [bank.detach() for bank in banks], thresholds_of(dtype), TEMPERATURE, True, *psi.arguments
        )
    similarity = Similarity("cosine", signed=psi.signed) if isinstance(psi, Cosine) else Similarity("psi", *psi)
    for bank, threshold, value, gradient in zip(banks, THRESHOLDS, values, gradients, strict=True):
        exact, of_bank = expected(bank, threshold, similarity)
        assert gradient.shape == bank.shape
        assert gradient.dtype == value.dtype == result_dtype(dtype)
        assert value.item() == pytest.approx(exact.item(), abs=1e-5 if dtype != torch.float64 else 1e-12)
        scale = of_bank.abs().amax().item() if of_bank.numel() else 0.0
        torch.testing.assert_close(gradient.double(), of_bank, rtol=0, atol=10 * GRADIENT[dtype] * scale)


def test_without_gradient_there_are_none(operators):
    values, gradients = operators.soft_redundancy(
        banks_of(torch.float32), thresholds_of(torch.float32), TEMPERATURE, False, *Psi().arguments
    )
    assert gradients == []
    with pytest.raises(RuntimeError, match="with_gradient=False"):
        values.sum().backward()


def test_gradients_times_what_comes_in(operators):
    banks, grad = banks_of(torch.bfloat16), torch.tensor([3.0, -1.0, 0.5, 1.0, 1.0, 0.0])
    values, gradients = operators.soft_redundancy(
        banks, thresholds_of(torch.bfloat16), TEMPERATURE, True, *Psi().arguments
    )
    found = torch.autograd.grad(values, banks, grad)
    for part, gradient, each in zip(grad, gradients, found, strict=True):
        assert torch.equal(each, (part * gradient).bfloat16())  # rounded after the product: small ones don't vanish


def test_a_small_gradient_of_half_precision_is_scaled_before_it_is_rounded(operators):
    bank = weight((40, 4, 3, 3), torch.float16).requires_grad_()
    values, _ = operators.soft_redundancy([bank], torch.tensor([0.9]), 0.02, True, *Psi().arguments)
    (alone,) = torch.autograd.grad(values, bank, torch.ones(1), retain_graph=True)
    (scaled,) = torch.autograd.grad(values, bank, torch.tensor([2.0**24]))
    assert (scaled != 0).sum() > (alone != 0).sum()


def test_the_limit_is_lambda(operators):
    bank = weight((30, 4, 3, 3), torch.float64)
    psi = operators.pairwise_psi(bank, *Psi().arguments)
    found, _ = operators.soft_redundancy(
        [bank], torch.tensor([0.3], dtype=torch.float64), 1e-9, False, *Psi().arguments
    )
    assert found.item() == pytest.approx((psi > 0.3).double().mean().item(), abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bank_with_nan_leaves_the_others(operators, bad):
    good, broken = weight((5, 2, 3, 3)), weight((5, 2, 3, 3))
    broken[1, 0, 0, 0] = bad
    values, gradients = operators.soft_redundancy(
        [good, broken], torch.tensor([0.3, 0.3]), TEMPERATURE, True, *Psi().arguments
    )
    assert [bool(value.isfinite()) for value in values] == [True, False]
    assert [bool(gradient.isfinite().all()) for gradient in gradients] == [True, False]


def test_bitwise_the_same_whatever_the_threads(cpu_kernels, threads):
    shapes = ((130, 9, 3, 3), (33, 40, 3, 3), *[(20, 16, 3, 3)] * 6, (70, 3, 7, 7), (1, 2, 3), (40, 5, 2))
    banks = [weight(shape, seed=seed).detach() for seed, shape in enumerate(shapes)]
    at = torch.full((len(banks),), 0.3)

    def run():
        values, gradients = torch.ops.ckrm.soft_redundancy(banks, at, TEMPERATURE, True, *Psi().arguments)
        return [values, *gradients]

    threads(1)
    first = run()
    for count in (2, 3, 4):
        threads(count)
        assert all(map(torch.equal, run(), first))


@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.parametrize("psi", [Psi(), Cosine()], ids=str)  # the cosine has no parameters
def test_opcheck(operators, psi, with_gradient):
    banks = [weight((4, 2, 3), torch.float64).requires_grad_(with_gradient), weight((3, 4, 1), torch.float64)]
    at = torch.tensor([0.3, 0.4], dtype=torch.float64)
    torch.library.opcheck(operators.soft_redundancy.default, (banks, at, 0.1, with_gradient, *psi.arguments))
    gradients = [bank.detach() for bank in banks]
    torch.library.opcheck(operators.soft_redundancy_backward.default, (at, gradients, gradients))


def test_compiled_whole(cpu_kernels):
    banks = banks_of(torch.float32)[:3]

    def penalty():
        return ops.by_device.soft_redundancy(banks, torch.full((3,), 0.3), TEMPERATURE, Similarity()).sum() * 2

    compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(), penalty())
    for found, exact in zip(torch.autograd.grad(compiled(), banks), torch.autograd.grad(penalty(), banks), strict=True):
        assert torch.equal(found, exact)


def test_vmap_takes_a_batch_of_banks(operators):
    batch = torch.stack([weight((5, 2, 3)), weight((5, 2, 3)) * 2])
    at = torch.tensor([0.3])
    values, (gradients,) = torch.func.vmap(
        lambda bank: operators.soft_redundancy([bank], at, TEMPERATURE, True, *Psi().arguments)
    )(batch)
    for bank, value, gradient in zip(batch, values, gradients, strict=True):
        alone, (of_bank,) = operators.soft_redundancy([bank], at, TEMPERATURE, True, *Psi().arguments)
        assert torch.equal(value, alone)
        assert torch.equal(gradient, of_bank)


def test_no_second_derivative(operators):
    bank = weight((5, 2, 3)).requires_grad_()
    values, _ = operators.soft_redundancy([bank], torch.tensor([0.3]), TEMPERATURE, True, *Psi().arguments)
    (gradient,) = torch.autograd.grad(values.sum(), bank, create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward"):
        gradient.sum().backward()


def test_what_it_refuses(operators):
    banks, psi = [weight((4, 2, 3)), weight((3, 2, 3))], Psi().arguments
    for bad, given in {
        "shape": (banks, torch.zeros(1)),
        "dtype": (banks, torch.zeros(2, dtype=torch.float64)),
        "one dtype": ([banks[0], banks[1].half()], torch.zeros(2)),
    }.items():
        with pytest.raises(RuntimeError, match=bad):
            operators.soft_redundancy(*given, TEMPERATURE, True, *psi)
    with pytest.raises(RuntimeError, match="temperature"):
        operators.soft_redundancy(banks, torch.zeros(2), 0.0, True, *psi)
