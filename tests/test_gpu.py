"""The GPU backends on a GPU: values, gradients, and what only a device can show. `make gpu-check` runs this."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from compare import check_all, check_counts, check_cross, check_pairs, check_pairwise, check_soft, some_pairs, weight
from definition import Psi
from torch import nn
from torch.utils._pytree import tree_map_only

import ckrm_kernels
from ckrm_kernels import backends, reference
from ckrm_kernels.ops import SCHEMAS, result_dtype
from ckrm_kernels.similarity import Similarity

if not torch.cuda.is_available():
    pytest.skip("no GPU that torch can use", allow_module_level=True)

DEFAULT = Psi()
GPU = torch.device("cuda", 0)
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SHAPES = [
    (2, 1, 3), (3, 2), (5, 33, 1, 1), (130, 7, 1), (65, 70, 2, 2), (67, 90, 3, 3), (129, 33, 3, 3), (33, 5, 5, 5),
    (64, 3, 7, 7), (5, 2, 3, 3, 3), (300, 40, 3, 3),
]  # fmt: skip
EXPONENTS = [
    (0, 1, 1), (1, 1, 1), (2.5, 1, 1), (0.1, 0, 0), (0, 0, 0), (0.1, 0, 1), (0.3, 0.5, 0.5), (0.5, 0.5, 2), (1, 2, 1),
]  # fmt: skip
SIMILARITIES = [
    Psi(signed=True),
    Psi(0.5, 2.0, 1.5, signed=True),
    Similarity("cosine"),
    Similarity("cosine", signed=True),
]


@pytest.fixture(params=["triton", "cuda"])
def gpu_backend(request):
    failure = backends.why_not(request.param, GPU)
    if failure:
        pytest.fail(f"{request.param}: {failure}", pytrace=False)
    return request.param


@pytest.fixture
def ops(gpu_backend):
    """The backend's operators, on CPU tensors that are moved to the GPU and back."""
    namespace = getattr(torch.ops, f"ckrm_{gpu_backend}")

    def on_gpu(operator):
        def call(*arguments):
            result = operator(*tree_map_only(torch.Tensor, to_gpu, arguments))
            return tree_map_only(torch.Tensor, torch.Tensor.cpu, result)

        return call

    return SimpleNamespace(**{name: on_gpu(getattr(namespace, name)) for name in SCHEMAS})


def to_gpu(tensor):
    """On the GPU, with the memory around it, so that its strides and its alignment stay as they are."""
    if tensor.numel() == 0:
        return tensor.to(GPU)
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.detach().untyped_storage())
    return memory.to(GPU).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(ops, shape, dtype):
    check_all(weight(shape, dtype), DEFAULT, ops)


@pytest.mark.parametrize("positions", [1, 4, 9, 25, 49])
@pytest.mark.parametrize("exponents", EXPONENTS, ids=str)
def test_exponents(ops, exponents, positions):
    for dtype in (torch.float32, torch.float64):
        check_all(weight((7, 3, positions), dtype, scale=0.5), Psi(*exponents), ops)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=str)
def test_similarities(ops, similarity, dtype):
    for shape in ((67, 90, 3, 3), (130, 7, 1), (33, 5, 5, 5), (65, 70, 2, 2)):
        check_all(weight(shape, dtype), similarity, ops)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-40, 1e-12, 1e-8, 1e-2, 3.0])
def test_epsilons(ops, eps, dtype):
    check_all(weight((66, 20, 3, 3), dtype), Psi(eps=eps), ops)


def test_strides(ops):
    w = weight((67, 6, 2, 3))
    for view in (
        w.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        w.contiguous(memory_format=torch.channels_last),
        w.repeat_interleave(2, 0)[::2],
        w[:, :1].expand(-1, 4, -1, -1),
        w.transpose(2, 3),
        torch.cat([w.new_zeros(1), w.flatten()])[1:].view(w.shape),
    ):
        check_pairwise(view, DEFAULT, ops=ops)
        check_cross(view[:30], view[20:], DEFAULT, ops=ops)


def test_numbers_that_are_not_finite(ops):
    w = weight((130, 9, 3, 3))
    w[3, 2, 1, 1], w[77] = math.nan, math.inf
    psi = ops.pairwise_psi(w, *DEFAULT.arguments)
    i, j = torch.triu_indices(130, 130, 1)
    spoilt = (i == 3) | (j == 3) | (i == 77) | (j == 77)
    assert torch.equal(psi.isnan(), spoilt)
    check_counts(w, torch.tensor([0.3, 0.6]), DEFAULT, ops)


