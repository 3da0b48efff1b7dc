from __future__ import annotations

from itertools import product

import pytest
import torch
from hand_graphs import entry, layer_of, residual
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ckrm_kernels.shrinking.counting import size_of
from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.elimination import Curve
from ckrm_kernels.shrinking.widths import drops, ignored, removals, together

WIDTHS = {"stem": 8, "narrow": 6}
MODEL, GRAPH = residual(*WIDTHS.values())
TOTAL = size_of(MODEL, GRAPH)


@st.composite
def curves(draw):
    """A curve of each coupling with errors that ascend."""
    found = {}
    for name, width in WIDTHS.items():
        added = draw(st.lists(st.floats(0, 1), min_size=width, max_size=width))
        order = draw(st.permutations(range(width)))
        found[name] = Curve(tuple(order), tuple(torch.tensor(added, dtype=torch.float64).cumsum(0).tolist()))
    return found


CURVES = {
    "stem": Curve((3, 1, 0, 2, 4, 5, 7, 6), (0.01, 0.02, 0.03, 0.1, 0.2, 0.4, 0.8, 2.0)),
    "narrow": Curve((5, 4, 3, 2, 1, 0), (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)),
}


def size(removed, unit):
    return getattr(size_of(MODEL, GRAPH, removed), unit)


def budget(unit, value):
    return {"parameters" if unit == "parameters" else "macs": value}


UNITS = st.sampled_from(["parameters", "multiply_adds"])
SHARES = st.floats(0.15, 1)


@settings(max_examples=30)
@given(curves(), UNITS, SHARES, st.booleans())
def test_a_budget_is_met_in_the_order_of_the_curves(curves, unit, share, uniform):
    removed = removals(MODEL, GRAPH, curves, uniform=uniform, **budget(unit, share))
    assert size(removed, unit) <= share * getattr(TOTAL, unit)
    for name, filters in removed.items():
        assert filters == curves[name].order[: len(filters)]
        assert len(filters) < WIDTHS[name]


@settings(max_examples=30)
@given(curves(), UNITS, SHARES, st.sampled_from([1, 2, 3]))
def test_without_the_last_drop_the_budget_is_not_met(curves, unit, share, round_to):
    removed = removals(MODEL, GRAPH, curves, round_to=round_to, **budget(unit, max(share, 0.4)))
    sequence = list(drops(MODEL, GRAPH, curves, unit=unit, round_to=round_to))
    count = next(
        k for k in range(len(sequence) + 1) if together(sequence[:k]) == {n: f for n, f in removed.items() if f}
    )
    assert count == 0 or size(together(sequence[: count - 1]), unit) > max(share, 0.4) * getattr(TOTAL, unit)
    for index, drop in enumerate(sequence):
        assert drop.size == size_of(MODEL, GRAPH, together(sequence[: index + 1]))
        gone = len(together(sequence[: index + 1])[drop.coupling])
        assert drop.error == curves[drop.coupling].error[gone - 1]


@settings(max_examples=30)
@given(curves(), UNITS, SHARES)
def test_each_drop_adds_the_least_error_for_what_it_saves(curves, unit, share):
    removed = dict.fromkeys(WIDTHS, 0)
    for drop in drops(MODEL, GRAPH, curves, unit=unit):
        now = {name: curves[name].order[:count] for name, count in removed.items()}
        costs = {}
        for name, count in removed.items():
            if count < WIDTHS[name] - 1:
                then = {**now, name: curves[name].order[: count + 1]}
                added = curves[name].error[count] - (curves[name].error[count - 1] if count else 0)
                costs[name] = added / (size(now, unit) - size(then, unit))
        assert costs[drop.coupling] == min(costs.values())
        removed[drop.coupling] += len(drop.filters)
    assert removed == {name: width - 1 for name, width in WIDTHS.items()}


@settings(max_examples=30)
@given(curves(), UNITS, SHARES, SHARES, st.booleans())
def test_a_smaller_budget_takes_what_the_larger_takes_and_more(curves, unit, one, other, uniform):
    larger, smaller = (
        removals(MODEL, GRAPH, curves, uniform=uniform, **budget(unit, share)) for share in sorted((one, other))[::-1]
    )
    assert all(smaller[name][: len(filters)] == filters for name, filters in larger.items())


