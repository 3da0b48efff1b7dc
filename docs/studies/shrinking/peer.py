"""torch-pruning end to end, run by the study in an environment with torch and torch-pruning.

`python peer.py NETWORK PARAMETERS OUTPUT`: the file of a whole network, pruned in each of `WAYS` until it has at most
so many parameters; a dict of networks by way.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
import torch_pruning
from torch import nn

WAYS: dict[str, dict[str, Any]] = {
    "uniform": {"global_pruning": False},
    "global": {"global_pruning": True},
    "isomorphic": {"global_pruning": True, "isomorphic": True, "max_pruning_ratio": 0.9},
}
STEPS = 400  # of equal size, from nothing pruned to everything


def pruned(network: nn.Module, parameters: int, way: dict[str, Any]) -> nn.Module:
    """By the L2 norm of groups, step by step, as torch-pruning's own examples do; in place."""
    pruner = torch_pruning.pruner.BasePruner(
        network.eval(),
        (torch.randn(2, 1, 28, 28),),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        iterative_steps=STEPS,
        pruning_ratio=1.0,
        ignored_layers=[network.classifier],
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
        **way,
    )
    for _ in range(STEPS):
        if sum(each.numel() for each in network.parameters()) <= parameters:
            return network
        pruner.step()
    raise SystemExit(f"torch-pruning does not get down to {parameters} parameters")


if __name__ == "__main__":
    given, wanted, made = sys.argv[1:]
    full = torch.load(given, weights_only=False)
    torch.save({name: pruned(copy.deepcopy(full), int(wanted), way) for name, way in WAYS.items()}, made)
