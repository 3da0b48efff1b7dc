"""What a network costs: its parameters and its multiply-adds."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ckrm_kernels.models.network import Network, whole_pass


def without_memory(network: Network) -> nn.Module:
    """The network on the meta device: its modules and the shapes of its parameters."""
    with torch.device("meta"):
        return network.build()


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters, one shared by several modules counted once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_multiply_adds(model: nn.Module, image_shape: Sequence[int]) -> int:
    """Multiply-adds of the convolutions and linear layers for all predictions of one image; nothing is computed.

    image_shape: (channels, height, width)
    """
    on_meta = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(torch.empty(1, *image_shape, device="meta"), **whole_pass(on_meta))
    return counter.get_total_flops() // 2