def test_dead_filters(ops):
    w = weight((70, 5, 3, 3))
    w[10:20] = 0
    check_all(w, DEFAULT, ops)


def test_a_mean_far_above_the_deviations_costs_no_digits(ops):
    check_pairwise(weight((66, 3, 3, 3), scale=1e-3) + 100, Psi(eps=1e-6), ops=ops)


def test_many_pairs(ops):
    check_pairs(weight((300, 40, 3, 3)), some_pairs(300, 2000), DEFAULT, ops=ops)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("similarity", [DEFAULT, *SIMILARITIES], ids=str)
def test_soft_shares_of_many_banks(ops, similarity, dtype):
    shapes = [(64, 3, 7, 7), (130, 70, 3, 3), (0, 2, 3), (200, 2, 1), (1, 4, 3, 3), (67, 90, 3, 3), (5, 2, 3, 3, 3)]
    banks = [weight(shape, dtype, seed=index) for index, shape in enumerate(shapes)]
    check_soft(banks, torch.linspace(0.2, 0.7, len(banks), dtype=result_dtype(dtype)), 0.1, similarity, ops)


@pytest.mark.parametrize("gpu_backend", ["cuda"], indirect=True)  # whose tiles are split by the bank's own shape
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_banks_at_once_are_bit_for_bit_as_each_alone(ops, dtype):
    """Of each kind more than one part of a table holds."""
    tails = [(70, 3, 3), (5, 3, 3), (33, 1), (2, 7, 7)]
    banks = [weight((1 + 13 * index % 140, *tails[index % 4]), dtype, seed=index) for index in range(120)]
    thresholds = torch.linspace(0.2, 0.7, len(banks), dtype=result_dtype(dtype))
    edges = torch.tensor([0.1, 0.3, 0.6], dtype=result_dtype(dtype))

    def results(banks, thresholds):
        values, gradients = ops.soft_redundancy(banks, thresholds, 0.1, True, *DEFAULT.arguments)
        return values, gradients, ops.psi_counts(banks, edges, *DEFAULT.arguments)

    together = results(banks, thresholds)
    for index, bank in enumerate(banks):
        for of_all, of_one in zip(together, results([bank], thresholds[index, None]), strict=True):
            assert torch.equal(of_all[index], of_one[0])


def test_agrees_with_the_definition_on_a_wide_layer(ops):
    w = weight((512, 64, 3, 3), scale=0.0085)
    expected = ckrm_kernels.pairwise_psi(w.double())
    assert (ops.pairwise_psi(w, *DEFAULT.arguments).double() - expected).abs().max() < 1e-5


# ---- the device ------------------------------------------------------------------------------------------------------


def test_the_same_bits_every_time(gpu_backend):
    w = weight((300, 100, 3, 3)).to(GPU).requires_grad_()
    soft = getattr(torch.ops, f"ckrm_{gpu_backend}").soft_redundancy
    banks, thresholds = [w.detach()[: 300 - 7 * index] for index in range(40)], torch.full((40,), 0.3, device=GPU)
    results = []
    for _ in range(5):
        omega = ckrm_kernels.pairwise_psi(w, backend=gpu_backend)
        (gradient,) = torch.autograd.grad(omega.square().sum(), w)
        values, gradients = soft(banks, thresholds, 0.1, True, *DEFAULT.arguments)
        results.append((omega.detach(), gradient, values, *gradients))
    for again in results[1:]:
        assert all(map(torch.equal, again, results[0]))


def assert_captured(call, weights):
    """A graph that captured the call gives of new weights what the call gives. call: gives several tensors"""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for index, w in enumerate(weights):
        w.copy_(weight(tuple(w.shape), seed=10 + index))
    graph.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, captured, call()))


def test_captured_in_a_graph(gpu_backend):
    w = weight((130, 40, 3, 3)).to(GPU)
    assert_captured(lambda: [ckrm_kernels.pairwise_psi(w, backend=gpu_backend)], [w])


def test_soft_shares_of_computed_weights_are_captured_in_a_graph(gpu_backend):
    """A capture gives the weights new addresses."""
    namespace = getattr(torch.ops, f"ckrm_{gpu_backend}")
    shapes = [(130, 40, 3, 3), (64, 9, 3, 3), (70, 3, 7, 7), (33, 5, 1)]
    weights = [weight(shape).to(GPU) for shape in shapes * 5]
    thresholds = torch.full((len(weights),), 0.3, device=GPU)

    def call():
        values, gradients = namespace.soft_redundancy(
            [2 * w for w in weights], thresholds, 0.1, True, *DEFAULT.arguments
        )
        return [values, *gradients]

    assert_captured(call, weights)


