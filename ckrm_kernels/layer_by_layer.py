"""Checkpoints measured a layer at a time, in the memory of the largest one, by one process or by several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ckrm_kernels.checkpoints import Checkpoint
from ckrm_kernels.choices import Pointwise
from ckrm_kernels.distributed import ALONE, Team, team
from ckrm_kernels.layer_plans import SHARED_COST, plans_of
from ckrm_kernels.layers import Layer
from ckrm_kernels.measurement import check_layers, measure_layers
from ckrm_kernels.report import LayerRedundancy, RedundancyReport
from ckrm_kernels.similarity import Similarity

_READING = 10.0  # of a number, as the time of one position of a term


def measure_checkpoints(
    checkpoints: Sequence[Checkpoint],
    threshold: float,
    pointwise: Pointwise,
    similarity: Similarity,
    *,
    track: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    patterns: bool = False,
) -> RedundancyReport:
    """`measure` on checkpoints of one structure, of which no more than a layer is read at a time.

    Processes that have joined share out the layers, by what they cost, and work together on one that is much of the
    work; each of them gets the whole report, the same as of one process.
    track: wraps the iteration over the layers of this process, to show progress
    Raises CheckpointError, and ValueError as `measure` does, before anything is measured.
    """
    sources = [source for each in checkpoints for source in each.sources]
    places = _places(checkpoints)
    outlines = [tuple(each.outlines[at] for each, at in zip(checkpoints, same, strict=True)) for same in places]
    plans = plans_of(outlines, pointwise, similarity.scale_free, ALONE)
    costs = [plan.cost(True, patterns) + _READING * plan.numbers for plan in plans]

    def read(piece: int) -> list[list[Layer]]:
        first = checkpoints[0].outlines[places[piece][0]]
        stored = [each.stored[place] for each, place in zip(checkpoints, places[piece], strict=True)]
        layers = [each.read() for each in stored] if costs[piece] else [first] * len(stored)
        return [[replace(layer, name=first.name, shared_with=None)] for layer in layers]

    def check(piece: int) -> None:
        check_layers(read(piece), pointwise, sources)

    def row(piece: int, by: Team = ALONE) -> LayerRedundancy:
        layers = read(piece)
        report = measure_layers(layers, threshold, pointwise, similarity, sources=sources, patterns=patterns, team=by)
        return report.layers[0]

    processes = team()
    asked = [f"threshold {threshold}", f"pointwise {pointwise}", repr(similarity), f"patterns {patterns}"]
    asked += [f"{layer.name} {layer.shape}" for each in checkpoints for layer in each.outlines]
    processes.check_agreement(lambda: asked)
    processes.shared(costs, check)
    together = _for_all([plan.cost_of_pairs for plan in plans], processes.size)
    alone = [piece for piece in range(len(costs)) if piece not in together]
    found = processes.shared([costs[piece] for piece in alone], lambda at: row(alone[at]), track)
    rows = dict(zip(alone, found, strict=True))
    for piece in track(together) if together else ():
        rows[piece] = row(piece, processes)
    notes = list(dict.fromkeys(note for each in checkpoints for note in each.notes))
    empty = measure_layers([[] for _ in checkpoints], threshold, pointwise, similarity, sources=sources, notes=notes)
    return replace(empty, layers=tuple(rows[piece] for piece in range(len(costs))))


def _for_all(costs: Sequence[float], processes: int) -> list[int]:
    """The layers on which all processes work together, since one that measured it alone would be the last to end."""
    limit = max(sum(costs) / (4 * processes), SHARED_COST)
    return [piece for piece, cost in enumerate(costs) if processes > 1 and cost > limit]


def _places(checkpoints: Sequence[Checkpoint]) -> list[list[int]]:
    """Of each layer of the first checkpoint, where it stands in each; of a shared weight, where its owner stands."""
    named = [{layer.name: place for place, layer in enumerate(each.outlines)} for each in checkpoints]
    found = []
    for first in checkpoints[0].outlines:
        same = [at[first.name] for at in named]
        if first.shared_with is None:
            owners = [each.outlines[place].shared_with for each, place in zip(checkpoints, same, strict=True)]
            same = [at[owner or first.name] for at, owner in zip(named, owners, strict=True)]
        found.append(same)
    return found
