"""The Triton kernels in Triton's interpreter, forward and backward, against the float64 reference.

Sizes are small, since a program takes milliseconds there, but none is a multiple of a tile, and the interpreter stands
for a device of few programs, so that tiles are split over their slices.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from compare import (
    DTYPES,
    all_pairs,
    check_all,
    check_counts,
    check_counts_of_banks,
    check_cross,
    check_pairs,
    check_pairwise,
    check_soft,
    degenerate_slices,
    mixed_banks,
    some_pairs,
    weight,
)
from definition import Psi
from exhaustive import also
from hypothesis import given, settings
from hypothesis import strategies as st

from ckrm_kernels import native, reference
from ckrm_kernels.ops import result_dtype

kernels = pytest.importorskip("ckrm_kernels.kernels", reason="Triton is not installed")
from ckrm_kernels.kernels import elementary, plan, tables  # noqa: E402
from ckrm_kernels.kernels.arithmetic import Arithmetic  # noqa: E402
from ckrm_kernels.kernels.configurations import TABLE  # noqa: E402
from ckrm_kernels.similarity import Similarity  # noqa: E402

if not kernels.INTERPRETED:
    pytest.skip("these run in Triton's interpreter; test_gpu.py is for a GPU", allow_module_level=True)

ops = torch.ops.ckrm_triton
DEFAULT = Psi()
SHAPES = [
    (3, 2),
    *also(
        (5, 33, 1, 1),
        (2, 1, 3),
        (70, 3, 1),
        (67, 18, 3, 3),
        (65, 19, 2, 2),
        (3, 5, 5, 5),
        (4, 2, 7, 7),
        (4, 2, 3, 3, 3),
    ),
]
EXPONENTS = [
    (1, 1, 1),
    *also((0.3, 0.5, 0.5), (0, 1, 1), (0.5, 0.5, 2), (0.1, 0, 0), (0, 2.5, 2.5), (2.5, 1, 1), (0, 0, 0), (0.1, 0, 1)),
    *also((0.1, 1, 0), (1, 2, 1)),
]  # fmt: skip


# ---- values and gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape):
    check_all(weight(shape), DEFAULT, ops)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, *also(torch.float16)])
@pytest.mark.parametrize("shape", [(4, 2, 5), *also((6, 3, 1), (9, 5, 3, 3))], ids=str)
def test_dtypes(shape, dtype):
    check_all(weight(shape, dtype), DEFAULT, ops)


@pytest.mark.parametrize("positions", [4, *also(1, 9)])
@pytest.mark.parametrize("exponents", EXPONENTS, ids=str)
def test_exponents(exponents, positions):
    check_all(weight((7, 3, positions), scale=0.5), Psi(*exponents), ops)


@pytest.mark.parametrize("positions", [25, *also(49)])
@pytest.mark.parametrize("exponents", [(0.1, 1, 1), *also((0, 1, 1), (0.3, 0.5, 2))], ids=str)
def test_exponents_of_large_kernels(exponents, positions):
    check_pairwise(weight((5, 2, positions), scale=0.5), Psi(*exponents), ops=ops)


@pytest.mark.parametrize("exponents", [(0.3, 0.5, 0.5), *also((0.1, 1, 1), (1, 1, 1))], ids=str)
def test_exponents_in_float64(exponents):
    check_all(weight((7, 3, 3, 3), torch.float64, scale=0.5), Psi(*exponents), ops)


@pytest.mark.parametrize("eps", [0.0, *also(1e-12, 1e-40, 1e-8, 1e-2, 3.0)])
@pytest.mark.parametrize("dtype", [torch.float32, *also(torch.float64)])
def test_epsilons(eps, dtype):
    check_all(weight((6, 4, 3, 3), dtype), Psi(eps=eps), ops)


@pytest.mark.exhaustive
@settings(max_examples=25)
@given(
    filters=st.integers(0, 9),
    slices=st.integers(1, 20),
    positions=st.sampled_from([1, 2, 4, 9, 16, 17, 25]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.float64]),
    exponents=st.tuples(*[st.sampled_from([0.0, 0.1, 1.0, 2.0])] * 3),
    eps=st.sampled_from([1e-12, 1e-6, 1e-4, 1e-2]),
    seed=st.integers(0, 1000),
)
def test_any_problem(filters, slices, positions, dtype, exponents, eps, seed):
    check_pairwise(weight((filters, slices, positions), dtype, seed=seed), Psi(*exponents, eps), ops=ops)


STRIDED = {
    "filters innermost": lambda w: w.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "channels last": lambda w: w.contiguous(memory_format=torch.channels_last),
    "every second": lambda w: w.repeat_interleave(2, 0)[::2],
    "expanded slices": lambda w: w[:, :1].expand(-1, 4, -1, -1),
    "expanded positions": lambda w: w[..., :1].expand(-1, -1, -1, 3),
    "transposed kernel": lambda w: w.transpose(2, 3),
    "off its alignment": lambda w: torch.cat([w.new_zeros(1), w.flatten()])[1:].view(w.shape),
}


@pytest.mark.parametrize("layout", STRIDED)
def test_strides(layout):
    w = STRIDED[layout](weight((7, 4, 2, 3)))
    check_pairwise(w, DEFAULT, ops=ops)
    check_cross(w[:3], w[2:], DEFAULT, ops=ops)


def test_kernels_of_four_dimensions():
    w = weight((5, 3, 2, 2, 2, 2))
    check_pairwise(w.permute(0, 1, 5, 3, 4, 2), DEFAULT, ops=ops)


@pytest.mark.parametrize("step", [0, 1, -1])
def test_gradients_of_any_stride(step):
    w = weight((7, 4, 3))
    grads = torch.randn(21) if step else torch.randn(1).expand(21)
    check_pairwise(w, DEFAULT, torch.flip(grads, [0]) if step < 0 else grads, ops=ops)
    check_cross(w, w[:3], DEFAULT, torch.randn(3, 7).T, ops=ops)


# ---- other similarities ----------------------------------------------------------------------------------------------

SIGNED, COSINE, SIGNED_COSINE = Psi(signed=True), Similarity("cosine"), Similarity("cosine", signed=True)
OTHERS = [SIGNED, COSINE, SIGNED_COSINE]


@pytest.mark.parametrize("shape", [(7, 3, 3, 3), *also((3, 2), (5, 33, 1), (67, 18, 3, 3), (5, 2, 5, 5))], ids=str)
@pytest.mark.parametrize("similarity", OTHERS, ids=lambda similarity: str(similarity.arguments))
def test_shapes_of_other_similarities(similarity, shape):
    check_all(weight(shape), similarity, ops)


@pytest.mark.parametrize("dtype", [torch.float64, *also(torch.float16, torch.bfloat16)])
@pytest.mark.parametrize("similarity", [SIGNED_COSINE, *also(SIGNED, COSINE)], ids=lambda one: str(one.arguments))
def test_dtypes_of_other_similarities(similarity, dtype):
    check_all(weight((6, 2, 5), dtype), similarity, ops)


@pytest.mark.parametrize("exponents", [(0.3, 0.5, 0.5), (0, 1, 1), (0.1, 2, 0), *also((0, 0, 0), (1, 2, 2.5))], ids=str)
def test_exponents_of_signed_psi(exponents):
    check_pairwise(weight((7, 2, 4), scale=0.5), Psi(*exponents, signed=True), ops=ops)


@pytest.mark.parametrize("positions", [25, *also(49)])
@pytest.mark.parametrize("similarity", OTHERS, ids=lambda similarity: str(similarity.arguments))
def test_large_kernels_of_other_similarities(similarity, positions):
    check_pairwise(weight((5, 2, positions)), similarity, ops=ops)


@pytest.mark.parametrize("dtype", [torch.float32, *also(torch.float64)])
@pytest.mark.parametrize(
    "similarity", [SIGNED_COSINE, *also(SIGNED, Psi(eps=0, signed=True), COSINE)], ids=lambda one: str(one.arguments)
)
def test_degenerate_slices(similarity, dtype):
    check_all(degenerate_slices(dtype), similarity, ops)


@pytest.mark.parametrize("similarity", OTHERS, ids=lambda similarity: str(similarity.arguments))
def test_counts_of_many_banks_of_other_similarities(similarity):
    edges = torch.tensor([-0.3, 0.1, 0.3])
    check_counts_of_banks(
        [b for b in mixed_banks(torch.float32) if len(b) < 10 and b.shape[1:].numel() < 40], edges, similarity, ops
    )


def test_a_negative_twin_has_minus_its_own_similarity():
    w = weight((4, 3, 3, 3))
    for similarity in (Psi(0, eps=1e-12, signed=True), SIGNED_COSINE):
        twins = ops.cross_psi(w, -w, *similarity.arguments).diagonal()
        assert torch.allclose(twins, torch.tensor(-1.0), atol=1e-5)


def test_a_cosine_with_a_zero_slice_is_zero_and_gets_no_gradient():
    w = weight((4, 1, 3, 3))
    w[1] = 0
    pairs = torch.tensor([[0, 1], [1, 2]])
    for similarity in (COSINE, SIGNED_COSINE):
        assert not ops.psi_of_pairs(w, pairs, *similarity.arguments).any()
        assert not ops.psi_of_pairs_backward(torch.ones(2), w, pairs, *similarity.arguments).any()


@pytest.mark.parametrize("scale", [1e-14, 1e14])
def test_a_cosine_of_small_and_of_large_numbers(scale):
    check_pairwise(weight((5, 2, 3, 3), scale=scale), COSINE, ops=ops)


def test_what_a_cosine_takes_for_zero_and_for_not_finite():
    w = weight((4, 1, 3, 3))
    w[1] *= 1e-21
    w[2] *= 1e21
    psi = ops.pairwise_psi(w, *COSINE.arguments)
    assert torch.equal(psi.isnan(), (all_pairs(4) == 2).any(1))
    assert not psi[[0, 4]].any()  # (0, 1) and (1, 3)


@pytest.mark.parametrize(
    ("similarity", "message"),
    [
        (("tiles", False, []), "there is no similarity tiles"),
        (("cosine", False, [0.1]), "cosine takes 0 parameters, got 1"),
        (("psi", True, [0.1, 1.0, 1.0]), "psi takes 4 parameters, got 3"),
    ],
)
def test_similarities_that_there_are_not(similarity, message):
    with pytest.raises(RuntimeError, match=message):
        ops.pairwise_psi(weight((4, 3, 3)), *similarity)


# ---- numbers that are not ordinary -----------------------------------------------------------------------------------


POISONED = [
    DEFAULT, *OTHERS,
    *also(Psi(0, 1, 1), Psi(0, 0, 0), Psi(0.1, 0, 0), Psi(0, 0, 2), Psi(0, 0, 0, signed=True)),
]  # fmt: skip


@pytest.mark.parametrize("similarity", POISONED, ids=lambda similarity: str(similarity.arguments))
@pytest.mark.parametrize("shape", [(66, 3, 3, 3), (5, 3, 1)], ids=str)
@pytest.mark.parametrize("value", [math.nan, *also(math.inf, -math.inf)])
def test_a_filter_that_is_not_finite_spoils_its_pairs_alone(shape, value, similarity):
    w = weight(shape)
    whole = ops.pairwise_psi(w, *similarity.arguments)
    w[3].view(-1)[1] = value
    spoilt = (all_pairs(shape[0]) == 3).any(1)
    psi = ops.pairwise_psi(w, *similarity.arguments)
    assert torch.equal(psi.isnan(), spoilt)
    assert torch.equal(psi[~spoilt], whole[~spoilt])
    counts = ops.psi_counts([w], torch.tensor([0.5]), *similarity.arguments)
    assert counts[0, -1] == spoilt.sum()
    pairs = torch.tensor([[0, 3], [0, 1]])
    assert ops.psi_of_pairs(w, pairs, *similarity.arguments).isnan().tolist() == [True, False]


@pytest.mark.parametrize("eps", [1e-12, *also(1e-4)])
def test_dead_filters_repeat_each_other(eps):
    w = weight((6, 3, 3, 3))
    w[1], w[4] = 0, 0
    check_all(w, Psi(eps=eps), ops)
    assert ops.psi_of_pairs(w, torch.tensor([[1, 4]]), *Psi(eps=eps).arguments).item() == pytest.approx(1, abs=1e-6)


def test_a_mean_far_above_the_deviations_costs_no_digits():
    w = weight((6, 3, 3, 3), scale=1e-3) + 100
    check_pairwise(w, Psi(eps=1e-6), ops=ops)


def test_numbers_beyond_float32_arithmetic_are_nan():
    w = weight((4, 2, 3))
    w[1] *= 1e20
    psi = ops.pairwise_psi(w, *DEFAULT.arguments)
    assert torch.equal(psi.isnan(), (all_pairs(4) == 1).any(1))
    check_pairwise(w.double(), DEFAULT, ops=ops)


def test_the_largest_numbers_within_float32_arithmetic():
    w = weight((5, 2, 3))
    w[1] *= 1e10
    w[2] *= 1e-15
    check_pairwise(w, DEFAULT, ops=ops)


def test_pairs_outside_the_bank_are_nan():
    w, pairs = weight((4, 2, 3)), torch.tensor([[0, 1], [0, 4], [-1, 2], [2, 3]])
    psi = ops.psi_of_pairs(w, pairs, *DEFAULT.arguments)
    assert psi.isnan().tolist() == [False, True, True, False]
    of_weight = ops.psi_of_pairs_backward(torch.ones(4), w, pairs, *DEFAULT.arguments)  # and nothing outside is read
    assert of_weight.flatten(1).isnan().all(1).tolist() == [True, False, True, False]


def test_no_pairs():
    w = weight((4, 2, 3))
    none = torch.empty(0, 2, dtype=torch.int64)
    assert ops.psi_of_pairs(w, none, *DEFAULT.arguments).shape == (0,)
    assert not ops.psi_of_pairs_backward(torch.empty(0), w, none, *DEFAULT.arguments).any()
    for filters in (0, 1):
        assert ops.pairwise_psi(w[:filters], *DEFAULT.arguments).shape == (0,)
        assert not ops.pairwise_psi_backward(torch.empty(0), w[:filters], *DEFAULT.arguments).any()
        assert ops.psi_counts([w[:filters]], torch.tensor([0.5]), *DEFAULT.arguments).tolist() == [[0, 0, 0]]
    assert ops.cross_psi(w[:0], w, *DEFAULT.arguments).shape == (0, 4)


@pytest.mark.exhaustive  # the interpreter runs programs one by one: a GPU says more
def test_the_same_bits_every_time():
    w = weight((70, 20, 3, 3))
    grad = torch.randn(70 * 69 // 2)
    assert torch.equal(ops.pairwise_psi(w, *DEFAULT.arguments), ops.pairwise_psi(w, *DEFAULT.arguments))
    first, again = (ops.pairwise_psi_backward(grad, w, *DEFAULT.arguments) for _ in range(2))
    assert torch.equal(first, again)


# ---- many banks in one launch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [DTYPES[0], *also(*DTYPES[1:])])
def test_counts_of_many_banks(dtype):
    edges = torch.tensor([0.1, 0.3, 0.6], dtype=result_dtype(dtype))
    check_counts_of_banks([bank for bank in mixed_banks(dtype) if len(bank) < 10], edges, DEFAULT, ops)
    assert ops.psi_counts([], edges, *DEFAULT.arguments).shape == (0, 5)


@pytest.mark.exhaustive
def test_many_banks_are_counted_as_each_alone():
    banks, edges = mixed_banks(torch.float32), torch.tensor([0.1, 0.3, 0.6])
    counts = ops.psi_counts(banks, edges, *DEFAULT.arguments)
    assert counts.tolist() == [
        reference.psi_counts(bank.double(), edges, Similarity("psi", *DEFAULT)).tolist() for bank in banks
    ]


def small_banks(dtype, per_kind):
    """per_kind banks with slices of one number, of 2 to 9 and of more, and two with no pair."""
    shapes = [(5, 2, 1), (4, 3, 5), (6, 1, 3, 4), (3, 3), (7, 2, 3, 3), (3, 1, 17)][: 3 * per_kind]
    return [weight(shape, dtype, seed=index) for index, shape in enumerate([(1, 4, 2), *shapes, (0, 2, 3)])]


def levels(banks):
    return torch.linspace(0.3, 0.7, len(banks), dtype=result_dtype(banks[0].dtype))


@pytest.mark.parametrize(
    "case",
    [
        (torch.float32, DEFAULT),
        (torch.bfloat16, SIGNED),
        *also((torch.float64, DEFAULT), (torch.float32, COSINE), (torch.float64, SIGNED_COSINE)),
        *also((torch.float16, Psi(eps=0))),
    ],
    ids=str,
)
def test_soft_shares_of_many_banks(case):
    dtype, similarity = case
    banks = small_banks(dtype, 1)
    check_soft(banks, levels(banks), 0.1, similarity, ops)


@pytest.mark.exhaustive
def test_soft_shares_of_banks_of_several_tiles_and_strides():
    banks = [weight((70, 9, 3, 3)), weight((130, 2, 1)), weight((6, 4, 3, 3)).to(memory_format=torch.channels_last)]
    check_soft([*banks, weight((9, 12)).T[:, 1:8, None]], torch.tensor([0.2, 0.6, 0.3, 0.4]), 0.05, DEFAULT, ops)


@pytest.mark.exhaustive
def test_soft_shares_of_more_tiles_than_slots_and_of_more_banks_than_a_buffer_holds(monkeypatch):
    monkeypatch.setattr(plan, "_MOST_SLOTS", 2)
    monkeypatch.setattr("ckrm_kernels.kernels.prepared._LARGEST_BUFFER", 2**15)
    plan.plan_tiles.cache_clear()
    try:
        banks = [weight((200, 2, 3)), weight((100, 20, 3)), weight((5, 2, 3))]
        check_soft(banks, levels(banks), 0.1, DEFAULT, ops)
    finally:
        plan.plan_tiles.cache_clear()


def test_a_bank_that_is_not_finite_spoils_its_own_soft_share_alone():
    banks = [weight((4, 2, 3)), weight((5, 2, 3)), weight((3, 1, 3))]
    banks[1][2, 0, 0] = math.nan
    values, gradients = ops.soft_redundancy(banks, levels(banks), 0.1, True, *DEFAULT.arguments)
    assert values.isnan().tolist() == [False, True, False]
    assert [of_bank.isnan().any().item() for of_bank in gradients] == [False, True, False]
    assert gradients[1].isnan().all()


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that are launched, in their order."""
    from ckrm_kernels.kernels import gradient, prepare, soft, tiles

    names = []
    for module in (gradient, prepare, soft, tiles):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            kernel = getattr(module, name)

            class Counted:
                def __init__(self, kernel, name):
                    self.kernel, self.name = kernel, name

                def __getitem__(self, grid):
                    names.append(self.name)
                    return self.kernel[grid]

            monkeypatch.setattr(module, name, Counted(kernel, name))
    return names