@pytest.mark.parametrize("gpu_backend", ["cuda"], indirect=True)  # Triton's tables of counts hold addresses
def test_counts_of_computed_weights_are_captured_in_a_graph(gpu_backend):
    weights, edges = [weight((64, 9, 3, 3)).to(GPU) for _ in range(20)], torch.tensor([0.1, 0.3, 0.6], device=GPU)
    assert_captured(
        lambda: [torch.ops.ckrm_cuda.psi_counts([2 * w for w in weights], edges, *DEFAULT.arguments)], weights
    )


def test_a_first_call_says_that_it_can_not_be_captured():
    w = weight((23, 29, 31)).to(GPU)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="make one before"), torch.cuda.graph(graph):
        ckrm_kernels.pairwise_psi(w, backend="triton")
    torch.cuda.synchronize()
    assert ckrm_kernels.pairwise_psi(w, backend="triton").isfinite().all()


def test_compiled_into_graphs(gpu_backend):
    w = weight((41, 7, 3, 3)).to(GPU)
    compiled = torch.compile(lambda x: ckrm_kernels.pairwise_psi(x, backend=gpu_backend) + 1, mode="reduce-overhead")
    expected = ckrm_kernels.pairwise_psi(w, backend=gpu_backend) + 1
    for _ in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        torch.testing.assert_close(compiled(w), expected)


