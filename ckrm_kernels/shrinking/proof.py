"""The proof that a network without some filters is the one whose layers ignore them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from ckrm_kernels.shrinking.bench import Bench, bench, check_shapes, in_words, random_state_kept, run
from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.inputs import as_inputs
from ckrm_kernels.shrinking.surgery import Removed, permuted, silenced, without

STATISTICS = "statistics change: a norm takes them over the filters"
NO_EFFECT = "its filters have no effect on the output"

_SEEN = 100  # times the tolerance: an effect on the output in which an error would show


@dataclass(frozen=True)
class Proof:
    """What was found of a coupling, or of all that leaves a network.

    deviation: the largest difference of an output, relative to the largest value of that output in the whole network;
        None where nothing could be compared
    exact: whether the network without filters is the one whose layers ignore them. Not so where statistics are taken
        over the filters: then the deviation is that of the network with its filters permuted, which shows that none is
        out of place, and the shapes of the outputs without some of them are proved
    reason: why it does not hold; else what is to be known of it, if anything
    holds: whether the filters may leave
    """

    deviation: float | None
    exact: bool
    reason: str = ""
    holds: bool = True


def prove(model: nn.Module, graph: Graph, example_inputs: Any, *, seed: int = 0) -> dict[str, Proof]:
    """For each coupling whether the network without its filters is the one whose layers ignore them.

    Compared are private copies in float64 and evaluation mode, on the example and on inputs of its shape with the
    example's values permuted. Half of the filters, drawn by chance, leave for the first, the others for the second,
    which must give what the whole network gives while the weights that read them are zero (`silenced`), to 1e-9 of the
    output's scale. And the network with its filters permuted must give what it gives. Where filters have no effect on
    the output, weights near the model's are drawn at which they have.

    seed: of all that is drawn; the global random state stays as it is
    Raises ValueError for a model that does not run on the example, or whose outputs are random in evaluation mode,
    NaN, or no tensors.
    """
    with random_state_kept(model):
        generator = torch.Generator().manual_seed(seed)
        made = bench(model, as_inputs("example_inputs", example_inputs), generator)
        benches = _Benches(made, generator)
        return {coupling.name: _proof(benches, graph, coupling) for coupling in graph.couplings}


def prove_removal(model: nn.Module, graph: Graph, removed: Removed, example_inputs: Any, *, seed: int = 0) -> Proof:
    """Whether the network without all these filters is the one whose layers ignore them, as `prove` does for each.

    Filters that statistics are taken over are left out of the comparison; with them the outputs' shapes are proved.
    Errors are those of `prove`.
    """
    with random_state_kept(model):
        generator = torch.Generator().manual_seed(seed)
        made = bench(model, as_inputs("example_inputs", example_inputs), generator)
        exact = {name: gone for name, gone in removed.items() if not graph.coupling(name).statistics_change}
        try:
            found = _without_either(made, graph, [exact] * len(made.inputs))
            if len(exact) < len(removed):
                check_shapes(run(without(made.network, graph, removed, share=True), made.inputs[0]), made.outputs[0])
        except Exception as error:
            return Proof(None, False, in_words(error), holds=False)
        return _judged(made, found, STATISTICS if len(exact) < len(removed) else "")


class _Found(NamedTuple):
    """Differences of outputs, of their scale.

    deviation: of the network without filters from the whole one that ignores them
    effect: of the network that ignores filters from the network; moved: of the network with its filters permuted
    """

    deviation: float
    effect: float
    moved: float = 0.0


class _Benches:
    """A model's bench, and one with other weights, made when it is needed."""

    def __init__(self, own: Bench, generator: torch.Generator) -> None:
        self.own = own
        self.generator = generator
        self._other: Bench | None = None

    @property
    def other(self) -> Bench:
        if self._other is None:
            self._other = self.own.with_other_weights(self.generator)
        return self._other


def _proof(benches: _Benches, graph: Graph, coupling: Coupling) -> Proof:
    if coupling.width < 2:
        return Proof(None, False, "its only filter stays", holds=False)
    made = benches.own
    try:
        found = _found(made, graph, coupling, benches.generator)
        if found.effect <= _SEEN * made.tolerance:
            made = benches.other
            found = _found(made, graph, coupling, benches.generator)
    except Exception as error:
        return Proof(None, False, in_words(error), holds=False)
    return _judged(made, found, STATISTICS if coupling.statistics_change else "")


def _found(made: Bench, graph: Graph, coupling: Coupling, generator: torch.Generator) -> _Found:
    """Without either half of the filters, and with all in other places."""
    order = torch.randperm(coupling.width, generator=generator).tolist()
    halves = order[: coupling.width // 2], order[coupling.width // 2 :]
    found = _without_either(made, graph, [{coupling.name: half} for half in halves], shapes=coupling.statistics_change)
    moved = permuted(made.network, coupling, _cycle(coupling, generator), share=True)
    return found._replace(moved=made.apart(run(moved, made.inputs[0]), made.outputs[0], 0))


def _without_either(made: Bench, graph: Graph, removed: Sequence[Removed], shapes: bool = False) -> _Found:
    """Without the filters for each of the inputs; shapes: compares no values."""
    deviation = effect = 0.0
    for place, (inputs, original, gone) in enumerate(zip(made.inputs, made.outputs, removed, strict=True)):
        small = run(without(made.network, graph, gone, share=True), inputs)
        whole = run(silenced(made.network, graph, gone, share=True), inputs)
        check_shapes(small, original)
        deviation = max(deviation, 0.0 if shapes else made.apart(small, whole, place))
        effect = max(effect, made.apart(whole, original, place))
    return _Found(deviation, effect)


def _cycle(coupling: Coupling, generator: torch.Generator) -> list[int]:
    """For each filter another one to take the place of; all of one size in one cycle, which no error commutes with."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for filter in torch.randperm(coupling.width, generator=generator).tolist():
        alike.setdefault(tuple(len(entry.positions[filter]) for entry in coupling.entries), []).append(filter)
    sources = list(range(coupling.width))
    for filters in alike.values():
        for filter, source in zip(filters, [*filters[1:], filters[0]], strict=True):
            sources[filter] = source
    return sources


def _judged(made: Bench, found: _Found, statistics: str) -> Proof:
    deviation = max(found.deviation, found.moved)
    seen = found.effect > _SEEN * made.tolerance
    notes = (statistics, made.note, "" if seen else NO_EFFECT)
    if not deviation <= made.tolerance:
        unlike = "when its filters change places" if found.moved == deviation else "from when nothing reads its filters"
        return Proof(deviation, not statistics, f"the output differs by {deviation:.1g} of its scale {unlike}", False)
    return Proof(deviation, not statistics, "; ".join(note for note in notes if note))
