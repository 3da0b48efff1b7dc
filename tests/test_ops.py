"""What the operators promise beside their values: the same bits every time, little memory, torch.library's rules."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from compare import DTYPES, ops, poisoned, some_pairs, weight
from definition import Psi
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ckrm_kernels import cross_psi, pairwise_psi, psi_of_pairs
from ckrm_kernels.ops import by_device, result_dtype
from ckrm_kernels.similarity import Similarity

pytestmark = pytest.mark.usefixtures("cpu_kernels")

DEFAULT = Psi()
NAMES = [
    "pairwise_psi",
    "pairwise_psi_backward",
    "cross_psi",
    "cross_psi_backward",
    "psi_of_pairs",
    "psi_of_pairs_backward",
    "psi_counts",
    "cross_psi_counts",
]


# ---- the same bits every time ----------------------------------------------------------------------------------------


def everything(w: torch.Tensor, psi: Psi) -> list[torch.Tensor]:
    """The results of all operators on w, with fixed gradients."""
    filters, dtype = w.shape[0], result_dtype(w.dtype)
    half, pairs = w[: filters // 2], some_pairs(filters, 3 * filters)
    generator = torch.Generator().manual_seed(1)
    shapes = (filters * (filters - 1) // 2,), (filters // 2, filters), (3 * filters,)
    grads = [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]
    edges = torch.tensor([0.1, 0.3, 0.6], dtype=dtype)
    return [
        ops.pairwise_psi(w, *psi.arguments),
        ops.cross_psi(half, w, *psi.arguments),
        ops.psi_of_pairs(w, pairs, *psi.arguments),
        ops.psi_counts([w], edges, *psi.arguments),
        ops.cross_psi_counts(half, w, edges, *psi.arguments),
        ops.pairwise_psi_backward(grads[0], w, *psi.arguments),
        *ops.cross_psi_backward(grads[1], half, w, *psi.arguments),
        ops.psi_of_pairs_backward(grads[2], w, pairs, *psi.arguments),
        *ops.soft_redundancy([w, half], edges[1:], 0.1, True, *psi.arguments)[1],
    ]


CASES = [
    (weight((130, 33, 3, 3)), DEFAULT),
    (weight((65, 9, 3, 3), torch.float64), DEFAULT),
    (weight((33, 17, 7, 7), torch.bfloat16), Psi(0.5, 2.0, 0.5, 1e-6)),
    (weight((200, 40, 1)), DEFAULT),
    (weight((40, 5, 2)), Psi(eps=0.0)),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_bitwise_the_same_whatever_the_threads(case, threads):
    threads(1)
    expected = everything(*CASES[case])
    for count in (1, 2, 3, 4, 4):
        threads(count)
        noise = [torch.full((n,), math.nan) for n in (100, 10_000, 1_000_000)]
        del noise  # freed memory full of NaN, for whoever takes it next
        with poisoned():
            actual = everything(*CASES[case])
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(a, e), f"{count} threads"


def test_calls_from_several_threads_at_once():
    expected = [everything(*case) for case in CASES]
    with ThreadPoolExecutor(4) as pool:
        for case, actual in enumerate(pool.map(lambda k: everything(*CASES[k]), list(range(len(CASES))) * 4)):
            for a, e in zip(actual, expected[case % len(CASES)], strict=True):
                assert torch.equal(a, e)


def run_everything(tmp_path: Path, **environment: str) -> list[list[torch.Tensor]]:
    """`everything` on CASES in a process of its own, under other environment variables."""
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch, test_ops
        from ckrm_kernels import native
        assert native.load_cpu(), native.cpu_failure()
        torch.save([test_ops.everything(*case) for case in test_ops.CASES], sys.argv[1])
    """
    out = tmp_path / "results.pt"
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(out)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parent.parent,
        check=True,
    )
    return torch.load(out)


def test_bitwise_independent_of_what_malloc_returns(tmp_path):
    """glibc fills what it hands out with one byte and what it takes back with its complement."""
    for actual, case in zip(run_everything(tmp_path, MALLOC_PERTURB_="65"), CASES, strict=True):
        for a, e in zip(actual, everything(*case), strict=True):
            assert torch.equal(a, e)


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_every_instruction_set(capability, tmp_path):
    if ops.cpu_capability() == capability:
        pytest.skip("the one that the other tests run on")
    for (w, psi), actual in zip(CASES, run_everything(tmp_path, ATEN_CPU_CAPABILITY=capability), strict=True):
        for number, (a, e) in enumerate(zip(actual, everything(w, psi), strict=True)):
            if number == 3:  # counts: values on either side of an edge may change places
                assert a.sum() == e.sum()
                assert (a - e).abs().sum() <= 1e-3 * e.sum()
            elif number < 4:
                assert (a - e).abs().max() <= (1e-11 if w.dtype == torch.float64 else 1e-4)
            else:
                atol = 1e-9 if w.dtype == torch.float64 else 1e-2
                assert (a.double() - e.double()).abs().median() <= atol * e.double().abs().max()