def test_measuring_many_layers_takes_one_launch_of_each_kernel_for_a_kind_of_slices(launched):
    stem, blocks = torch.nn.Conv2d(3, 6, 7), [torch.nn.Conv2d(4, 6, 3) for _ in range(4)]
    report = kernels_report(torch.nn.ModuleList([stem, *blocks]))
    assert launched == ["prepare_kernel", "tile_kernel", "combine_kernel"] * 2
    assert len(report.measured) == 5


def test_soft_shares_and_gradients_take_one_launch_of_each_kernel_for_a_kind_of_slices(launched):
    banks = small_banks(torch.float32, 2)
    ops.soft_redundancy(banks, levels(banks), 0.1, True, *DEFAULT.arguments)
    of_a_kind = ["prepare_kernel", "tile_kernel", "soft_kernel", "soft_mean_kernel"]
    assert launched == [*of_a_kind, "tile_gradient_kernel", "finish_gradient_kernel"] * 3


def test_soft_shares_of_weights_elsewhere_in_memory_find_the_tables_of_the_first_call():
    """Else a step with computed weights would copy tables to the GPU, and a CUDA graph could not be captured."""
    caches = [value for value in vars(plan).values() if hasattr(value, "cache_info")]
    misses = []
    for distance in (0, 3):
        memory = torch.randn(80)
        banks = [memory[:60].view(4, 3, 5), memory[60 + distance :][:15].view(5, 1, 3)]
        ops.soft_redundancy(banks, torch.tensor([0.3, 0.5]), 0.1, True, *DEFAULT.arguments)
        misses.append([cache.cache_info().misses for cache in caches])
    assert misses[0] == misses[1]


