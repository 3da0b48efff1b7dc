from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from ckrm_kernels import filters, pairwise_psi
from ckrm_kernels.filters import are_finite, as_vectors, filter_banks, grouped_banks, is_pointwise, parts_of

CONVOLUTIONS = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]


def impulse_responses(conv: nn.Module) -> Tensor:
    """(out_channels, in_channels, *K): what the convolution does to an impulse in each of its input channels."""
    size = conv.kernel_size[0]
    dims = len(conv.kernel_size)
    side = 2 * size - 1
    inputs = torch.zeros(conv.in_channels, conv.in_channels, *[side] * dims, dtype=conv.weight.dtype)
    centre = (size - 1,) * dims
    for channel in range(conv.in_channels):
        inputs[(channel, channel, *centre)] = 1
    with torch.no_grad():
        out = conv(inputs).transpose(0, 1)
    if isinstance(conv, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return out[(..., *[slice(size - 1, 2 * size - 1)] * dims)]
    return out.flip(tuple(range(2, 2 + dims)))  # a convolution here is a correlation: the response is reversed


def expected_banks(conv: nn.Module) -> list[Tensor]:
    """By the impulse responses: output channel o of group g reads the input channels of g alone."""
    response, groups = impulse_responses(conv), conv.groups
    outs, ins = conv.out_channels // groups, conv.in_channels // groups
    banks = [response[g * outs : (g + 1) * outs, g * ins : (g + 1) * ins] for g in range(groups)]
    return [torch.cat(banks)] if groups > 1 and outs == 1 else banks


def assert_banks(module: nn.Module) -> None:
    banks, expected = filter_banks(module), expected_banks(module)
    assert len(banks) == len(expected)
    for bank, wanted in zip(banks, expected, strict=True):
        torch.testing.assert_close(bank.detach(), wanted)


@pytest.mark.parametrize("groups", ["one", "two", "depthwise", "depth multiplier"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_filters_are_the_impulse_responses_of_output_channels(kind, groups):
    ins, outs, count = {
        "one": (4, 6, 1),
        "two": (4, 6, 2),
        "depthwise": (4, 4, 4),
        "depth multiplier": (3, 6, 3),
    }[groups]
    conv = kind(ins, outs, 3, groups=count, bias=False).double()
    assert_banks(conv)
    banks = filter_banks(conv)
    assert len(banks) == (1 if groups == "depthwise" else count)


def test_banks_are_views():
    conv = nn.ConvTranspose2d(4, 6, 3, groups=2)
    for bank in filter_banks(conv):
        assert bank.data_ptr() - conv.weight.data_ptr() < conv.weight.numel() * 4
        assert bank.requires_grad


def test_linear_has_one_bank_of_single_numbers():
    linear = nn.Linear(5, 3)
    (bank,) = filter_banks(linear)
    assert bank is linear.weight
    assert is_pointwise(bank)


def test_a_tensor_is_its_own_bank():
    weight = torch.randn(3, 2, 5)
    assert filter_banks(weight)[0] is weight


# ---- weights that are computed ---------------------------------------------------------------------------------------


def halve(conv: nn.Module) -> None:
    """Changes every parameter, as an optimiser's step would, without a forward pass."""
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.mul_(torch.linspace(0.5, 1.5, parameter.numel()).view(parameter.shape))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        lambda conv: weight_norm(conv),
        lambda conv: weight_norm(conv, dim=1),
        lambda conv: spectral_norm(conv).eval(),
        lambda conv: prune.l1_unstructured(conv, "weight", 0.3),
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        lambda conv: parametrizations.spectral_norm(conv).eval(),
    ],
    ids=["hook", "hook dim", "spectral hook", "prune", "parametrised", "orthogonal", "spectral"],
)
def test_computed_weights_are_those_of_the_next_forward_pass(wrap):
    """The attribute of hook-based normalisation is stale until then."""
    conv = wrap(nn.Conv2d(4, 6, 3, bias=False))
    assert_banks(conv)
    halve(conv)
    with torch.no_grad():
        before = filter_banks(conv)[0].clone()
    torch.testing.assert_close(before, expected_banks(conv)[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradients_reach_the_parts_of_a_computed_weight():
    conv = weight_norm(nn.Conv2d(2, 4, 3))
    pairwise_psi(conv).sum().backward()
    assert conv.weight_g.grad.abs().sum() > 0
    assert conv.weight_v.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reading_a_spectral_norm_takes_no_power_iteration():
    conv = spectral_norm(nn.Conv2d(4, 6, 3))
    before = conv.weight_u.clone()
    filter_banks(conv)
    assert torch.equal(conv.weight_u, before)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [nn.LazyConv2d(4, 3), nn.LazyConvTranspose1d(4, 3), nn.LazyLinear(4)], ids=repr)
def test_a_lazy_module_says_what_to_do(lazy):
    with pytest.raises(ValueError, match=f"{type(lazy).__name__} is lazy and not initialised: run a batch"):
        filter_banks(lazy)


def test_a_lazy_module_works_after_a_batch():
    lazy = nn.LazyConv2d(4, 3)
    lazy(torch.randn(1, 5, 8, 8))
    assert filter_banks(lazy)[0].shape == (4, 5, 3, 3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (nn.BatchNorm2d(3), "a BatchNorm2d has no filters"),
        (nn.Sequential(nn.Conv2d(1, 2, 3)), "a Sequential has no filters"),
        ([1.0, 2.0], "weight must be a tensor, an array or a module, got list"),
        (None, "got NoneType"),
    ],
)
def test_what_has_no_filters(source, message):
    with pytest.raises(TypeError, match=message):
        filter_banks(source)


# ---- pointwise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "single"),
    [((4, 3), True), ((4, 3, 1), True), ((4, 3, 1, 1), True), ((4, 3, 2), False), ((4, 3, 1, 3), False)],
)
def test_pointwise_is_one_position(shape, single):
    assert is_pointwise(torch.randn(shape)) == single


