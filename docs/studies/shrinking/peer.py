"""torch-pruning end to end, run by the study in an environment with torch and torch-pruning.

`python peer.py NETWORK PARAMETERS OUTPUT`: the file of a whole network, pruned until it has at most so many parameters.
"""

from __future__ import annotations

import sys

import torch
import torch_pruning
from torch import nn

STEPS = 400  # of equal size, from nothing pruned to everything


def pruned(network: nn.Module, parameters: int) -> nn.Module:
    """By the L2 norm of groups, ranked across layers, as torch-pruning's own examples do; in place."""
    pruner = torch_pruning.pruner.BasePruner(
        network.eval(),
        (torch.randn(2, 1, 28, 28),),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        iterative_steps=STEPS,
        pruning_ratio=1.0,
        ignored_layers=[network.classifier],
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    for _ in range(STEPS):
        if sum(each.numel() for each in network.parameters()) <= parameters:
            return network
        pruner.step()
    raise SystemExit(f"torch-pruning does not get below {parameters} parameters")


if __name__ == "__main__":
    given, wanted, made = sys.argv[1:]
    torch.save(pruned(torch.load(given, weights_only=False), int(wanted)), made)
