"""Which backend computes on what, and what is said where one can't."""

from __future__ import annotations

import builtins
import warnings

import pytest
import torch
from definition import Psi
from torch._subclasses.fake_tensor import FakeTensorMode

from ckrm_kernels import backends, native, ops

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _forget():
    """What was found out of this machine is not what a test pretends."""
    caches = (backends.gpu_backend, backends._triton_failure, backends._cuda_failure)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def failing(monkeypatch, **failures):
    """Pretends that these backends can't run, for these reasons, and that the others can."""
    monkeypatch.setattr(backends, "why_not", lambda backend, device: failures.get(backend, ""))


def test_triton_is_the_first_choice_on_a_gpu(monkeypatch):
    failing(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.gpu_backend(0, False) == "triton"


def test_cuda_takes_over_with_one_warning(monkeypatch):
    failing(monkeypatch, triton="Triton is missing")
    with pytest.warns(
        RuntimeWarning, match=r"the CUDA C\+\+ kernels on cuda:0 \(triton: Triton is missing\)"
    ) as caught:
        assert [backends.gpu_backend(0, False) for _ in range(3)] == ["cuda"] * 3
    assert len(caught) == 1


def test_the_reference_is_last_and_both_reasons_are_told(monkeypatch):
    failing(monkeypatch, triton="too old", cuda="there is no nvcc")
    with pytest.warns(RuntimeWarning, match=r"plain PyTorch.*\(triton: too old; cuda: there is no nvcc\)"):
        assert backends.gpu_backend(0, False) == "reference"
    assert not backends.has_kernels(GPU)


def test_slices_too_long_for_triton_take_the_next_backend(monkeypatch):
    failing(monkeypatch)
    with FakeTensorMode():
        short, long = (torch.empty(2, 1, positions, device="cuda:0") for positions in (2**13, 2**13 + 1))
    assert not backends.are_long([short])
    assert backends.gpu_backend(0, backends.are_long([short])) == "triton"
    with pytest.warns(
        RuntimeWarning, match=r"CUDA C\+\+.*\(triton: it takes slices of at most 8192 numbers\)"
    ) as caught:
        assert [backends.gpu_backend(0, backends.are_long([short, long])) for _ in range(2)] == ["cuda"] * 2
    assert len(caught) == 1


def test_every_gpu_is_asked_on_its_own(monkeypatch):
    monkeypatch.setattr(backends, "why_not", lambda backend, device: "too old" if device.index == 1 else "")
    assert backends.gpu_backend(0, False) == "triton"
    with pytest.warns(RuntimeWarning, match="on cuda:1"):
        assert backends.gpu_backend(1, False) == "reference"


def test_triton_that_is_not_installed(monkeypatch):
    real = builtins.__import__

    def without_triton(name, *arguments):
        if name.startswith("triton") or (name == "ckrm_kernels" and "kernels" in (arguments[2] or ())):
            raise ModuleNotFoundError("No module named 'triton'")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_triton)
    failure = backends.why_not("triton", GPU)
    assert failure == "Triton is missing (No module named 'triton'): pip install \"ckrm-kernels[triton]\""


def test_a_kernel_that_does_not_compile_is_a_reason(monkeypatch):
    kernels = pytest.importorskip("ckrm_kernels.kernels", reason="Triton is not installed")

    def broken(*arguments):
        raise RuntimeError("PTX assembly aborted")

    monkeypatch.setattr(kernels, "INTERPRETED", False)
    monkeypatch.setattr(kernels.operators, "pairwise_psi", broken)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    real = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *arguments, device=None, **more: real(*arguments, **more))
    assert "does not compile or run them (RuntimeError: PTX assembly aborted)" in kernels.failure(GPU)


def test_a_gpu_before_ampere_is_a_reason(monkeypatch):
    kernels = pytest.importorskip("ckrm_kernels.kernels", reason="Triton is not installed")
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert kernels.failure(GPU) == "Tesla T4 is older than the Ampere generation"


@pytest.mark.parametrize(
    ("capability", "version", "runs"),
    [
        ((9, 0), "3.6.0", True),
        ((10, 0), "3.6.0", False),
        ((10, 3), "3.7.1", False),
        ((10, 0), "3.8.0", True),
        ((11, 0), "3.7.0", False),
        ((12, 0), "3.6.0", True),
    ],
)
def test_a_triton_that_compiles_races_for_a_gpu_is_a_reason(monkeypatch, capability, version, runs):
    kernels = pytest.importorskip("ckrm_kernels.kernels", reason="Triton is not installed")
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    monkeypatch.setattr(kernels.triton, "__version__", version)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(kernels.operators, "pairwise_psi", lambda *arguments: torch.tensor([0.5]))
    real = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *arguments, device=None, **more: real(*arguments, **more))
    expected = "" if runs else f"Triton {version} compiles races for a GPU: 3.8 or newer is needed there"
    assert kernels.failure(GPU) == expected


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_a_first_call_in_a_captured_graph_decides_nothing(monkeypatch, backend):
    captured = [True]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: captured[0])
    monkeypatch.setattr(native, "cuda_failure", lambda: "no library")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="can't be captured in a CUDA graph: make one before"):
            backends.why_not(backend, GPU)
    captured[0] = False
    assert "captured" not in backends.why_not(backend, GPU)