def kernels_report(model):
    from ckrm_kernels import measure

    report, expected = (measure(model, details=False, backend=backend) for backend in ("triton", "reference"))
    assert [row.redundancy for row in report.layers] == [row.redundancy for row in expected.layers]
    assert [row.histogram for row in report.layers] == [row.histogram for row in expected.layers]
    return report


@settings(max_examples=100)
@given(
    shapes=st.lists(
        st.tuples(st.integers(2, 400), st.integers(1, 300), st.sampled_from([1, 9, 25])), min_size=1, max_size=6
    ),
    programs=st.sampled_from([1, 8, 264, 4096]),
    tile=st.sampled_from([config.tile for config in TABLE.values()]),
)
def test_the_work_list_holds_every_slice_of_every_pair_once(shapes, programs, tile):
    places = plan.plan_buffer(tuple(plan.Shape(*shape) for shape in shapes), tile, 16).places
    assert all(1 not in place.in_buffer for place in places)  # Triton 3.4 takes no constant in a tuple
    tile_plan = plan.plan_tiles(places, None, tuple(range(len(shapes))), tile, programs, torch.device("cpu"))
    tiles_of_bank = {}
    for batch in tile_plan.batches:
        items = [tables.ItemRow(*row) for row in batch.items.tolist()]
        of_slot = {item.slot: item for item in items}
        assert len(of_slot) == len(items) <= tile_plan.slots
        for tile_row in (tables.TileRow(*row) for row in batch.tiles.tolist()):
            place, i, j = places[tile_row.output], tile_row.first_row, tile_row.first_column
            filters, slices, _ = place.shape
            assert (tile_row.rows, tile_row.columns, tile_row.slices) == (filters, filters, slices)
            tiles_of_bank.setdefault(tile_row.output, set()).add((i, j))
            start = 0
            for slot in range(tile_row.slot, tile_row.slot + tile_row.parts):
                item = of_slot[slot]
                assert item.row_moments == place.moments + start * 4 * place.padded + i
                assert item.column_moments == place.moments + start * 4 * place.padded + j
                assert item.row_coordinates == place.coordinates + (start * place.padded + i) * place.shape.steps * 16
                assert item.steps == place.shape.steps
                start += item.slices
            assert start == slices
    for bank, (filters, _, _) in enumerate(shapes):
        needed = {
            (i // tile.rows * tile.rows, j // tile.columns * tile.columns)
            for i in range(0, filters)
            for j in (*range(i + 1, filters, tile.columns), filters - 1)
            if i < j
        }
        assert tiles_of_bank.get(bank, set()) == needed


@pytest.mark.parametrize(
    ("row", "prefix"),
    [
        (tables.BankRow, "BANK"),
        (tables.ProgramRow, "PROGRAM"),
        (tables.ItemRow, "ITEM"),
        (tables.TileRow, "TILE"),
        (tables.SoftRow, "SOFT"),
        (tables.GradientRow, "GRADIENT"),
        (tables.BlockRow, "BLOCK"),
    ],
)
def test_kernels_read_every_field_of_a_table_where_it_stands(row, prefix):
    assert getattr(tables, f"{prefix}_WIDTH").value == len(row._fields)
    for index, field in enumerate(row._fields):
        assert getattr(tables, f"{prefix}_{field.upper()}").value == index


@pytest.mark.exhaustive
def test_more_tiles_than_slots_take_several_launches(monkeypatch):
    monkeypatch.setattr(plan, "_MOST_SLOTS", 4)
    plan.plan_tiles.cache_clear()
    try:
        w = weight((200, 30, 3))
        check_counts(w, torch.tensor([0.3, 0.6]), DEFAULT, ops)
    finally:
        plan.plan_tiles.cache_clear()


# ---- tensor cores ----------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False))
def test_two_tf32_numbers_hold_a_float32(value):
    """[high | low] of the kernels add up exactly, and a tensor core, which drops 13 bits, loses at most 2^-21."""
    high, low = split(torch.tensor(value))
    assert (high.double() + low.double()).item() == value
    read = as_tf32(high).double() + as_tf32(low).double()
    assert abs(read.item() - value) <= 2.0**-21 * abs(value) + 2.0**-135  # it reads subnormal numbers coarsely


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_covariances_by_split_tf32_have_the_accuracy_of_float32(steps):
    z = torch.randn(64, 8 * steps)
    high, low = split(z)
    a, b = torch.cat([high, low], 1), torch.cat([high, low], 1)
    turned = torch.cat([low, high], 1)
    product = (as_tf32(a).double() @ as_tf32(b).double().T) + (as_tf32(turned).double() @ as_tf32(b).double().T)
    exact = z.double() @ z.double().T
    scale = z.double().norm(dim=1)
    assert ((product - exact).abs() / (scale[:, None] * scale)).max() < 2.0**-20
    alone = as_tf32(z).double() @ as_tf32(z).double().T
    assert ((alone - exact).abs() / (scale[:, None] * scale)).max() > 2.0**-14


@pytest.fixture
def tensor_cores(monkeypatch):
    """Products in the interpreter as a tensor core makes them: of tf32 numbers, added up 8 at a time, cut off below."""
    from triton.runtime import interpreter

    def of_core(self, a, b, sum_, *options):
        assert a.data.dtype == np.float32
        x, y = (as_tf32(torch.from_numpy(np.ascontiguousarray(each.data))).double() for each in (a, b))
        total = torch.from_numpy(sum_.data)
        for k in range(0, x.shape[1], 8):
            exact = total.double() + x[:, k : k + 8] @ y[k : k + 8]
            total = exact.float()
            total = torch.where(total.abs() > exact.abs(), total.nextafter(torch.zeros(())), total)
        return interpreter.TensorHandle(total.numpy(), sum_.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", of_core)


@pytest.mark.parametrize("shape", [(67, 3, 3, 3), *also((6, 2, 7, 7))], ids=str)
def test_tensor_cores_that_cut_off_their_sums_have_the_accuracy_of_float32(tensor_cores, shape):
    check_pairwise(weight(shape), DEFAULT, ops=ops)


@pytest.mark.exhaustive
def test_long_slices_on_tensor_cores_have_the_accuracy_of_float32(tensor_cores):
    w = weight((5, 1, 4096))
    expected = reference.pairwise_psi(w.double(), Similarity("psi", *DEFAULT))
    assert (ops.pairwise_psi(w, *DEFAULT.arguments).double() - expected).abs().max() < 1e-5


@pytest.mark.exhaustive
def test_gradients_of_many_filters_on_tensor_cores_have_the_accuracy_of_float32(tensor_cores):
    """Filters that repeat each other: what a filter gets from all the others adds up."""
    w = 0.1 * weight((1, 1, 3, 3)) + 0.003 * weight((600, 1, 3, 3))
    exact = w.double().requires_grad_()
    omega = reference.pairwise_psi(exact, Similarity("psi", *DEFAULT))
    omega.sum().backward()
    found = ops.pairwise_psi_backward(torch.ones(omega.shape), w, *DEFAULT.arguments)
    assert (found.double() - exact.grad).abs().max() < 2e-5 * exact.grad.abs().max()


def split(x):
    high = (x.view(torch.int32) & -8192).view(torch.float32)
    return high, x - high


def as_tf32(x):
    """What a tensor core reads of a float32."""
    return (x.view(torch.int32) & -8192).view(torch.float32)


# ---- operators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", also(torch.float32, torch.float64))
def test_opcheck(dtype):
    w = weight((4, 3, 3), dtype).requires_grad_()
    pairs, edges = some_pairs(4, 5), torch.tensor([0.5], dtype=result_dtype(dtype))
    for operator, arguments in (
        (ops.pairwise_psi, (w, *DEFAULT.arguments)),
        (ops.cross_psi, (w, w.detach()[:2].requires_grad_(), *DEFAULT.arguments)),
        (ops.psi_of_pairs, (w, pairs, *DEFAULT.arguments)),
        (ops.psi_counts, ([w.detach(), w.detach()[:, :1], w.detach()[:1]], edges, *DEFAULT.arguments)),
    ):
        torch.library.opcheck(operator.default, arguments)


@pytest.mark.exhaustive
def test_gradcheck():
    w = (torch.randn(3, 2, 3, dtype=torch.float64) * 0.5 + 0.3).requires_grad_()
    other = (torch.randn(2, 2, 3, dtype=torch.float64) * 0.5 + 0.3).requires_grad_()
    psi = Psi(0.7, 1.3, 2.0, 1e-2)
    assert torch.autograd.gradcheck(lambda x: ops.pairwise_psi(x, *psi.arguments), w)
    assert torch.autograd.gradcheck(lambda x, y: ops.cross_psi(x, y, *psi.arguments), (w, other))
    assert torch.autograd.gradcheck(lambda x: ops.psi_of_pairs(x, some_pairs(3, 4), *psi.arguments), w)


def test_compiled_whole():
    w = weight((5, 3, 3)).requires_grad_()
    compiled = torch.compile(
        lambda x: ops.pairwise_psi(x, *DEFAULT.arguments).square().sum(), fullgraph=True, backend="aot_eager"
    )
    (expected,) = torch.autograd.grad(ops.pairwise_psi(w, *DEFAULT.arguments).square().sum(), w)
    (found,) = torch.autograd.grad(compiled(w), w)
    assert torch.equal(found, expected)


def test_counts_of_many_banks_compile_as_one_graph():
    torch._dynamo.reset()
    banks, edges = mixed_banks(torch.float32)[2:6], torch.tensor([0.2, 0.6])
    compiled = torch.compile(lambda *arguments: ops.psi_counts(*arguments) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(banks, edges, *DEFAULT.arguments), ops.psi_counts(banks, edges, *DEFAULT.arguments) + 1)


BAD_CALLS = {
    "mismatched slices": lambda w: ops.cross_psi(w, w[:, :2], *DEFAULT.arguments),
    "mismatched dtypes": lambda w: ops.cross_psi(w, w.double(), *DEFAULT.arguments),
    "pairs of int32": lambda w: ops.psi_of_pairs(w, some_pairs(4, 3).int(), *DEFAULT.arguments),
    "banks of two dtypes": lambda w: ops.psi_counts([w, w.half()], torch.rand(2), *DEFAULT.arguments),
    "edges of another dtype": lambda w: ops.psi_counts([w], torch.rand(2).double(), *DEFAULT.arguments),
    "thresholds of another dtype": lambda w: ops.soft_redundancy(
        [w], torch.rand(1).double(), 0.1, True, *DEFAULT.arguments
    ),
    "gradient too short": lambda w: ops.pairwise_psi_backward(torch.ones(5), w, *DEFAULT.arguments),
    "cross gradient turned": lambda w: ops.cross_psi_backward(torch.ones(2, 4), w, w[:2], *DEFAULT.arguments),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_bad_calls_of_the_operators(call):
    with pytest.raises(RuntimeError, match="must"):
        BAD_CALLS[call](weight((4, 3, 3)))


def test_why_the_kernels_can_not_run(monkeypatch):
    monkeypatch.setattr(kernels.triton, "__version__", "3.3.1")
    assert kernels.failure(torch.device("cpu")) == "Triton 3.3.1 is too old: 3.4 or newer is needed"
    monkeypatch.setattr(kernels.triton, "__version__", "3.10.0")
    assert kernels.failure(torch.device("cpu")) == ""
    assert "TRITON_INTERPRET" in kernels.failure(torch.device("cuda", 0))
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    assert kernels.failure(torch.device("cpu")) == "it needs a tensor on a GPU"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scalars_are_floats_whatever_is_given(dtype):
    """An integer that is 1 would be a constant, which Triton 3.4 can't take in a tuple."""
    scalars = Arithmetic.of(dtype, "psi", False, [0, 1, 2, 1]).of_term(torch.device("cpu"))["scalars"]
    if dtype == torch.float64:
        assert scalars.dtype == torch.float64
        assert scalars.tolist() == [1, 1, 0, 1, 2]
    else:
        assert [type(scalar) for scalar in scalars] == [float] * 5
        assert scalars == (2.0**-19, 2.0**-38, 0, 1, 2)


def test_pair_lists_of_any_layout():
    w = weight((9, 20, 3, 3))
    check_pairs(w, some_pairs(9, 30), DEFAULT, ops=ops)
    check_pairs(w, some_pairs(9, 30).T.contiguous().T, DEFAULT, ops=ops)


def test_the_interpreter_is_what_runs():
    assert not elementary.APPROXIMATE.value


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.ones(3, 2, 3, dtype=torch.int64), "weight must be float32, float64, float16 or bfloat16"),
        (torch.ones(3, 0, 3), "weight has filters without slices"),
        (torch.ones(3, 2, 0), "weight has filters without slices"),
        (torch.ones(3), "weight must have the shape (F2, F1, *K), got 1 dimensions"),
    ],
)
def test_raw_operators_refuse_a_bad_weight_as_the_cpu_kernels_do(bad, message):
    pairs, edges, grad = torch.tensor([[0, 1]]), torch.tensor([0.5]), torch.ones(3)
    for namespace in (torch.ops.ckrm_triton, torch.ops.ckrm) if native.load_cpu() else (torch.ops.ckrm_triton,):
        for call in (
            lambda here: here.pairwise_psi(bad, *Psi().arguments),
            lambda here: here.pairwise_psi_backward(grad, bad, *Psi().arguments),
            lambda here: here.cross_psi(bad, bad, *Psi().arguments),
            lambda here: here.psi_of_pairs(bad, pairs, *Psi().arguments),
            lambda here: here.psi_of_pairs_backward(grad[:1], bad, pairs, *Psi().arguments),
            lambda here: here.psi_counts([bad], edges, *Psi().arguments),
        ):
            with pytest.raises(RuntimeError, match=re.escape(message)):
                call(namespace)


def test_slices_longer_than_a_block_are_refused():
    with pytest.raises(RuntimeError, match="weight has slices of 8193 numbers, the Triton kernels take at most 8192"):
        torch.ops.ckrm_triton.pairwise_psi(torch.zeros(2, 1, 2**13 + 1), *Psi().arguments)