@settings(max_examples=30)
@given(curves(), st.sampled_from([2, 3, 4]), UNITS)
def test_widths_are_multiples_and_never_below_the_minimum(curves, round_to, unit):
    for drop in drops(MODEL, GRAPH, curves, unit=unit, round_to=round_to):
        assert 0 < len(drop.filters) <= round_to
    minimum = {"widen": 5, "narrow": 0.5}
    removed = removals(MODEL, GRAPH, curves, tolerance=100, round_to=round_to, minimum=minimum)
    for name, least in (("stem", 5), ("narrow", 3)):
        kept = WIDTHS[name] - len(removed[name])
        stops = [k for k in range(1, WIDTHS[name]) if k % round_to == 0 and k >= least]
        assert kept == min(stops, default=WIDTHS[name])


@settings(max_examples=30)
@given(curves(), st.floats(0, 3))
def test_a_tolerance_alone_goes_as_far_as_it_allows(curves, tolerance):
    removed = removals(MODEL, GRAPH, curves, tolerance=tolerance)
    for name, curve in curves.items():
        assert len(removed[name]) == min(sum(e <= tolerance for e in curve.error), WIDTHS[name] - 1)


@settings(max_examples=30)
@given(curves(), UNITS, SHARES, st.sampled_from([1, 2]))
def test_uniform_keeps_the_largest_share_that_meets_the_budget(curves, unit, share, round_to):
    share = max(share, 0.3)
    found = removals(MODEL, GRAPH, curves, uniform=True, round_to=round_to, **budget(unit, share))

    def keeping(part):
        allowed = {n: [k for k in range(1, w + 1) if k == w or k % round_to == 0] for n, w in WIDTHS.items()}
        kept = {n: min(k for k in ks if k >= part * WIDTHS[n] - 1e-9) for n, ks in allowed.items()}
        return {n: curves[n].order[: WIDTHS[n] - k] for n, k in kept.items()}

    parts = {k / w for w in WIDTHS.values() for k in range(1, w + 1)}
    best = max(p for p in parts if size(keeping(p), unit) <= share * getattr(TOTAL, unit))
    assert found == keeping(best)


def separate(count, width):
    """A network of `count` pairs of layers that share nothing, of equal shapes."""
    model, layers, couplings = nn.ModuleDict(), [], []
    for index in range(count):
        model[f"a{index}"], model[f"b{index}"] = nn.Linear(3, width), nn.Linear(width, 3)
        layers += [layer_of(model, f"a{index}", 1), layer_of(model, f"b{index}", 1)]
        entries = (entry(f"a{index}.weight", 0, width, "produces"), entry(f"b{index}.weight", 1, width, "consumes"))
        couplings.append(Coupling(f"a{index}", width, entries))
    return model, Graph(tuple(layers), tuple(couplings), {})


@settings(max_examples=30)
@given(st.lists(st.lists(st.floats(0.001, 1), min_size=4, max_size=4).map(sorted), min_size=3, max_size=3), SHARES)
def test_where_every_drop_saves_as_much_and_costs_more_than_the_last_it_is_the_best(added, share):
    model, graph = separate(3, 4)
    found = {
        coupling.name: Curve(tuple(range(4)), tuple(torch.tensor(steps, dtype=torch.float64).cumsum(0).tolist()))
        for coupling, steps in zip(graph.couplings, added, strict=True)
    }

    def error(counts):
        return sum(
            curve.error[count - 1] if count else 0.0 for curve, count in zip(found.values(), counts, strict=True)
        )

    def parameters(counts):
        return size_of(model, graph, {name: range(count) for name, count in zip(found, counts, strict=True)}).parameters

    total = parameters((0, 0, 0))
    share = max(share, parameters((3, 3, 3)) / total)
    best = min(error(counts) for counts in product(range(4), repeat=3) if parameters(counts) <= share * total)
    removed = removals(model, graph, found, parameters=share)
    assert error([len(filters) for filters in removed.values()]) == pytest.approx(best)


