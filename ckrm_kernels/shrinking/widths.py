"""How many filters each coupling keeps: drops across all of them, the cheapest first, down to a budget."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from heapq import heapify, heappop, heapreplace
from numbers import Integral, Real
from typing import Literal

from torch import nn

from ckrm_kernels.shrinking.counting import Counter, Size, size_of
from ckrm_kernels.shrinking.couplings import Coupling, Graph, Layer
from ckrm_kernels.shrinking.elimination import Curve
from ckrm_kernels.shrinking.moments import tensor_of
from ckrm_kernels.whole_numbers import whole_number

Unit = Literal["parameters", "multiply_adds"]
Minimum = int | float | Mapping[str, int | float]


@dataclass(frozen=True)
class Drop:
    """Filters of one coupling that leave at once.

    filters: of the coupling
    error: the coupling's relative error after it
    size: the network's after it and all drops before
    """

    coupling: str
    filters: tuple[int, ...]
    error: float
    size: Size


def removals(
    model: nn.Module,
    graph: Graph,
    curves: Mapping[str, Curve],
    *,
    parameters: float | None = None,
    macs: float | None = None,
    tolerance: float | None = None,
    uniform: bool = False,
    round_to: int = 1,
    minimum: Minimum = 1,
) -> dict[str, tuple[int, ...]]:
    """The filters of each coupling that leave, in their curve's order, so that the network meets a budget.

    curves: by coupling; those without keep all filters
    parameters, macs: at most one of them: what the network may have at most, as a share of the network's, in (0, 1],
        or as a number above 1. Of the drops in `drops`, the first that reach it
    tolerance: the most relative error that a coupling's curve may reach; without a budget each goes as far as that
    uniform: every coupling keeps the same share of its filters, the largest that meets the budget, instead
    round_to, minimum: see `drops`
    Raises ValueError for a budget that can't be met: it says what is the least.
    """
    unit, budget = _budget(model, graph, parameters, macs)
    if budget is None and tolerance is None:
        raise ValueError("one of parameters, macs and tolerance must say how far to go, got none")
    options = _Options(model, graph, curves, tolerance, round_to, minimum)
    least = {name: options.removed(name, stops[-1]) for name, stops in options.stops.items()}
    if budget is None:
        return least
    _check_reachable(model, graph, least, unit, budget)
    if uniform:
        return _uniform(model, graph, options, unit, budget)
    removed: dict[str, tuple[int, ...]] = dict.fromkeys(options.stops, ())
    counter = Counter(model, graph)
    if getattr(counter.size, unit) > budget:
        for drop in _drops(counter, options, unit):
            removed[drop.coupling] += drop.filters
            if getattr(drop.size, unit) <= budget:
                break
    return removed


def drops(
    model: nn.Module,
    graph: Graph,
    curves: Mapping[str, Curve],
    *,
    unit: Unit = "multiply_adds",
    tolerance: float | None = None,
    round_to: int = 1,
    minimum: Minimum = 1,
) -> Iterator[Drop]:
    """All drops that are allowed: at each step that with the least added relative error for each unit it saves then.

    unit: "parameters" or "multiply_adds"
    round_to: after a drop a layer's filters are a multiple of it; one from which nothing is dropped stays as it is
    minimum: of every layer's filters: a number >= 1, a share in (0, 1) of the layer's filters, or these by layer's name
    The first k of them, together, are what leaves for a budget that those before don't meet.
    """
    return _drops(Counter(model, graph), _Options(model, graph, curves, tolerance, round_to, minimum), unit)


def together(drops: Iterable[Drop]) -> dict[str, tuple[int, ...]]:
    """The filters that leave by these drops, by coupling."""
    removed: dict[str, tuple[int, ...]] = {}
    for drop in drops:
        removed[drop.coupling] = removed.get(drop.coupling, ()) + drop.filters
    return removed


def ignored(model: nn.Module, graph: Graph, ignore: Iterable[str | nn.Module]) -> set[str]:
    """The couplings with a filter of an ignored layer.

    ignore: names of layers or of modules that hold some, patterns of names as in "stages.*.conv1", or modules
    Raises ValueError for one that is no layer and holds none.
    """
    names = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}
    found: set[str] = set()
    for wanted in [ignore] if isinstance(ignore, (str, nn.Module)) else ignore:
        if isinstance(wanted, nn.Module) and id(wanted) not in names:
            raise ValueError(f"ignore holds a {type(wanted).__name__} that is no module of the model")
        name = names[id(wanted)] if isinstance(wanted, nn.Module) else wanted
        matching = [layer.name for layer in graph.layers if _matches(layer.name, name)]
        if not matching:
            raise ValueError(f"ignore holds {name!r}, which is no layer and holds none")
        found.update(matching)
    return {
        coupling.name for coupling in graph.couplings if any(layer.name in found for layer in graph.producers(coupling))
    }


def _matches(layer: str, wanted: str) -> bool:
    return not wanted or layer == wanted or layer.startswith(f"{wanted}.") or fnmatchcase(layer, wanted)


def _budget(model: nn.Module, graph: Graph, parameters: float | None, macs: float | None) -> tuple[Unit, int | None]:
    """What is counted, and how much of it the network may have; None where no budget is given."""
    if parameters is not None and macs is not None:
        raise ValueError("one budget is accepted, got both parameters and macs")
    name, value = ("parameters", parameters) if macs is None else ("macs", macs)
    unit: Unit = "parameters" if macs is None else "multiply_adds"
    if value is None:
        return unit, None
    if not _is_number(value) or value <= 0:
        raise ValueError(f"{name} must be a share in (0, 1] or a number above 1, got {value!r}")
    return unit, math.floor(value * getattr(size_of(model, graph), unit) if value <= 1 else value)


def _check_reachable(
    model: nn.Module, graph: Graph, least: Mapping[str, tuple[int, ...]], unit: Unit, budget: int
) -> None:
    reached, total = getattr(size_of(model, graph, least), unit), getattr(size_of(model, graph), unit)
    if reached > budget:
        raise ValueError(
            f"{'parameters' if unit == 'parameters' else 'macs'} allows {budget:,} of {total:,}; the least that can be "
            f"reached is {reached:,}, a share of {math.ceil(1e4 * reached / total) / 1e4}: the rest is in layers that "
            "can't shrink or are ignored, or is kept by minimum, round_to or tolerance"
        )


def _drops(counter: Counter, options: _Options, unit: Unit) -> Iterator[Drop]:
    """Drops and takes them from the counter.

    A drop saves the less the narrower the other layers are, so that its cost only rises while it waits: the cheapest
    by the costs known so far is the cheapest if its cost is still the same.
    """
    taken = dict.fromkeys(options.stops, 0)  # of each coupling's stops, the index where it is
    waiting = [(_cost(counter, options, unit, name, 0), place, name) for place, name in enumerate(taken)]
    heapify(waiting)
    while waiting:
        known, place, name = waiting[0]
        cost = _cost(counter, options, unit, name, taken[name])
        if cost == math.inf:
            heappop(waiting)
        elif cost > known:
            heapreplace(waiting, (cost, place, name))
        else:
            old, new = options.stops[name][taken[name] : taken[name] + 2]
            filters = options.removed(name, new)[old:]
            counter.remove(name, filters)
            taken[name] += 1
            yield Drop(name, filters, options.error(name, new), counter.size)
            heapreplace(waiting, (_cost(counter, options, unit, name, taken[name]), place, name))


def _cost(counter: Counter, options: _Options, unit: Unit, name: str, taken: int) -> float:
    """The relative error that a coupling's next drop adds for each unit that it saves; infinite where there is none."""
    if taken + 1 == len(options.stops[name]):
        return math.inf
    old, new = options.stops[name][taken : taken + 2]
    saved = getattr(counter.removing(name, options.removed(name, new)[old:]), unit)
    return (options.error(name, new) - options.error(name, old)) / saved if saved else math.inf


