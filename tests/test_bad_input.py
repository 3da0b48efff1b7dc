from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import torch
from definition import Psi, omega
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ckrm_kernels import (
    chance_redundancy,
    cross_psi,
    estimate_redundancy,
    measure,
    native,
    pairwise_psi,
    psi_histogram,
    psi_of_pairs,
    redundancy,
    redundant_groups,
)

PAIRS = torch.tensor([[0, 1]])
FUNCTIONS_OF_WEIGHT = {
    "pairwise_psi": pairwise_psi,
    "psi_of_pairs": lambda weight, **options: psi_of_pairs(
        weight, PAIRS.to(getattr(weight, "device", "cpu")), **options
    ),
    "redundancy": redundancy,
    "psi_histogram": psi_histogram,
}


def good() -> torch.Tensor:
    return torch.randn(4, 3, 3, 3)


def quietly(make):
    """The tensor that make() returns, without torch's warnings about its kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def exactly(*words: str) -> str:
    """A pattern that finds the words in this order."""
    return ".*".join(re.escape(word) for word in words)


FLOATS = "must be float32, float64, float16 or bfloat16, got"
# What is given, the error, and what its message says after the argument's name.
WEIGHTS = {
    "int64": (lambda: torch.zeros(4, 3, 3, dtype=torch.int64), TypeError, (FLOATS, "int64")),
    "bool": (lambda: torch.zeros(4, 3, 3, dtype=torch.bool), TypeError, (FLOATS, "bool")),
    "complex": (lambda: torch.zeros(4, 3, 3, dtype=torch.complex64), TypeError, (FLOATS, "complex64")),
    "float8": (lambda: torch.zeros(4, 3, 3).to(torch.float8_e4m3fn), TypeError, (FLOATS, "float8_e4m3fn")),
    "no dimension": (lambda: torch.tensor(1.0), ValueError, ("must have the shape (F2, F1, *K), got ()",)),
    "one dimension": (lambda: torch.zeros(4), ValueError, ("must have the shape (F2, F1, *K), got (4,)",)),
    "no slices": (lambda: torch.zeros(4, 0, 3), ValueError, ("without slices", "(4, 0, 3)")),
    "no positions": (lambda: torch.zeros(4, 3, 0), ValueError, ("without slices", "(4, 3, 0)")),
    "sparse": (lambda: torch.zeros(4, 3).to_sparse(), TypeError, ("dense", "sparse_coo", "to_dense")),
    "sparse rows": (lambda: quietly(torch.eye(3).to_sparse_csr), TypeError, ("dense", "sparse_csr")),
    "mkldnn": (lambda: torch.randn(4, 3).to_mkldnn(), TypeError, ("dense", "mkldnn")),
    "nested": (
        lambda: quietly(lambda: torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(3, 3)])),
        TypeError,
        ("dense", "nested"),
    ),
    "quantized": (
        lambda: quietly(lambda: torch.quantize_per_tensor(torch.randn(4, 3, 3), 0.1, 0, torch.qint8)),
        TypeError,
        ("dense", "quantized", "dequantize"),
    ),
    "list": (lambda: [[1.0, 2.0]], TypeError, ("must be a tensor", "got list")),
    "NumPy's whole numbers": (lambda: np.zeros((4, 3), np.int32), TypeError, (FLOATS, "int32")),
    "NumPy's objects": (lambda: np.zeros((4, 3), object), TypeError, ("a type that torch has", "got object")),
    "None": (lambda: None, TypeError, ("must be a tensor", "got NoneType")),
    "class": (lambda: nn.Conv2d, TypeError, ("must be a tensor", "got type")),
}
MODULES = {
    "without a weight": (nn.ReLU, TypeError, exactly("ReLU", "no filters", "convolutions and Linear")),
    "container": (lambda: nn.Sequential(nn.Conv2d(1, 1, 1)), TypeError, exactly("Sequential", "no filters")),
    "norm": (lambda: nn.BatchNorm2d(3), TypeError, exactly("BatchNorm2d", "no filters")),
    "embedding": (lambda: nn.Embedding(4, 3), TypeError, exactly("Embedding", "no filters")),
    "lazy": (lambda: nn.LazyConv2d(4, 3), ValueError, exactly("LazyConv2d", "lazy", "run a batch")),
    "lazy linear": (lambda: nn.LazyLinear(4), ValueError, exactly("LazyLinear", "lazy", "run a batch")),
}


@pytest.mark.parametrize("function", FUNCTIONS_OF_WEIGHT)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights(kind, function):
    make, error, words = WEIGHTS[kind]
    with pytest.raises(error, match=exactly("weight", *words)):
        FUNCTIONS_OF_WEIGHT[function](make())


@pytest.mark.parametrize("kind", WEIGHTS)
def test_both_weights_of_cross_psi(kind):
    make, error, words = WEIGHTS[kind]
    with pytest.raises(error, match="^a .*" + exactly(*words)):
        cross_psi(make(), good())
    with pytest.raises(error, match="^b .*" + exactly(*words)):
        cross_psi(good(), make())


@pytest.mark.parametrize("function", FUNCTIONS_OF_WEIGHT)
@pytest.mark.parametrize("kind", MODULES)
def test_modules(kind, function):
    make, error, pattern = MODULES[kind]
    with pytest.raises(error, match=pattern):
        FUNCTIONS_OF_WEIGHT[function](make())


MISMATCHES = {
    "slices": ((4, 3, 3, 3), (4, 2, 3, 3), "(3, 3, 3) and (2, 3, 3)"),
    "positions": ((4, 3, 3, 3), (4, 3, 3, 2), "(3, 3, 3) and (3, 3, 2)"),
    "dimensions": ((4, 3, 9), (4, 3, 3, 3), "(3, 9) and (3, 3, 3)"),
    "empty but different": ((0, 3, 3), (4, 3, 2), "(3, 3) and (3, 2)"),
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_mismatched_a_and_b(kind):
    left, right, shapes = MISMATCHES[kind]
    with pytest.raises(ValueError, match=exactly("a and b", "slices", shapes)):
        cross_psi(torch.zeros(left), torch.zeros(right))


def test_a_and_b_of_different_kinds():
    with pytest.raises(TypeError, match=exactly("a and b", "one dtype", "float32", "float64")):
        cross_psi(good(), good().double())
    with pytest.raises(ValueError, match=exactly("a and b", "one device", "cpu and meta")):
        cross_psi(good(), good().to("meta"))
    for module in (nn.Conv2d(3, 4, 3), nn.Linear(3, 4)):
        with pytest.raises(TypeError, match=exactly("a must be a tensor", type(module).__name__)):
            cross_psi(module, good())


NUMBERS = {
    "negative": (-1.0, ValueError),
    "slightly negative": (-1e-300, ValueError),
    "NaN": (math.nan, ValueError),
    "infinite": (math.inf, ValueError),
    "too large for a float": (10**400, ValueError),
    "tensor": (torch.tensor(1.0), (TypeError, ValueError)),
    "text": ("1", TypeError),
    "None": (None, TypeError),
    "complex": (1j, TypeError),
    "list": ([1.0], TypeError),
}


@pytest.mark.parametrize("function", [*FUNCTIONS_OF_WEIGHT, "cross_psi"])
@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("name", ["alpha", "beta", "gamma", "eps"])
def test_exponents_and_eps(name, kind, function):
    value, error = NUMBERS[kind]
    call = FUNCTIONS_OF_WEIGHT.get(function, lambda weight, **options: cross_psi(weight, weight, **options))
    with pytest.raises(error, match=exactly(name, "number >= 0", "got")):
        call(good(), **{name: value})


@pytest.mark.parametrize("value", [0, 1, 0.0, True, np.float64(0.5), np.float32(0.5), np.int64(1)], ids=repr)
@pytest.mark.parametrize("name", ["alpha", "beta", "gamma", "eps"])
def test_exponents_and_eps_may_be_any_real_number(name, value, backend):
    w = good()
    actual = pairwise_psi(w, backend=backend, **{name: value})
    assert torch.equal(actual, pairwise_psi(w, backend=backend, **{name: float(value)}))


SIMILARITIES = {
    "unknown": ({"similarity": "ssim"}, ValueError, ("similarity must be 'psi' or 'cosine', got 'ssim'",)),
    "of other letters": ({"similarity": "Cosine"}, ValueError, ("similarity must be 'psi' or 'cosine'", "'Cosine'")),
    "None": ({"similarity": None}, ValueError, ("similarity must be 'psi' or 'cosine', got None",)),
    "a list": ({"similarity": ["psi"]}, (TypeError, ValueError), ("similarity must be",)),
    "an exponent of the cosine": ({"similarity": "cosine", "alpha": 0.5}, ValueError, ("alpha is a parameter of psi",)),
    "eps of the cosine": ({"similarity": "cosine", "eps": 0.0}, ValueError, ("eps is a parameter of psi", "got 0.0")),
    "signed as text": ({"signed": "yes"}, TypeError, ("signed must be True or False, got 'yes'",)),
    "signed as a number": ({"signed": 1}, TypeError, ("signed must be True or False, got 1",)),
    "scale_free as text": ({"scale_free": "no"}, TypeError, ("scale_free must be True or False, got 'no'",)),
    "scale_free as None": ({"scale_free": None}, TypeError, ("scale_free must be True or False, got None",)),
}


@pytest.mark.parametrize("function", [*FUNCTIONS_OF_WEIGHT, "cross_psi", "measure"])
@pytest.mark.parametrize("kind", SIMILARITIES)
def test_similarities(kind, function):
    options, error, words = SIMILARITIES[kind]
    calls = {
        **FUNCTIONS_OF_WEIGHT,
        "cross_psi": lambda weight, **options: cross_psi(weight, weight, **options),
        "measure": lambda weight, **options: measure(nn.Conv2d(3, 4, 3), **options),
    }
    with pytest.raises(error, match=exactly(*words)):
        calls[function](good(), **options)


def spoilt(value: float) -> torch.Tensor:
    """Three filters, of which one holds the value."""
    w = torch.randn(3, 2, 3, 3)
    w[1, 0, 2, 2] = value
    return w


# What each similarity, signed or not, makes of unusual weights: Psi of the pairs (0, 1), (0, 2), (1, 2), None for any.
NAN, X = math.nan, torch.tensor([1.0, -2.0, 3.0])
UNUSUAL = {
    "NaN": (lambda: spoilt(math.nan), {"psi": [NAN, None, NAN], "cosine": [NAN, None, NAN]}),
    "Inf": (lambda: spoilt(math.inf), {"psi": [NAN, None, NAN], "cosine": [NAN, None, NAN]}),
    "squares that overflow": (
        lambda: torch.stack([X, 1e30 * X, -1e30 * X])[:, None],
        {"psi": [None, None, None], "cosine": [1, -1, -1]},
    ),
    "K = 1": (lambda: torch.tensor([2.0, 3.0, -4.0]).view(3, 1, 1), {"psi": [None, None, None], "cosine": [1, -1, -1]}),
    "zeros": (lambda: torch.stack([0 * X, 0 * X, X])[:, None], {"psi": [1, None, None], "cosine": [0, 0, 0]}),
    "only zeros": (lambda: torch.zeros(3, 2, 3, 3), {"psi": [1, 1, 1], "cosine": [0, 0, 0]}),
}


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("options", [{}, {"eps": 0.0}, {"similarity": "cosine"}], ids=str)
def test_similarities_of_unusual_weights(options, signed, kind, backend):
    make, expected_of = UNUSUAL[kind]
    w, name = make().requires_grad_(), options.get("similarity", "psi")
    if backend == "triton" and kind == "squares that overflow":
        pytest.skip("out of float32's range, where GPU kernels give NaN")
    actual = pairwise_psi(w, signed=signed, backend=backend, **options)
    for got, wanted in zip(actual.tolist(), expected_of[name], strict=True):
        if wanted is None:
            assert math.isnan(got) or -1.00001 <= got <= 1.00001
        else:
            wanted = abs(wanted) if not signed else wanted
            assert got == pytest.approx(wanted, abs=1e-5, nan_ok=True)
    actual.nansum().backward()
    if kind not in ("NaN", "Inf", "squares that overflow"):
        assert w.grad.isfinite().all()
        assert not w.grad[(w == 0).flatten(1).all(1)].any() or name == "psi"


@pytest.mark.parametrize("function", [redundancy, estimate_redundancy, chance_redundancy, redundant_groups, measure])
@pytest.mark.parametrize(("threshold", "signed"), [(-0.1, False), (-1.1, True), (1.1, True), (math.nan, True)])
def test_thresholds_of_signed_similarities(threshold, signed, function):
    weight = nn.Conv2d(3, 4, 3) if function is measure else good()
    more = {"num_pairs": 3} if function is estimate_redundancy else {}
    accepted = "[-1, 1]" if signed else "[0, 1]"
    with pytest.raises(ValueError, match=exactly("threshold must lie in", accepted, f"got {threshold}")):
        function(weight, threshold, signed=signed, **more)
    function(weight, abs(threshold) / 2 if threshold == threshold else 0.5, signed=signed, **more)
    if signed:
        function(weight, -0.9, signed=True, **more)


THRESHOLDS = {
    "negative": (-0.1, ValueError, "[0, 1]"),
    "above 1": (1.1, ValueError, "[0, 1]"),
    "NaN": (math.nan, ValueError, "[0, 1]"),
    "infinite": (math.inf, ValueError, "[0, 1]"),
    "one of a list": ([0.5, 2.0], ValueError, "[0, 1]"),
    "one of a tensor": (torch.tensor([0.5, 1.5]), ValueError, "[0, 1]"),
    "NaN in a tensor": (torch.tensor([[0.5, math.nan]]), ValueError, "[0, 1]"),
    "text": ("0.6", TypeError, "number"),
    "None": (None, TypeError, "number"),
    "complex": (1j, TypeError, "number"),
}


@pytest.mark.parametrize("kind", THRESHOLDS)
def test_thresholds(kind):
    threshold, error, accepted = THRESHOLDS[kind]
    with pytest.raises(error, match=exactly("threshold", accepted, "got")):
        redundancy(good(), threshold)


@pytest.mark.parametrize("bins", [0, -1, 2.5, "3", None, True])
def test_bins(bins):
    with pytest.raises(ValueError, match=exactly("bins must be a whole number >= 1, got", repr(bins))):
        psi_histogram(good(), bins)


LISTS = {
    "index too high": (torch.tensor([[0, 1], [0, 4]]), IndexError, ("0 to 3", "4")),
    "index far too high": (torch.tensor([[0, 2**40]]), IndexError, ("0 to 3", str(2**40))),
    "index negative": (torch.tensor([[0, -1]]), IndexError, ("0 to 3", "-1")),
    "one filter twice": (torch.tensor([[0, 1], [2, 2]]), ValueError, ("two different filters",)),
    "int32": (torch.tensor([[0, 1]], dtype=torch.int32), ValueError, ("int64 tensor of shape (P, 2), got", "int32")),
    "float": (torch.tensor([[0.0, 1.0]]), ValueError, ("int64 tensor of shape (P, 2), got", "float32")),
    "three columns": (torch.tensor([[0, 1, 2]]), ValueError, ("shape (P, 2), got", "(1, 3)")),
    "one dimension": (torch.tensor([0, 1]), ValueError, ("shape (P, 2), got", "(2,)")),
    "turned": (torch.tensor([[0, 1, 2], [1, 2, 3]]), ValueError, ("shape (P, 2), got", "(2, 3)")),
    "empty, of one dimension": (torch.zeros(0, dtype=torch.int64), ValueError, ("shape (P, 2), got", "(0,)")),
    "list": ([[0, 1]], ValueError, ("int64 tensor", "got list")),
    "None": (None, ValueError, ("int64 tensor", "got NoneType")),
    "other device": (torch.zeros(1, 2, dtype=torch.int64, device="meta"), ValueError, ("device", "cpu", "meta")),
}


@pytest.mark.parametrize("kind", LISTS)
def test_pairs(kind, backend):
    pairs, error, words = LISTS[kind]
    with pytest.raises(error, match=exactly("pairs", *words)):
        psi_of_pairs(good(), pairs, backend=backend)


def test_pairs_of_a_grouped_module():
    with pytest.raises(ValueError, match=exactly("weight has 2 groups", "one group's weight")):
        psi_of_pairs(nn.Conv2d(4, 4, 3, groups=2), PAIRS)


def test_pairs_where_there_are_none():
    for filters in (0, 1):
        with pytest.raises((IndexError, ValueError), match="pairs"):
            psi_of_pairs(torch.zeros(filters, 3, 3), PAIRS)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("pairs", [[[0, 4]], [[-1, 0]], [[2, 2]], [[0, 2**40]]], ids=str)
def test_the_operators_never_read_outside(pairs):
    """Compiled code skips the check in Python: the kernels have their own."""
    with pytest.raises(RuntimeError, match="pairs must"):
        torch.ops.ckrm.psi_of_pairs(good(), torch.tensor(pairs), *Psi().arguments)
    with pytest.raises(RuntimeError, match="pairs must"):
        torch.ops.ckrm.psi_of_pairs_backward(torch.ones(1), good(), torch.tensor(pairs), *Psi().arguments)


OPERATOR_CALLS = {
    "integer weight": lambda ops: ops.pairwise_psi(good().long(), *Psi().arguments),
    "one dimension": lambda ops: ops.pairwise_psi(torch.zeros(4), *Psi().arguments),
    "no slices": lambda ops: ops.pairwise_psi(torch.zeros(4, 0, 3), *Psi().arguments),
    "mismatched slices": lambda ops: ops.cross_psi(good(), good()[:, :2], *Psi().arguments),
    "mismatched positions": lambda ops: ops.cross_psi(good(), good()[..., :2], *Psi().arguments),
    "mismatched dtypes": lambda ops: ops.cross_psi(good(), good().double(), *Psi().arguments),
    "pairs of int32": lambda ops: ops.psi_of_pairs(good(), PAIRS.int(), *Psi().arguments),
    "edges of two dimensions": lambda ops: ops.psi_counts([good()], torch.rand(1, 2), *Psi().arguments),
    "edges of another dtype": lambda ops: ops.psi_counts([good()], torch.rand(2).double(), *Psi().arguments),
    "banks of two dtypes": lambda ops: ops.psi_counts([good(), good().half()], torch.rand(2), *Psi().arguments),
    "a bank of one dimension": lambda ops: ops.psi_counts([good(), torch.zeros(4)], torch.rand(2), *Psi().arguments),
    "gradient too short": lambda ops: ops.pairwise_psi_backward(torch.ones(5), good(), *Psi().arguments),
    "gradient of another dtype": lambda ops: ops.pairwise_psi_backward(
        torch.ones(6).double(), good(), *Psi().arguments
    ),
    "cross gradient too short": lambda ops: ops.cross_psi_backward(torch.ones(4, 3), good(), good(), *Psi().arguments),
    "cross gradient turned": lambda ops: ops.cross_psi_backward(torch.ones(2, 4), good(), good()[:2], *Psi().arguments),
    "cross gradient, mismatched": lambda ops: ops.cross_psi_backward(
        torch.ones(4, 4), good(), good()[:, :1], *Psi().arguments
    ),
    "pairs gradient too short": lambda ops: ops.psi_of_pairs_backward(torch.ones(0), good(), PAIRS, *Psi().arguments),
}


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("call", OPERATOR_CALLS)
def test_operators_refuse_what_the_functions_never_pass(call):
    with pytest.raises((RuntimeError, NotImplementedError)):
        OPERATOR_CALLS[call](torch.ops.ckrm)


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["full", "Packed", "", None, 1])
def test_layouts(layout):
    with pytest.raises(ValueError, match=exactly('layout must be "packed" or "square", got', repr(layout))):
        pairwise_psi(good(), layout=layout)


@pytest.mark.parametrize("function", [*FUNCTIONS_OF_WEIGHT, "cross_psi"])
@pytest.mark.parametrize("backend", ["gpu", "CPU", "", 1, False])
def test_unknown_backends(backend, function):
    call = FUNCTIONS_OF_WEIGHT.get(function, lambda weight, **options: cross_psi(weight, weight, **options))
    with pytest.raises(ValueError, match=exactly("backend must be", '"reference"', '"cpu"', "got", repr(backend))):
        call(good(), backend=backend)


@pytest.mark.parametrize("function", [*FUNCTIONS_OF_WEIGHT, "cross_psi"])
def test_a_gpu_backend_on_a_cpu_tensor(function):
    call = FUNCTIONS_OF_WEIGHT.get(function, lambda weight, **options: cross_psi(weight, weight, **options))
    with pytest.raises(RuntimeError, match='backend="cuda" can\'t run on cpu: it needs a tensor on an NVIDIA GPU'):
        call(good(), backend="cuda")


def test_the_cpu_backend_on_another_device():
    with pytest.raises(RuntimeError, match=exactly('backend="cpu" can\'t run on meta: it needs a tensor on the CPU')):
        pairwise_psi(good().to("meta"), backend="cpu")


def test_the_cpu_backend_without_its_library(monkeypatch):
    monkeypatch.setattr(native, "load_cpu", lambda: False)
    monkeypatch.setattr(native, "cpu_failure", lambda: "the compiler went on holiday")
    with pytest.raises(RuntimeError, match=exactly('backend="cpu" can', "run", "the compiler went on holiday")):
        pairwise_psi(good(), backend="cpu")
    w = good().double()
    torch.testing.assert_close(pairwise_psi(w), omega(w, Psi()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", [*FUNCTIONS_OF_WEIGHT, "cross_psi"])
def test_unknown_options(function):
    call = FUNCTIONS_OF_WEIGHT.get(function, lambda weight, **options: cross_psi(weight, weight, **options))
    with pytest.raises(TypeError, match="unexpected keyword argument 'epsilon'"):
        call(good(), epsilon=1e-3)


def test_options_have_names():
    with pytest.raises(TypeError, match="positional"):
        pairwise_psi(good(), 0.1)
    with pytest.raises(TypeError, match="positional"):
        cross_psi(good(), good(), 0.1)


# ---- unusual, but legal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_no_filters(dtype, backend):
    out = torch.float64 if dtype == torch.float64 else torch.float32
    empty, some = torch.zeros(0, 3, 3, 3, dtype=dtype), good().to(dtype)
    for result, shape in (
        (pairwise_psi(empty, backend=backend), (0,)),
        (pairwise_psi(empty, layout="square", backend=backend), (0, 0)),
        (pairwise_psi(empty, scale_free=True, backend=backend), (0,)),
        (cross_psi(empty, some, backend=backend), (0, 4)),
        (cross_psi(some, empty, backend=backend), (4, 0)),
        (cross_psi(empty, empty, backend=backend), (0, 0)),
        (psi_of_pairs(empty, torch.zeros(0, 2, dtype=torch.int64), backend=backend), (0,)),
        (psi_of_pairs(some, torch.zeros(0, 2, dtype=torch.int64), backend=backend), (0,)),
    ):
        assert result.shape == shape
        assert result.dtype == out
    assert redundancy(empty, backend=backend) == 0
    assert psi_histogram(empty, 3, backend=backend).tolist() == [0, 0, 0]


def test_empty_results_stay_in_the_graph(backend):
    for filters in (0, 1):
        w = torch.randn(filters, 3, 3, requires_grad=True)
        pairwise_psi(w, backend=backend).sum().backward()
        assert w.grad.shape == w.shape
        assert not w.grad.any()


def test_meta_tensors_give_the_shape():
    w, pairs = good().to("meta").half(), torch.zeros(7, 2, dtype=torch.int64, device="meta")
    for result, shape, dtype in (
        (pairwise_psi(w), (6,), torch.float32),
        (pairwise_psi(w.double()), (6,), torch.float64),
        (pairwise_psi(w, layout="square"), (4, 4), torch.float32),
        (pairwise_psi(w, scale_free=True), (6,), torch.float32),
        (cross_psi(w, w[:3]), (4, 3), torch.float32),
        (psi_of_pairs(w, pairs), (7,), torch.float32),
        (redundancy(w, torch.rand(2, 3)), (2, 3), torch.float64),
        (psi_histogram(w, 9), (9,), torch.int64),
    ):
        assert result.is_meta
        assert result.shape == shape
        assert result.dtype == dtype
    with torch.device("meta"):
        module = nn.Conv2d(4, 6, 3, groups=2)
    assert pairwise_psi(module).shape == (2, 3)


@pytest.mark.usefixtures("cpu_kernels")
def test_fake_tensors_give_the_shape():
    with FakeTensorMode():
        assert pairwise_psi(torch.zeros(4, 3, 3)).shape == (6,)


def test_parameters_and_subclasses(backend):
    class Labelled(torch.Tensor):
        pass

    w = good().double()
    expected = omega(w, Psi())
    for weight in (nn.Parameter(w), w.as_subclass(Labelled), nn.Buffer(w)):
        actual = pairwise_psi(weight, backend=backend)
        torch.testing.assert_close(actual.detach().as_subclass(torch.Tensor), expected, rtol=0, atol=1e-12)
        assert float(redundancy(weight, 0.3, backend=backend)) == float((expected > 0.3).double().mean())


def test_lazily_negated_views(backend):
    w = torch.randn(4, 3, 3, dtype=torch.complex128).conj().imag
    assert w.is_neg()
    torch.testing.assert_close(pairwise_psi(w, backend=backend), omega(w, Psi()), rtol=0, atol=1e-12)


def test_nan_is_a_result(backend):
    w = good()
    w[1, 2, 0, 0] = math.nan
    assert pairwise_psi(w, backend=backend).isnan().tolist() == [True, False, False, True, True, False]
    assert cross_psi(w, w, backend=backend).isnan().sum() == 7
    assert redundancy(w, backend=backend).isnan()
    assert psi_histogram(w, backend=backend).sum() == 3
