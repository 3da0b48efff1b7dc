"""Layers as matrix products: columns times matrix is what the layer computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ckrm_kernels.shrinking import unfolding

LAYERS = {
    "1-d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "2-d": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (2, 4, 7, 8)),
    "3-d": (nn.Conv3d(2, 3, (2, 3, 1), padding=1), (2, 2, 3, 4, 5)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), (2, 4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 6)),
    "same": (nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)), (2, 3, 7, 6)),
    "valid": (nn.Conv2d(3, 4, 3, padding="valid"), (2, 3, 7, 6)),
    "circular": (nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="circular"), (2, 3, 7, 6)),
    "reflect": (nn.Conv1d(3, 4, 4, padding=2, padding_mode="reflect"), (2, 3, 7)),
    "replicate": (nn.Conv3d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 2, 3, 4, 3)),
    "without a batch": (nn.Conv2d(3, 4, 3), (3, 5, 6)),
    "transposed": (
        nn.ConvTranspose2d(4, 6, (3, 4), stride=(2, 3), padding=(1, 0), output_padding=(1, 2)),
        (2, 4, 5, 4),
    ),
    "transposed, grouped": (nn.ConvTranspose1d(4, 6, 3, stride=2, dilation=3, groups=2, bias=False), (2, 4, 5)),
    "transposed, cropped": (nn.ConvTranspose3d(2, 3, 2, stride=2, padding=2), (2, 2, 3, 4, 3)),
    "linear": (nn.Linear(5, 3), (4, 5)),
    "linear over tokens": (nn.Linear(5, 3, bias=False), (2, 4, 3, 5)),
}


def product(module: unfolding.Unfoldable, input: Tensor, positions: Tensor, **given: object) -> Tensor:
    found = unfolding.columns(module, input, positions, **given)
    result = torch.einsum("pgk,gfk->pgf", found, unfolding.matrix(module, module.weight)).flatten(1)
    return result if module.bias is None else result + module.bias


@pytest.mark.parametrize("name", LAYERS)
def test_the_product_is_what_the_layer_computes(name: str) -> None:
    module, shape = LAYERS[name]
    module = module.double()
    input = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output = module(input)
    channels = output.ndim - 1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)
    channels_last = output.movedim(channels, -1).flatten(end_dim=-2)
    count = unfolding.row_count(module, output)
    assert count == len(channels_last)
    positions = torch.randperm(count, generator=torch.Generator().manual_seed(2))[: count // 2 + 1]
    torch.testing.assert_close(unfolding.rows(module, output, positions), channels_last[positions])
    torch.testing.assert_close(product(module, input, positions), channels_last[positions])


@pytest.mark.parametrize("name", LAYERS)
def test_a_weight_comes_back_from_its_matrix(name: str) -> None:
    module, _ = LAYERS[name]
    assert torch.equal(unfolding.weight_of(module, unfolding.matrix(module, module.weight)), module.weight)


def test_a_transposed_convolution_called_with_a_size() -> None:
    module = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1).double()
    input = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    output = module(input, output_size=(8, 9))
    positions = torch.arange(unfolding.row_count(module, output))
    found = product(module, input, positions, output_size=output.shape[2:])
    torch.testing.assert_close(found, unfolding.rows(module, output, positions))


def test_positions_are_drawn_once_each_and_the_same_every_time() -> None:
    assert unfolding.sampled(5, 5, seed=0).tolist() == [0, 1, 2, 3, 4]
    drawn = unfolding.sampled(1000, 100, seed=3)
    assert len(set(drawn.tolist())) == 100
    assert drawn.tolist() == sorted(drawn.tolist())
    assert torch.equal(drawn, unfolding.sampled(1000, 100, seed=3))
    assert not torch.equal(drawn, unfolding.sampled(1000, 100, seed=4))