def _uniform(model: nn.Module, graph: Graph, options: _Options, unit: Unit, budget: int) -> dict[str, tuple[int, ...]]:
    """The largest share that every coupling may keep, or the next above it that its stops allow."""

    def keeping(share: Fraction) -> dict[str, tuple[int, ...]]:
        return {
            name: options.removed(name, max(stop for stop in stops if options.share(name, stop) >= share))
            for name, stops in options.stops.items()
        }

    shares = sorted(
        {options.share(name, stop) for name, stops in options.stops.items() for stop in stops}, reverse=True
    )
    first = bisect_left(shares, True, key=lambda share: getattr(size_of(model, graph, keeping(share)), unit) <= budget)
    return keeping(shares[first]) if shares else {}


def _movable(graph: Graph) -> Counts[tuple[str, int]]:
    """Of each dimension that counts a layer's filters, how many of its indices may leave."""
    return Counts(
        (entry.tensor, entry.dim)
        for coupling in graph.couplings
        for entry in coupling.with_role("produces")
        for positions in entry.positions
        for _ in positions
    )


def check_minimum(graph: Graph, minimum: Minimum) -> None:
    """Raises ValueError for a least width that none can be, or of a layer that is not there."""
    names = [layer.name for layer in graph.layers]
    if isinstance(minimum, Mapping) and (unknown := minimum.keys() - set(names)):
        raise ValueError(f"minimum names {sorted(unknown)}, which are no layers; layers are {', '.join(names)}")
    for value in minimum.values() if isinstance(minimum, Mapping) else [minimum]:
        if not _is_number(value) or value <= 0 or (value >= 1 and value != int(value)):
            raise ValueError(f"minimum must be a whole number >= 1 or a share in (0, 1), got {value!r}")


