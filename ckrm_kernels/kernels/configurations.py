"""The tile shapes and launch options of the kernels: one fixed table, no tuning in a user's call.

Each row says where it is from. Rows marked "measured" were the fastest of several on an H200; those marked "predicted"
were chosen by counting machine instructions (benchmarks/machine_code.py), and no GPU has confirmed them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from ckrm_kernels.kernels.plan import Tile

# Of every launch. Said outright, because Triton's default is about to change.
LAUNCH = {"enable_fp_fusion": True}
# Of the gradient and listed kernels: ptxas would rather spill than leave a register count that fits one more program.
ALL_REGISTERS = {"maxnreg": 255}


@dataclass(frozen=True)
class Configuration:
    """How the tile kernel and the tile gradient kernel are launched.

    tile: filters that a program of the tile kernel compares; warps, stages: Triton's num_warps and num_stages
    gradient_...: the same of the tile gradient kernel
    resident: programs that a multiprocessor holds at a time, by registers
    source: where the choice is from
    """

    tile: Tile
    warps: int
    stages: int
    resident: int
    gradient_tile: Tile
    gradient_warps: int
    gradient_stages: int
    source: str

    @property
    def options(self) -> dict[str, int]:
        """Launch options of the tile kernel."""
        return {"num_warps": self.warps, "num_stages": self.stages}

    @property
    def gradient_options(self) -> dict[str, int]:
        """Launch options of the tile gradient kernel."""
        return {"num_warps": self.gradient_warps, "num_stages": 1, **ALL_REGISTERS}


# By what the tile kernel does with the coordinates of a slice. Other generations than Hopper take more registers.
TABLE = {
    "none": Configuration(Tile(32, 128), 4, 3, 7, Tile(32, 64), 4, 1, "measured"),  # K = 1
    "tensor cores": Configuration(Tile(64, 64), 4, 3, 2, Tile(64, 16), 4, 1, "predicted"),
    "tensor cores, Hopper": Configuration(Tile(64, 64), 4, 3, 3, Tile(64, 32), 4, 1, "measured"),
    "float64": Configuration(Tile(32, 32), 8, 1, 1, Tile(16, 16), 4, 1, "predicted"),
}


def slices_at_once(positions: int) -> int:
    """Slices that a program of prepare or of finish gradient holds, by the power of two that holds their positions."""
    return max(1, 1024 // positions)


def filters_at_once(slices: int) -> int:
    """The filters that they are of: as many neighbours as a row of moments makes whole transactions of memory."""
    return min(slices, 32)


@functools.cache
def configuration(steps: int, double: bool, device: torch.device) -> Configuration:
    """The configuration for banks of at most so many groups of 8 coordinates, on a device."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
    return TABLE[row_of(steps, double, hopper)]


def row_of(steps: int, double: bool, hopper: bool) -> str:
    """The row of TABLE; hopper: whether for a GPU of that generation."""
    if double:
        return "float64"
    if steps == 0:
        return "none"
    return "tensor cores, Hopper" if hopper else "tensor cores"
