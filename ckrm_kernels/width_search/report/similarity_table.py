"""The paper's Table 1, computed: what noise and a shift do to psi of two slices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ckrm_kernels.functional import ALPHA, cross_psi
from ckrm_kernels.presentation.markup import Markup, captioned, element, image
from ckrm_kernels.presentation.pixels import GREY_STOPS, picture

NOISE = tuple(level / 10 - 0.05 for level in range(1, 6))
SHIFT = 0.5
_SIDE, _SEED = 7, 0
_DARKEST, _LIGHTEST = -0.25, 1.75
_CAPTION = "The paper’s Table 1, computed: ψ of the first patch with every other"


@dataclass(frozen=True)
class Patch:
    """A patch (7, 7), how it came from the reference patch, and psi of both with alpha = 1 and with alpha = 0.1."""

    values: Tensor
    noise: float
    shift: float
    psi: float
    psi_damped: float


def reference_patch() -> Tensor:
    """A soft oblique edge, (7, 7) float64 in [0, 1]."""
    row, column = torch.meshgrid(*[torch.arange(_SIDE, dtype=torch.float64) - _SIDE // 2] * 2, indexing="ij")
    return (0.9 * column + 0.5 * row).sigmoid()


def patches() -> list[list[Patch]]:
    """Two rows of six: the reference patch and five levels of noise N(0, s^2), s in `NOISE`; below, all shifted."""
    reference, generator = reference_patch(), torch.Generator().manual_seed(_SEED)
    draws = [torch.randn(_SIDE, _SIDE, generator=generator, dtype=torch.float64) for _ in NOISE]
    noisy = [reference, *(reference + level * draw for level, draw in zip(NOISE, draws, strict=True))]
    return [_row(reference, noisy, shift) for shift in (0.0, SHIFT)]


def similarity_table() -> Markup:
    """The patches as a table, each column's two psi below its picture."""
    head = element("tr", *(element("th", cell, scope="col") for cell in ("σ", "0", *(f"{s:.2f}" for s in NOISE))))
    bodies = [element("tbody", *_lines(row)) for row in patches()]
    return captioned(_CAPTION, element("table", element("thead", head), *bodies), "scroll patches")


def _row(reference: Tensor, noisy: list[Tensor], shift: float) -> list[Patch]:
    shifted = [patch + shift for patch in noisy]
    slices = torch.stack(shifted)[:, None]
    psi, damped = (cross_psi(reference[None, None], slices, alpha=alpha)[0].tolist() for alpha in (1.0, ALPHA))
    columns = zip(shifted, (0.0, *NOISE), psi, damped, strict=True)
    return [Patch(values, noise, shift, *both) for values, noise, *both in columns]


def _lines(row: list[Patch]) -> list[Markup]:
    shift = row[0].shift
    lines: list[tuple[str, list[str]]] = [
        (f"patch + {shift:g}" if shift else "patch", [_picture(patch) for patch in row]),
        (_psi("1,1,1"), [f"{patch.psi:.3f}" for patch in row]),
        (_psi("0.1,1,1"), [f"{patch.psi_damped:.3f}" for patch in row]),
    ]
    return [
        element("tr", element("th", name, scope="row"), *(element("td", cell) for cell in cells))
        for name, cells in lines
    ]


def _picture(patch: Patch) -> Markup:
    noise = f" with noise of deviation {patch.noise:.2f}" if patch.noise else ""
    shift = f", {patch.shift:g} added" if patch.shift else ""
    scaled = (patch.values - _DARKEST) / (_LIGHTEST - _DARKEST)
    return image(picture(scaled.numpy(), GREY_STOPS, scale=8), f"the patch{noise}{shift}", "patch")


def _psi(exponents: str) -> Markup:
    return Markup(f"<i>ψ</i><sub>{exponents}</sub>")