def _is_number(value: object) -> bool:
    """Whether it is a finite number; a whole one may be beyond a float's range."""
    if isinstance(value, bool):
        return False
    return isinstance(value, Integral) or (isinstance(value, Real) and math.isfinite(value))


class _Options:
    """What each coupling may be dropped to.

    stops: by coupling how many filters may have left, ascending from 0
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        curves: Mapping[str, Curve],
        tolerance: float | None,
        round_to: int,
        minimum: Minimum,
    ) -> None:
        round_to = whole_number("round_to", round_to)
        if tolerance is not None and (not _is_number(tolerance) or tolerance < 0):
            raise ValueError(f"tolerance must be a number >= 0, got {tolerance!r}")
        check_minimum(graph, minimum)
        self.curves = curves
        self.stops: dict[str, list[int]] = {}
        movable = _movable(graph)
        for coupling in graph.couplings:
            if coupling.name in curves:
                layers = [_Filters(model, graph, coupling, layer, movable) for layer in graph.producers(coupling)]
                self.stops[coupling.name] = [
                    count
                    for count in range(coupling.width)
                    if count == 0
                    or (
                        all(layer.allows(coupling.width - count, round_to, minimum) for layer in layers)
                        and (tolerance is None or self.error(coupling.name, count) <= tolerance)
                    )
                ]

    def error(self, name: str, count: int) -> float:
        """The relative error when so many filters have left."""
        return self.curves[name].error[count - 1] if count else 0.0

    def share(self, name: str, count: int) -> Fraction:
        """The share of its filters that the coupling then keeps."""
        width = len(self.curves[name].order)
        return Fraction(width - count, width)

    def removed(self, name: str, count: int) -> tuple[int, ...]:
        """The filters that have left by then."""
        return self.curves[name].order[:count]


class _Filters:
    """How many filters a layer has for each that a coupling keeps."""

    def __init__(
        self, model: nn.Module, graph: Graph, coupling: Coupling, layer: Layer, movable: Mapping[tuple[str, int], int]
    ) -> None:
        self.layer = layer
        place = (layer.weight, layer.output_dim)
        self.width = tensor_of(model, layer.weight).shape[layer.output_dim]
        self.fixed = self.width - movable[place]
        self.each = next(len(e.positions[0]) for e in coupling.with_role("produces") if (e.tensor, e.dim) == place)

    def allows(self, kept: int, round_to: int, minimum: Minimum) -> bool:
        """Whether the layer may have what is left of it when the coupling keeps so many."""
        filters = self.fixed + self.each * kept
        least = minimum.get(self.layer.name, 1) if isinstance(minimum, Mapping) else minimum
        least = least * self.width - 1e-9 if least < 1 else least  # 0.1 of 30 is a little more than 3
        return filters % round_to == 0 and filters >= least
