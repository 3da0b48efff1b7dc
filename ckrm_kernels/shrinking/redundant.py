"""Which filters are redundant beyond doubt: what leaves where no budget is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ckrm_kernels.report import LayerRedundancy
from ckrm_kernels.shrinking.couplings import Coupling, Graph


def repeats_beyond_doubt(
    graph: Graph,
    coupling: Coupling,
    order: Sequence[int],
    similar: Tensor,
    rows: Mapping[str, LayerRedundancy],
    threshold: float,
) -> list[int]:
    """The filters of a coupling that repeat one that stays, in the order in which they leave.

    order: all filters of the coupling, the first to leave first; similar: their signed Psi, (width, width)
    rows: of the layers measured by signed, scale-free Psi, by name
    None leaves unless every layer that produces them has more redundancy than chance allows (`LayerRedundancy.finding`).
    """
    measured = [rows.get(layer.name) for layer in graph.producers(coupling)]
    if not all(row is not None and row.finding == "repeats" for row in measured):
        return []
    staying = [True] * coupling.width
    leaving = []
    for filter in order:
        staying[filter] = False
        others = [other for other, stays in enumerate(staying) if stays]
        if others and float(similar[filter, others].max()) > threshold:
            leaving.append(filter)
        else:
            staying[filter] = True
    return leaving