# ---- memory ----------------------------------------------------------------------------------------------------------


MEBIBYTE = 2**20


def memory(field: str) -> int:
    """A size of this process, in bytes: VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(field + ":")[1].split()[0])


def peak_growth(call) -> int:
    """Bytes that a call takes at its peak, its result included."""
    call()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    except OSError:
        pytest.skip("this system does not tell a process its peak memory")
    before = memory("VmRSS")
    call()
    return memory("VmHWM") - before


def test_counts_use_no_memory_that_grows_with_the_pairs():
    w, edges = torch.randn(6000, 2, 3), torch.tensor([0.6])  # Omega would take 69 MiB
    assert peak_growth(lambda: ops.psi_counts([w], edges, *DEFAULT.arguments)) < 8 * MEBIBYTE


@pytest.mark.parametrize("name", NAMES)
def test_peak_memory_is_at_most_twice_the_weight(name):
    """Beyond inputs and outputs: 18 MiB of weight, few pairs."""
    w, pairs, grad = torch.randn(64, 8192, 3, 3), torch.tensor([[0, 1], [1, 2]]), torch.randn(2016)
    call, outputs = {
        "pairwise_psi": (lambda: ops.pairwise_psi(w, *DEFAULT.arguments), 0),
        "pairwise_psi_backward": (lambda: ops.pairwise_psi_backward(grad, w, *DEFAULT.arguments), 1),
        "cross_psi": (lambda: ops.cross_psi(w[:32], w[32:], *DEFAULT.arguments), 0),
        "cross_psi_backward": (
            lambda: ops.cross_psi_backward(grad[:1024].view(32, 32), w[:32], w[32:], *DEFAULT.arguments),
            1,
        ),
        "psi_of_pairs": (lambda: ops.psi_of_pairs(w, pairs, *DEFAULT.arguments), 0),
        "psi_of_pairs_backward": (lambda: ops.psi_of_pairs_backward(grad[:2], w, pairs, *DEFAULT.arguments), 1),
        "psi_counts": (lambda: ops.psi_counts([w], torch.tensor([0.6]), *DEFAULT.arguments), 0),
        "cross_psi_counts": (
            lambda: ops.cross_psi_counts(w[:32], w[32:], torch.tensor([0.6]), *DEFAULT.arguments),
            0,
        ),
    }[name]
    assert peak_growth(call) < (2 + outputs) * w.numel() * 4 + 4 * MEBIBYTE


# ---- torch.library ---------------------------------------------------------------------------------------------------


def arguments(name: str, dtype: torch.dtype, shape: tuple[int, ...], requires_grad: bool = True) -> tuple:
    """Arguments of an operator by its name."""
    w, result = weight(shape, dtype, 1.0), result_dtype(dtype)
    b, pairs, filters = weight((3, *shape[1:]), dtype, 1.0, seed=3), some_pairs(shape[0], 7), shape[0]
    w.requires_grad_(requires_grad)
    b.requires_grad_(requires_grad)
    return {
        "pairwise_psi": (w,),
        "pairwise_psi_backward": (torch.randn(filters * (filters - 1) // 2, dtype=result), w.detach()),
        "cross_psi": (w, b),
        "cross_psi_backward": (torch.randn(filters, 3, dtype=result), w.detach(), b.detach()),
        "psi_of_pairs": (w, pairs),
        "psi_of_pairs_backward": (torch.randn(7, dtype=result), w.detach(), pairs),
        "psi_counts": ([w.detach(), b.detach(), b.detach()[:0, ..., :1]], torch.tensor([0.2, 0.6], dtype=result)),
        "cross_psi_counts": (w.detach(), b.detach(), torch.tensor([0.2, 0.6], dtype=result)),
    }[name] + DEFAULT.arguments


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    operator = getattr(ops, name).default
    result = torch.library.opcheck(operator, arguments(name, torch.float32, (4, 2, 3)))
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_fake_and_meta_results_look_like_real_ones(name, dtype):
    operator = getattr(ops, name)

    def of_tensors(args, function):
        return tree_map_only(torch.Tensor, function, args)

    def looks(result):
        results = result if isinstance(result, (tuple, list)) else (result,)
        return [(r.shape, r.stride(), r.dtype, r.is_contiguous()) for r in results]

    for shape in ((5, 3, 3, 3), (4, 2), (2, 1, 1)):
        plain = arguments(name, dtype, shape, requires_grad=False)
        variants = [plain]
        if len(shape) == 4:
            variants.append(of_tensors(plain, lambda x: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x))
        for args in variants:
            real = looks(operator(*args))
            meta = looks(operator(*of_tensors(args, lambda x: x.to("meta"))))
            with FakeTensorMode() as mode:
                fake = looks(operator(*of_tensors(args, mode.from_tensor)))
            assert real == meta == fake


@pytest.mark.parametrize("psi", [DEFAULT, Psi(1.0, 0.5, 2.0, 1e-2), Psi(0.5, 0.5, 0.5, 0.0)], ids=str)
@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (4, 9, 2), (5, 3)], ids=str)
def test_gradcheck(shape, psi):
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, *shape[1:], dtype=torch.float64, requires_grad=True)
    pairs = some_pairs(shape[0], 6)
    assert torch.autograd.gradcheck(lambda w: ops.pairwise_psi(w, *psi.arguments), w)
    assert torch.autograd.gradcheck(lambda w, b: ops.cross_psi(w, b, *psi.arguments), (w, b))
    assert torch.autograd.gradcheck(lambda w: ops.psi_of_pairs(w, pairs, *psi.arguments), w)


FUNCTIONS = {
    "pairwise_psi": lambda w: pairwise_psi(w),
    "square": lambda w: pairwise_psi(w, layout="square"),
    "scale_free": lambda w: pairwise_psi(w, scale_free=True, alpha=1.0),
    "cross_psi": lambda w: cross_psi(w, w[:2]),
    "psi_of_pairs": lambda w: psi_of_pairs(w, torch.tensor([[0, 1], [2, 0]])),
    "in a loss": lambda w: (pairwise_psi(w * 2).relu() - 0.3).square().mean() + w.sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_as_one_graph(name):
    torch._dynamo.reset()
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")
    for filters in (5, 7, 9):  # the second size makes the dimension dynamic
        w = weight((filters, 3, 3, 3), torch.float64).requires_grad_()
        expected, actual = FUNCTIONS[name](w), compiled(w)
        torch.testing.assert_close(actual, expected)
        grad = torch.randn_like(expected)
        (expected,) = torch.autograd.grad(expected, w, grad)
        (actual,) = torch.autograd.grad(actual, w, grad)
        torch.testing.assert_close(actual, expected)


def test_counts_of_many_banks_compile_as_one_graph():
    torch._dynamo.reset()
    compiled = torch.compile(lambda *arguments: ops.psi_counts(*arguments) + 1, fullgraph=True, backend="aot_eager")
    for filters in (5, 7, 9):
        banks = [weight((filters, 3, 3, 3)), weight((4, filters)), weight((1, 2, 2))]
        assert torch.equal(
            compiled(banks, torch.tensor([0.2]), *DEFAULT.arguments),
            ops.psi_counts(banks, torch.tensor([0.2]), *DEFAULT.arguments) + 1,
        )


def test_compiles_a_module_as_one_graph():
    torch._dynamo.reset()
    conv = torch.nn.Conv2d(4, 6, 3, groups=2)
    compiled = torch.compile(lambda m: pairwise_psi(m).sum(), fullgraph=True, backend="aot_eager")
    compiled(conv).backward()
    actual, conv.weight.grad = conv.weight.grad, None
    pairwise_psi(conv).sum().backward()
    torch.testing.assert_close(actual, conv.weight.grad)


def test_compiles_with_inductor():
    torch._dynamo.reset()
    w = weight((7, 3, 3, 3)).requires_grad_()
    expected, actual = pairwise_psi(w), torch.compile(pairwise_psi, fullgraph=True)(w)
    assert torch.equal(actual, expected)
    grad = torch.randn_like(expected)
    assert torch.equal(torch.autograd.grad(actual, w, grad)[0], torch.autograd.grad(expected, w, grad)[0])


class Watching(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class WatchingTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is ops.pairwise_psi.default:
            return "seen"
        return super().__torch_function__(func, types, args, kwargs)


def test_a_call_without_a_gradient_is_seen_like_any_other():
    """Such a call passes autograd by; nothing else may be passed by, nor after a call that fails."""
    w = weight((4, 2, 3, 3))
    with Watching() as mode:
        pairwise_psi(w)
    assert ops.pairwise_psi.default in mode.seen
    assert pairwise_psi(w.as_subclass(WatchingTensor)) == "seen"
    with pytest.raises(RuntimeError, match="slices of one number"):
        by_device.cross_psi(w, w[:, :1], Similarity())
    assert pairwise_psi(w.clone().requires_grad_()).requires_grad
    with torch.no_grad():
        assert not pairwise_psi(w.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("name", ["pairwise_psi", "cross_psi", "psi_of_pairs"])
def test_double_backward_refuses(name):
    args = arguments(name, torch.float64, (5, 3, 3, 3))
    out = getattr(ops, name)(*args)
    (grad,) = torch.autograd.grad(out.sum(), args[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no double backward.*backend='reference'"):
        grad.sum().backward()


@pytest.mark.parametrize("name", ["pairwise_psi", "cross_psi", "psi_of_pairs"])
def test_changing_a_saved_weight_in_place_raises(name):
    args = arguments(name, torch.float64, (5, 3, 3, 3), requires_grad=False)
    leaf = args[0].clone().requires_grad_()
    w = leaf * 1
    out = getattr(ops, name)(w, *args[1:])
    w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
