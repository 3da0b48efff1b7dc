"""The paper's Table 1: what noise and a shift do to psi of two slices: `python docs/studies/similarity_table.py`.

Writes similarity_table.png beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ckrm_kernels import cross_psi
from ckrm_kernels.presentation.drawing import TYPE, new_figure, png_file
from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.similarity import ALPHA
from ckrm_kernels.storage.files import write_atomically

NOISE = tuple(level / 10 - 0.05 for level in range(1, 6))
SHIFT = 0.5
SIDE, SEED = 7, 0
DARKEST, LIGHTEST = -0.25, 1.75


@dataclass(frozen=True)
class Patch:
    """A patch (7, 7), how it came from the reference patch, and psi of both with alpha = 1 and with alpha = 0.1."""

    values: Tensor
    noise: float
    shift: float
    psi: float
    psi_damped: float


def main() -> None:
    """Writes the picture."""
    write_atomically(Path(__file__).with_suffix(".png"), png_file(drawn(patches())))


def reference_patch() -> Tensor:
    """A soft oblique edge, (7, 7) float64 in [0, 1]."""
    row, column = torch.meshgrid(*[torch.arange(SIDE, dtype=torch.float64) - SIDE // 2] * 2, indexing="ij")
    return (0.9 * column + 0.5 * row).sigmoid()


def patches() -> list[list[Patch]]:
    """Two rows of six: the reference patch and five levels of noise N(0, s^2), s in `NOISE`; below, all shifted."""
    reference, generator = reference_patch(), torch.Generator().manual_seed(SEED)
    draws = [torch.randn(SIDE, SIDE, generator=generator, dtype=torch.float64) for _ in NOISE]
    noisy = [reference, *(reference + level * draw for level, draw in zip(NOISE, draws, strict=True))]
    return [compared(reference, noisy, shift) for shift in (0.0, SHIFT)]


def compared(reference: Tensor, noisy: list[Tensor], shift: float) -> list[Patch]:
    """The noisy patches, shifted, and psi of the reference patch with each."""
    shifted = [patch + shift for patch in noisy]
    slices = torch.stack(shifted)[:, None]
    psi, damped = (cross_psi(reference[None, None], slices, alpha=alpha)[0].tolist() for alpha in (1.0, ALPHA))
    columns = zip(shifted, (0.0, *NOISE), psi, damped, strict=True)
    return [Patch(values, noise, shift, *both) for values, noise, *both in columns]


def drawn(rows: list[list[Patch]]) -> Figure:
    """The patches, each with its two psi below."""
    figure = new_figure(1.7 * len(rows), 1.2 * len(rows[0]), layout="constrained")
    for line, row in zip(figure.subplots(len(rows), len(rows[0])), rows, strict=True):
        for axes, patch in zip(line, row, strict=True):
            axes.imshow(patch.values.numpy(), cmap="gray", vmin=DARKEST, vmax=LIGHTEST)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color(LIGHT["line"])
            axes.set_xlabel(f"{patch.psi:.3f}\n{patch.psi_damped:.3f}", fontsize=TYPE, color=LIGHT["text"])
            if not patch.shift:
                axes.set_title(f"noise {patch.noise:.2f}", fontsize=TYPE, color=LIGHT["soft"])
        name = f"shifted by {row[0].shift:g}" if row[0].shift else "patch"
        line[0].set_ylabel(name, fontsize=TYPE, color=LIGHT["text"])
    caption = r"$\psi$ of the first patch with every other, alpha = 1 above alpha = 0.1"
    figure.suptitle(caption, fontsize=TYPE, color=LIGHT["soft"])
    return figure


if __name__ == "__main__":
    main()
