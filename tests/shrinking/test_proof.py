"""The proof holds for graphs that are right, and every mutation of one is found out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hand_graphs import entry, pair, residual
from torch import nn
from torch.nn import functional

from ckrm_kernels.shrinking.couplings import Coupling, Entries, Graph
from ckrm_kernels.shrinking.proof import NO_EFFECT, STATISTICS, Proof, prove, prove_removal

IMAGES = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(3))


def network(width: int = 6):
    model, graph = residual(width, 4)
    return model.float(), graph


def changed(graph: Graph, coupling: str, tensor: str, change) -> Graph:
    """The graph with the positions of one entry changed."""

    def mutate(each: Entries) -> Entries:
        return change(each) if each.tensor == tensor else each

    couplings = tuple(
        dataclasses.replace(c, entries=tuple(e for e in map(mutate, c.entries) if e)) if c.name == coupling else c
        for c in graph.couplings
    )
    return dataclasses.replace(graph, couplings=couplings)


def moved(positions):
    return lambda each: dataclasses.replace(each, positions=tuple(positions(list(each.positions))))


def swapped(first, second):
    def swap(positions):
        positions[first], positions[second] = positions[second], positions[first]
        return positions

    return moved(swap)


WRONG = {
    "swapped": swapped(1, 4),
    "neighbours swapped": swapped(2, 3),
    "off by one": moved(lambda p: p[1:] + p[:1]),
    "off by half": moved(lambda p: p[3:] + p[:3]),
    "reversed": moved(lambda p: p[::-1]),
    "all the first": moved(lambda p: [p[0]] * len(p)),
    "other dimension": lambda each: dataclasses.replace(each, dim=1 - each.dim),
    "missing": lambda each: None,
}


def test_right_graphs_hold():
    model, graph = network()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    for name, proof in prove(model, graph, IMAGES).items():
        assert proof == Proof(proof.deviation, exact=True), name
        assert 0 <= proof.deviation < 1e-12
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("mutation", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("tensor", ["stem.weight", "stem.bias", "narrow.weight", "widen.bias", "head.weight"])
def test_every_mutation_is_found(tensor, mutation):
    model, graph = network()
    if tensor.endswith("bias") and mutation is WRONG["other dimension"]:
        mutation = lambda each: dataclasses.replace(each, tensor="head.bias")  # noqa: E731
    proofs = prove(model, changed(graph, "stem", tensor, mutation), IMAGES)
    assert not proofs["stem"].holds
    assert proofs["stem"].reason
    assert proofs["narrow"].holds


def test_one_swap_among_many_is_found():
    model, graph = network(64)
    for first, second in ((0, 63), (31, 32)):
        wrong = changed(graph, "stem", "narrow.weight", swapped(first, second))
        assert not prove(model, wrong, IMAGES)["stem"].holds


def flattened(block=9):
    """A convolution whose outputs are flattened: filter r is a block of 9 features."""
    reads = [tuple(range(block * r, block * r + block)) for r in range(5)]
    return pair(nn.Conv2d(2, 5, 4), nn.Linear(45, 3), nn.ReLU(), nn.Flatten(), reads=reads)


def test_blocks_of_features():
    model, graph = flattened()
    assert prove(model, graph, IMAGES)["first"].holds
    strided = moved(lambda p: [tuple(range(r, 45, 5)) for r in range(5)])
    shifted = moved(lambda p: [tuple((i + 1) % 45 for i in each) for each in p])
    for wrong in (strided, shifted):
        assert not prove(model, changed(graph, "first", "second.weight", wrong), IMAGES)["first"].holds


def test_where_statistics_change_places_are_still_proved():
    norm = nn.GroupNorm(1, 6)
    model, graph = pair(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 3, 3), norm)
    nn.init.normal_(norm.weight)
    (coupling,) = graph.couplings
    entries = (*coupling.entries, entry("between0.weight", 0, 6, "follows"), entry("between0.bias", 0, 6, "follows"))
    graph = Graph(graph.layers, (Coupling("first", 6, entries, statistics_change=True),), {})
    proof = prove(model, graph, IMAGES)["first"]
    assert proof.holds
    assert not proof.exact
    assert proof.reason == STATISTICS
    assert proof.deviation < 1e-12
    for wrong in (swapped(0, 3), moved(lambda p: p[1:] + p[:1])):
        assert not prove(model, changed(graph, "first", "between0.weight", wrong), IMAGES)["first"].holds
    assert not prove(model, changed(graph, "first", "between0.bias", lambda each: None), IMAGES)["first"].holds
    exact = Graph(graph.layers, (Coupling("first", 6, entries),), {})
    assert "of its scale" in prove(model, exact, IMAGES)["first"].reason


class Net(nn.Module):
    """Two convolutions and what a function makes of them."""

    def __init__(self, run):
        super().__init__()
        self.first, self.second, self.run = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1), run

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


GRAPH = pair(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 3, 3))[1]


def prove_one(run, example=IMAGES, graph=GRAPH):
    torch.manual_seed(0)
    model = Net(run)
    return prove(model, graph, example)["first"]


def plain(model, x):
    return model.second(model.first(x).relu())


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    extra: object = None


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: {"a": (plain(m, x), None), "b": "text"},
        lambda m, x: Output(plain(m, x), [x.sum()]),
        lambda m, x: [torch.zeros(3), plain(m, x)],
        lambda m, x: (plain(m, x).masked_fill(x[:, :1] > 1, float("-inf")), plain(m, x) > 0, torch.zeros(0)),
        lambda m, x: plain(m, x.relu_()),
        lambda m, x: torch.fft.fft2(plain(m, x)),
    ],
)  # fmt: skip
def test_outputs_of_any_structure_are_compared(run):
    images = IMAGES.clone()
    proof = prove_one(run, images)
    assert proof.holds
    assert not proof.reason
    assert proof.deviation < 1e-12
    assert torch.equal(images, IMAGES)
    wrong = changed(GRAPH, "first", "second.weight", swapped(1, 2))
    assert not prove_one(run, graph=wrong).holds


def test_an_output_of_zeros_is_no_proof():
    def of_zero(m, x):
        return m.second(m.first(x))

    model = Net(of_zero)
    nn.init.zeros_(model.second.weight)
    nn.init.zeros_(model.second.bias)
    assert prove(model, GRAPH, IMAGES)["first"] == dataclasses.replace(
        prove(model, GRAPH, IMAGES)["first"], reason="", holds=True
    )
    wrong = changed(GRAPH, "first", "first.bias", swapped(1, 2))
    assert not prove(model, wrong, IMAGES)["first"].holds


def test_a_dead_branch_is_named():
    def dead(m, x):
        m.second(m.first(x))
        return x.sum((2, 3))

    proof = prove_one(dead)
    assert proof.holds
    assert proof.reason == NO_EFFECT


def test_what_does_not_run_without_filters():
    proof = prove_one(lambda m, x: m.second(m.first(x).view(2, 6, 6, 6)))
    assert not proof.holds
    assert proof.deviation is None
    assert "shape '[2, 6, 6, 6]' is invalid" in proof.reason
    grows = prove_one(lambda m, x: (plain(m, x), m.first(x).relu()))
    assert not grows.holds
    assert "outputs of shape (2, 3, 6, 6), (2, 6, 6, 6) become" in grows.reason


def test_filters_whose_number_matters():
    proof = prove_one(lambda m, x: m.second(m.first(x)) / m.first.weight.shape[0])
    assert not proof.holds
    assert "from when nothing reads its filters" in proof.reason


def test_less_precise_models_are_proved_less_precisely():
    hard = prove_one(lambda m, x: m.second(m.first(x.float())))
    assert hard.holds
    assert hard.reason.startswith("proved to 1e-04, since it does not run in float64: RuntimeError")
    inside = prove_one(lambda m, x: m.second(m.first(x).float().to(x.dtype)))
    assert inside.holds
    assert inside.reason == "proved to 1e-04: it computes in float32 inside"
    model = Net(plain).bfloat16()
    assert prove(model, GRAPH, IMAGES.bfloat16())["first"].deviation < 1e-12


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda m, x: functional.dropout(plain(m, x)), "must give the same outputs for the same inputs"),
        (lambda m, x: plain(m, x) * torch.rand(()), "must give the same outputs"),
        (lambda m, x: plain(m, x) / 0 * 0, "must give numbers on example_inputs.*, got NaN"),
        (lambda m, x: None, "must give tensors, .* got none"),
        (lambda m, x: plain(m, x[:, :1]), "must run on example_inputs, which raised RuntimeError: Given groups=1"),
    ],
)  # fmt: skip
def test_models_of_which_nothing_can_be_proved(run, message):
    with pytest.raises(ValueError, match=f"^model {message}"):
        prove(Net(run), GRAPH, IMAGES)


def test_the_random_state_stays():
    model, graph = network()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    proofs = prove(model, graph, IMAGES)
    assert torch.equal(torch.rand(3), expected)
    assert prove(model, graph, IMAGES) == proofs


def test_inputs_of_whole_numbers_and_keywords():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.first, self.second = nn.Embedding(9, 4), nn.Conv1d(4, 6, 3), nn.Conv1d(6, 2, 3)

        def forward(self, words, *, mask):
            return self.second(self.first(self.words(words).mT * mask))

    inputs = ((torch.tensor([[0, 8, 3, 3, 1, 7, 2]] * 2),), {"mask": torch.ones(7)})
    proofs = prove(Words(), GRAPH, inputs)
    assert proofs["first"].holds
    assert not proofs["first"].reason


def test_a_single_filter_stays():
    model, graph = pair(nn.Conv2d(2, 1, 1), nn.Conv2d(1, 2, 1))
    assert prove(model, graph, IMAGES)["first"] == Proof(None, False, "its only filter stays", holds=False)


def test_all_that_leaves_is_proved_together():
    model, graph = network()
    proof = prove_removal(model, graph, {"stem": [0, 5], "narrow": [1, 2, 3]}, IMAGES)
    assert proof.holds
    assert proof.exact
    assert not proof.reason
    assert proof.deviation < 1e-12
    assert prove_removal(model, graph, {}, IMAGES).deviation == 0
    wrong = changed(graph, "narrow", "norm.running_var", swapped(0, 1))
    assert not prove_removal(model, wrong, {"stem": [0], "narrow": [1]}, IMAGES).holds
    missing = changed(graph, "narrow", "norm.bias", lambda each: None)
    assert prove_removal(model, missing, {"stem": [0], "narrow": [1]}, IMAGES).deviation is None
