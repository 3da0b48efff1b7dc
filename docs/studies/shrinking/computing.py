"""How a cell is computed."""

from __future__ import annotations

import copy
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networks
import torch
from cells import (
    ERROR,
    FULL,
    NOTHING,
    PEER,
    SCRATCH,
    SCRATCH_MULTIPLY_ADDS,
    SCRATCH_PARAMETERS,
    Cell,
    Result,
)
from fashion import calibration
from filelock import FileLock
from shrunk import reestimated, shrunk, with_batch_norm
from torch import nn

from ckrm_kernels.data import Dataset
from ckrm_kernels.models.counts import count_multiply_adds, count_parameters
from ckrm_kernels.training import TrainingConfig, train
from ckrm_kernels.training.evaluation import loss_and_accuracy

TRAINING = TrainingConfig(epochs=5, batch_size=128, learning_rate=0.15, weight_decay=5e-4, channels_last=True)
TUNING_RATES = (0.01, 0.05)  # the better on the validation images counts
_SCRATCH_SEED = 1000  # what is trained from scratch does not start from the weights of the full network


@dataclass(frozen=True)
class Made:
    """networks: by compensation; seconds: that making them took of one core; details: what was chosen on the way"""

    networks: dict[str, nn.Module]
    seconds: float
    details: dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What cells are computed with.

    folder: where networks are kept, a folder a cell
    peer_python: the interpreter of an environment with torch and torch-pruning; None where there is none
    """

    data: Dataset
    folder: Path
    peer_python: Path | None = None
    training: TrainingConfig = TRAINING

    def compute(self, cell: Cell) -> Result:
        """The accuracies of the cell's networks."""
        made = self.made(cell)
        smallest = next(iter(made.networks.values()))
        return Result(
            cell,
            count_parameters(smallest),
            self._multiply_adds(smallest),
            {name: loss_and_accuracy(network, self.data.held_out)[1] for name, network in made.networks.items()},
            round(made.seconds, 2),
            made.details,
        )

    def made(self, cell: Cell) -> Made:
        """The cell's networks; from its folder where they are kept, else one process makes them and others wait."""
        path = self.folder / cell.folder / "networks.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                unfinished = path.with_suffix(".unfinished")
                torch.save(vars(self._make(cell)), unfinished)
                unfinished.replace(path)
        return Made(**torch.load(path, weights_only=False))  # this study's own file

    def _make(self, cell: Cell) -> Made:
        start = _seconds()
        if cell.epochs:
            network, details = self._tuned(cell)
            return Made({cell.tuned: network}, _seconds() - start, details)
        if cell.method == PEER:
            network, details = self._pruned_by_peer(cell)
            found = with_batch_norm({NOTHING: network}, calibration(self.data, cell.seed))
            return Made(found, _seconds() - start, details)
        return Made(self._untuned(cell), _seconds() - start, {})

    def _untuned(self, cell: Cell) -> dict[str, nn.Module]:
        if cell.method == FULL:
            torch.manual_seed(cell.seed)
            return {NOTHING: self._trained(networks.ARCHITECTURES[cell.architecture](), cell.seed)}
        if cell.method in (SCRATCH, SCRATCH_PARAMETERS, SCRATCH_MULTIPLY_ADDS):
            return {NOTHING: self._trained(self._untrained(cell), _SCRATCH_SEED + cell.seed)}
        full = self._full(cell)
        return shrunk(full, cell.method, cell.share, calibration(self.data, cell.seed), cell.seed)

    def _untrained(self, cell: Cell) -> nn.Module:
        """A small network with new weights."""
        if cell.method == SCRATCH_PARAMETERS:
            wanted = round(cell.share * count_parameters(networks.ARCHITECTURES[cell.architecture]()))
            torch.manual_seed(_SCRATCH_SEED + cell.seed)
            return networks.uniform(cell.architecture, wanted, count_parameters)
        found = self.made(replace(cell, method=ERROR)).networks[NOTHING]
        torch.manual_seed(_SCRATCH_SEED + cell.seed)
        if cell.method == SCRATCH:
            return renewed(found)
        return networks.uniform(cell.architecture, self._multiply_adds(found), self._multiply_adds)

    def _trained(self, network: nn.Module, seed: int, **changes: Any) -> nn.Module:
        train(network, self.data, replace(self.training, **changes), seed)
        return network

    def _tuned(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        """Trained further, at the learning rate that does better on the validation images."""
        start = self.made(cell.untuned).networks[cell.tuned]
        tuned = {
            rate: self._trained(copy.deepcopy(start), cell.seed, epochs=cell.epochs, learning_rate=rate)
            for rate in TUNING_RATES
        }
        scores = {rate: self._validated(network) for rate, network in tuned.items()}
        best = max(scores, key=lambda rate: scores[rate])
        return tuned[best], {"learning_rate": best, "validation": {str(rate): scores[rate] for rate in scores}}

    def _pruned_by_peer(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        """In the way that does best on the validation images, batch norms re-estimated."""
        if self.peer_python is None:
            raise ValueError("torch-pruning needs --peer-python")
        given, made = (self.folder / cell.folder / name for name in ("full.pt", "pruned.pt"))
        full, images = self._full(cell), calibration(self.data, cell.seed)
        torch.save(full, given)
        wanted = round(cell.share * count_parameters(full))
        subprocess.run([self.peer_python, Path(__file__).with_name("peer.py"), given, str(wanted), made], check=True)
        ways = {name: network.eval() for name, network in torch.load(made, weights_only=False).items()}
        scores = {name: self._validated(reestimated(network, images)) for name, network in ways.items()}
        best = max(scores, key=lambda name: scores[name])
        return ways[best], {"way": best, "validation": scores}

    def _validated(self, network: nn.Module) -> float:
        return loss_and_accuracy(network, self.data.validation)[1]

    def _full(self, cell: Cell) -> nn.Module:
        return self.made(Cell(cell.architecture, cell.seed, FULL)).networks[NOTHING]

    def _multiply_adds(self, network: nn.Module) -> int:
        return count_multiply_adds(network, self.data.image_shape)


def renewed(network: nn.Module) -> nn.Module:
    """A copy of the same widths with new weights, as torch initialises its layers."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network


def _seconds() -> float:
    """Of all cores, by this process and those that it has run."""
    return sum(os.times()[:4])