def test_why_backends_can_not_run_here():
    assert backends.why_not("reference", GPU) == ""
    assert backends.why_not("cpu", GPU) == "it needs a tensor on the CPU"
    assert backends.why_not("cuda", CPU) == "it needs a tensor on an NVIDIA GPU"


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_torch_without_cuda_is_a_reason():
    assert backends.why_not("cuda", GPU) == "this torch has no CUDA"


def test_a_forced_backend_that_can_not_run_raises(monkeypatch):
    failing(monkeypatch, triton="too old")
    with pytest.raises(RuntimeError, match='backend="triton" can\'t run on cpu: too old'):
        backends.implementation("triton", torch.zeros(2, 1, 3))


def test_meta_tensors_take_the_operators_that_dispatch_by_device():
    assert backends.implementation(None, torch.zeros(2, 1, 3, device="meta")) is ops.by_device


def test_cpu_tensors_without_a_library_take_the_reference(monkeypatch):
    monkeypatch.setattr(native, "load_cpu", lambda: False)
    assert backends.implementation(None, torch.zeros(2, 1, 3)) is backends.BY_DEFINITION


@pytest.mark.parametrize("namespace", ["ckrm", "ckrm_triton", "ckrm_cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fakes_of_gpu_tensors(namespace, dtype):
    """What torch.compile traces with on a machine that has a GPU."""
    operators = getattr(torch.ops, namespace)
    with FakeTensorMode():
        w, other = (torch.empty(filters, 3, 3, 3, dtype=dtype, device="cuda") for filters in (5, 2))
        pairs = torch.empty(7, 2, dtype=torch.int64, device="cuda")
        result = ops.result_dtype(dtype)
        omega = operators.pairwise_psi(w, *Psi().arguments)
        assert (omega.shape, omega.dtype, omega.device.type) == ((10,), result, "cuda")
        assert operators.cross_psi(w, other, *Psi().arguments).shape == (5, 2)
        assert operators.psi_of_pairs(w, pairs, *Psi().arguments).shape == (7,)
        for banks in ([w, other], []):
            counts = operators.psi_counts(banks, torch.empty(4, dtype=result, device="cuda"), *Psi().arguments)
            assert (counts.shape, counts.dtype, counts.device.type) == ((len(banks), 6), torch.int64, "cuda")
        gradient = operators.pairwise_psi_backward(omega, w, *Psi().arguments)
        assert (gradient.shape, gradient.dtype, gradient.device.type) == (w.shape, dtype, "cuda")


@pytest.mark.parametrize("long", [False, True])
def test_dispatch_by_device_asks_of_weights_alone(monkeypatch, long):
    """The kernel of torch.ops.ckrm.* for GPUs, which the fakes never reach."""
    asked = []
    monkeypatch.setattr(backends, "gpu_backend", lambda index, long: asked.append(long) or "cuda")
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with FakeTensorMode():
        w = torch.empty(5, 3, 2**13 + long, device="cuda:0")
        edges, pairs = torch.empty(4, device="cuda:0"), torch.empty(7, 2, dtype=torch.int64, device="cuda:0")
        two = torch.empty(2, device="cuda:0")
        tensors = {
            "pairwise_psi": (w,),
            "pairwise_psi_backward": (torch.empty(10, device="cuda:0"), w),
            "cross_psi": (w, w),
            "cross_psi_backward": (torch.empty(5, 5, device="cuda:0"), w, w),
            "psi_of_pairs": (w, pairs),
            "psi_of_pairs_backward": (torch.empty(7, device="cuda:0"), w, pairs),
            "psi_counts": ([w, w], edges),
            "cross_psi_counts": (w, w, edges),
            "soft_redundancy": ([w, w], two, 0.05, True),
            "soft_redundancy_backward": (two, [w, w], [w, w]),
        }
        for name in ops.SCHEMAS:
            operator = getattr(torch.ops.ckrm, name).default
            similarity = () if name == "soft_redundancy_backward" else Psi().arguments
            operator.redispatch(key, *tensors[name], *similarity)
    assert asked == [long] * len(ops.SCHEMAS)