def test_budgets_as_numbers():
    half = removals(MODEL, GRAPH, CURVES, parameters=0.5)
    assert half == removals(MODEL, GRAPH, CURVES, parameters=TOTAL.parameters // 2)
    assert not any(removals(MODEL, GRAPH, CURVES, parameters=10**400).values())  # more than a float can hold
    assert half == {
        "stem": CURVES["stem"].order[: len(half["stem"])],
        "narrow": CURVES["narrow"].order[: len(half["narrow"])],
    }
    for whole in (1.0, 1, TOTAL.parameters, 10**9):
        assert removals(MODEL, GRAPH, CURVES, parameters=whole) == {"stem": (), "narrow": ()}


def test_a_coupling_without_a_curve_keeps_its_filters():
    assert removals(MODEL, GRAPH, {"narrow": CURVES["narrow"]}, tolerance=10) == {"narrow": (5, 4, 3, 2, 1)}


def test_a_budget_that_can_not_be_met_says_what_is_the_least():
    least = size({name: curve.order[:-1] for name, curve in CURVES.items()}, "parameters")
    assert removals(MODEL, GRAPH, CURVES, parameters=least)
    with pytest.raises(
        ValueError, match=f"parameters allows {least - 1} of {TOTAL.parameters}.* reached is {least}, a share"
    ):
        removals(MODEL, GRAPH, CURVES, parameters=least - 1)
    with pytest.raises(ValueError, match=r"macs allows .* by minimum, round_to or tolerance"):
        removals(MODEL, GRAPH, CURVES, macs=0.9, minimum=8)


def test_a_layers_fixed_filters_count():
    # of six filters four may leave: multiples of 2 are those of the layer's width
    model, graph = separate(1, 6)
    entries = (entry("a0.weight", 0, 4, "produces"), entry("b0.weight", 1, 4, "consumes"))
    graph = Graph(graph.layers, (Coupling("a0", 4, entries),), {})
    curve = {"a0": Curve((0, 1, 2, 3), (0.1, 0.2, 0.3, 0.4))}
    assert [len(drop.filters) for drop in drops(model, graph, curve, round_to=4)] == [2]
    assert [len(drop.filters) for drop in drops(model, graph, curve, minimum=5)] == [1]


@pytest.mark.parametrize(
    ("ignore", "expected"),
    [
        (["narrow"], {"narrow"}),
        (["stem"], {"stem"}),
        (["widen"], {"stem"}),
        (["head"], set()),
        (["*n*"], {"stem", "narrow"}),
        (["nar*"], {"narrow"}),
        ([""], {"stem", "narrow"}),
        ([MODEL.widen], {"stem"}),
        ([MODEL], {"stem", "narrow"}),
        ("narrow", {"narrow"}),
        (MODEL.narrow, {"narrow"}),
        ([], set()),
    ],
)
def test_ignored_layers(ignore, expected):
    assert ignored(MODEL, GRAPH, ignore) == expected


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        (["norm"], "'norm', which is no layer and holds none"),
        (["stm"], "'stm', which is no layer"),
        ([nn.Linear(1, 1)], "a Linear that is no module of the model"),
    ],
)
def test_what_can_not_be_ignored(ignore, message):
    with pytest.raises(ValueError, match=message):
        ignored(MODEL, GRAPH, ignore)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of parameters, macs and tolerance must say how far to go"),
        ({"parameters": 0.5, "macs": 0.5}, "one budget is accepted"),
        ({"parameters": 0}, "parameters must be a share in .* got 0"),
        ({"macs": -3}, "macs must be a share"),
        ({"parameters": True}, "got True"),
        ({"parameters": "half"}, "got 'half'"),
        ({"macs": float("nan")}, "got nan"),
        ({"tolerance": -0.1}, "tolerance must be a number >= 0, got -0.1"),
        ({"tolerance": float("inf")}, "tolerance must be a number"),
        ({"parameters": 0.5, "round_to": 0}, "round_to must be a whole number >= 1, got 0"),
        ({"parameters": 0.5, "minimum": 0}, "minimum must be a whole number >= 1 or a share"),
        ({"parameters": 0.5, "minimum": 1.5}, "minimum must be a whole number"),
        ({"parameters": 0.5, "minimum": {"narrow": -1}}, "minimum must be a whole number"),
        (
            {"parameters": 0.5, "minimum": {"conv9": 2}},
            r"minimum names \['conv9'\], which are no layers; layers are stem",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        removals(MODEL, GRAPH, CURVES, **options)