@pytest.mark.parametrize("shape", [(4, 9), (4, 9, 1, 1)])
def test_a_filter_as_one_slice(shape):
    weight = torch.randn(shape)
    vectors = as_vectors(weight)
    assert vectors.shape == (4, 1, 9)
    torch.testing.assert_close(pairwise_psi(vectors), pairwise_psi(weight.view(4, 1, 3, 3)))


def test_empty_banks():
    assert [bank.shape[0] for bank in grouped_banks(torch.empty(0, 2, 3), 2)] == [0, 0]


def test_parts_are_the_filters_in_their_order(monkeypatch):
    monkeypatch.setattr(filters, "_PART", 40)
    for bank in (torch.randn(5, 2, 9), torch.randn(2, 5, 9).transpose(0, 1), torch.randn(5, 100), torch.randn(0, 2, 9)):
        parts = parts_of(bank)
        assert torch.equal(torch.cat(list(parts)), bank)
        assert {len(part) for part in parts[:-1]} <= {max(40 // bank[:1].numel(), 1) if len(bank) else 0}
        assert all(part.untyped_storage().data_ptr() == bank.untyped_storage().data_ptr() for part in parts)


def test_filters_that_are_not_finite_are_found_in_any_part(monkeypatch):
    monkeypatch.setattr(filters, "_PART", 40)
    bank = torch.randn(5, 2, 3, 3).half()
    bank[1, 1, 2, 2], bank[4, 0, 0, 0] = torch.nan, -torch.inf
    assert are_finite(bank).tolist() == [True, False, True, True, False]
    assert are_finite(bank.transpose(0, 1)).tolist() == [False, False]
    assert are_finite(bank[:0]).tolist() == []


def test_impulse_responses_of_this_test_are_right():
    """The definition used above, on a case written out: a correlation with one kernel."""
    conv = nn.Conv1d(1, 1, 3, bias=False)
    signal = torch.randn(1, 1, 9)
    direct = F.conv1d(signal, impulse_responses(conv))
    torch.testing.assert_close(conv(signal), direct)