def test_on_a_side_stream(gpu_backend):
    w = weight((260, 90, 3, 3)).to(GPU)
    soft = getattr(torch.ops, f"ckrm_{gpu_backend}").soft_redundancy
    thresholds = torch.full((20,), 0.3, device=GPU)

    def call(w):
        values, gradients = soft([w + index for index in range(20)], thresholds, 0.1, True, *DEFAULT.arguments)
        return [ckrm_kernels.pairwise_psi(w, backend=gpu_backend), values, *gradients]

    expected = call(w)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        busy = torch.randn(4096, 4096, device=GPU)
        for _ in range(20):
            busy = busy @ busy / 64
        late = w + 0 * busy[0, 0].nan_to_num()
        results = call(late)
    stream.synchronize()
    assert all(map(torch.equal, results, expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_on_a_second_device(gpu_backend):
    w = weight((70, 20, 3, 3))
    first, second = (ckrm_kernels.pairwise_psi(w.to(f"cuda:{index}"), backend=gpu_backend) for index in (0, 1))
    assert second.device.index == 1
    assert torch.equal(first.cpu(), second.cpu())
    with pytest.raises(ValueError, match="one device"):
        ckrm_kernels.cross_psi(w.to("cuda:0"), w.to("cuda:1"))


def test_more_than_2_to_the_31_elements(gpu_backend):
    slices = 3_728_280  # 64 x 3728280 x 9 > 2^31
    if torch.cuda.mem_get_info()[0] < 60 * 2**30:
        pytest.skip("takes 60 GiB of free memory")
    block = weight((64, 8, 3, 3)).to(GPU)
    w = block.half().repeat(1, slices // 8, 1, 1)
    assert w.numel() > 2**31
    expected = ckrm_kernels.pairwise_psi(block.half().cpu().double())
    found = ckrm_kernels.pairwise_psi(w, backend=gpu_backend)
    assert (found.double().cpu() - expected).abs().max() < 1e-5


def test_too_large_for_the_memory(gpu_backend):
    w = torch.empty(1, 1, 1, device=GPU).expand(1 << 20, 1 << 14, 9)
    with pytest.raises(RuntimeError, match=r"memory|GiB"):
        ckrm_kernels.redundancy(w, backend=gpu_backend)
    assert ckrm_kernels.pairwise_psi(weight((4, 2, 3)).to(GPU), backend=gpu_backend).isfinite().all()


def test_a_list_on_the_cpu_with_a_weight_on_the_gpu(gpu_backend):
    with pytest.raises(ValueError, match=r"pairs must be on the weight's device cuda:0, got cpu"):
        ckrm_kernels.psi_of_pairs(weight((4, 2, 3)).to(GPU), torch.tensor([[0, 1]]), backend=gpu_backend)


def test_the_cpu_backend_says_what_it_needs():
    with pytest.raises(RuntimeError, match="it needs a tensor on the CPU"):
        ckrm_kernels.pairwise_psi(weight((4, 2, 3)).to(GPU), backend="cpu")


# ---- operators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.7, "beta": 1.3, "gamma": 2.0, "eps": 1e-2},
        {"alpha": 0.7, "eps": 1e-2, "signed": True},
        {"similarity": "cosine"},
    ],
    ids=str,
)
def test_gradcheck(gpu_backend, options):
    options = {**options, "backend": gpu_backend}
    w = (torch.randn(5, 3, 3, dtype=torch.float64, device=GPU) * 0.5 + 0.3).requires_grad_()
    pairs = some_pairs(5, 6).to(GPU)
    assert torch.autograd.gradcheck(lambda x: ckrm_kernels.pairwise_psi(x, **options), w)
    assert torch.autograd.gradcheck(lambda x: ckrm_kernels.cross_psi(x, x[:2] * 2, **options), w)
    assert torch.autograd.gradcheck(lambda x: ckrm_kernels.psi_of_pairs(x, pairs, **options), w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(gpu_backend, dtype):
    namespace = getattr(torch.ops, f"ckrm_{gpu_backend}")
    w = weight((5, 3, 3), dtype).to(GPU).requires_grad_()
    edges = torch.tensor([0.5], dtype=result_dtype(dtype), device=GPU)
    torch.library.opcheck(namespace.pairwise_psi.default, (w, *DEFAULT.arguments))
    torch.library.opcheck(namespace.cross_psi.default, (w, w.detach()[:2].requires_grad_(), *DEFAULT.arguments))
    torch.library.opcheck(namespace.psi_of_pairs.default, (w, some_pairs(5, 4).to(GPU), *DEFAULT.arguments))
    torch.library.opcheck(namespace.psi_counts.default, ([w.detach(), w.detach()[:, :1]], edges, *DEFAULT.arguments))
    banks, thresholds = [w, w.detach()[:, :1]], edges.repeat(2)
    torch.library.opcheck(namespace.soft_redundancy.default, (banks, thresholds, 0.1, True, *DEFAULT.arguments))


@pytest.mark.parametrize("forced", [True, False])
def test_compiled_whole(gpu_backend, forced):
    w = weight((70, 9, 3, 3)).to(GPU).requires_grad_()
    loss = lambda x: ckrm_kernels.pairwise_psi(x, backend=gpu_backend if forced else None).relu().square().sum()  # noqa: E731
    (expected,) = torch.autograd.grad(loss(w), w)
    (found,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(w), w)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_autocast_leaves_float32(gpu_backend):
    w = weight((6, 3, 3, 3)).to(GPU)
    with torch.autocast("cuda", torch.bfloat16):
        assert ckrm_kernels.pairwise_psi(w, backend=gpu_backend).dtype == torch.float32


# ---- whole models ----------------------------------------------------------------------------------------------------


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 7), nn.Conv2d(64, 130, 3), nn.BatchNorm2d(130), nn.Conv2d(130, 32, 1),
        nn.Conv2d(32, 64, 3, groups=4), nn.Conv2d(64, 64, 3, groups=64), nn.ConvTranspose2d(64, 20, 3),
    )  # fmt: skip


@pytest.mark.parametrize("details", [True, False])
def test_measure_agrees_with_the_cpu(gpu_backend, details):
    on_cpu = model()
    expected = ckrm_kernels.measure(copy.deepcopy(on_cpu).double(), 0.3, details=details)
    found = ckrm_kernels.measure(on_cpu.to(GPU), 0.3, details=details, backend=gpu_backend)
    for row, exact in zip(found.layers, expected.layers, strict=True):
        assert (row.name, row.status, row.reason, row.pairs) == (exact.name, exact.status, exact.reason, exact.pairs)
        if row.redundancy is not None:
            assert abs(row.redundancy - exact.redundancy) * row.pairs < 1.5


def test_measure_picks_triton():
    assert backends.gpu_backend(0, False) == "triton"
    counts = torch.ops.ckrm.psi_counts([weight((9, 3, 3)).to(GPU)], torch.tensor([0.5], device=GPU), *DEFAULT.arguments)
    assert counts.sum() == 36


def test_dispatch_by_device_differentiates():
    w = weight((9, 3, 3)).to(GPU).requires_grad_()
    (found,) = torch.autograd.grad(torch.ops.ckrm.pairwise_psi(w, *DEFAULT.arguments).sum(), w)
    exact = w.detach().cpu().double().requires_grad_()
    (expected,) = torch.autograd.grad(reference.pairwise_psi(exact, Similarity("psi", *DEFAULT)).sum(), exact)
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
