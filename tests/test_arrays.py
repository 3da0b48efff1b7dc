"""Arrays of other libraries as weights: the same numbers as of a tensor, no copy, no warning, nothing written."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from ckrm_kernels import (
    chance_redundancy,
    cross_psi,
    estimate_redundancy,
    match_patterns,
    pairwise_psi,
    psi_histogram,
    psi_of_pairs,
    redundancy,
    redundant_groups,
)
from ckrm_kernels.arrays import as_tensor

pytestmark = pytest.mark.filterwarnings("error")
PAIRS = torch.tensor([[0, 1], [5, 2]])
FUNCTIONS = {
    "pairwise_psi": pairwise_psi,
    "cross_psi": lambda weight: cross_psi(weight, weight),
    "psi_of_pairs": lambda weight: psi_of_pairs(weight, PAIRS),
    "redundancy": lambda weight: redundancy(weight, 0.3),
    "psi_histogram": psi_histogram,
    "estimate_redundancy": lambda weight: estimate_redundancy(weight, 0.3, num_pairs=1000),
    "chance_redundancy": lambda weight: chance_redundancy(weight, 0.3, generator=torch.Generator().manual_seed(0)),
    "redundant_groups": redundant_groups,
    "match_patterns": lambda weight: match_patterns(weight).layers[0].places,
}


class OnlyDLPack:
    """An array as that of JAX or CuPy: with the protocol, and nothing of NumPy's or torch's."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **options):
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._tensor.__dlpack_device__()


class OnlyArray:
    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return self._array


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def weight(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(6, 2, 3, 3).to(dtype)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_on_weights_takes_arrays(function):
    of, tensor = FUNCTIONS[function], weight()
    expected = of(tensor)
    for array in (tensor.numpy(), read_only(tensor.numpy()), OnlyDLPack(tensor), OnlyArray(tensor.numpy())):
        found = of(array)
        assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected


FORMS = {
    "read-only": read_only,
    "transposed": lambda array: np.asfortranarray(array),
    "every other filter": lambda array: np.repeat(array, 2, 0)[::2],
    "backwards": lambda array: array[::-1].copy()[::-1],
    "of the other byte order": lambda array: array.astype(array.dtype.newbyteorder()),
    "a part of records": lambda array: np.rec.fromarrays([array, np.ones(array.shape, np.int8)], names="w,flag").w,
    "by its protocol": OnlyArray,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_any_layout_of_numpy(form, dtype):
    tensor = weight(dtype)
    found = as_tensor(FORMS[form](tensor.numpy().copy()), "weight")
    assert found.dtype == dtype
    assert torch.equal(found, tensor)


def test_bfloat16_of_numpy():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    tensor = weight(torch.bfloat16)
    array = tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    assert torch.equal(as_tensor(read_only(array), "weight"), tensor)
    assert torch.equal(as_tensor(OnlyDLPack(tensor), "weight"), tensor)


@pytest.mark.parametrize("make", [lambda t: t.numpy(), lambda t: read_only(t.numpy()), OnlyDLPack])
def test_no_copy(make):
    tensor = weight()
    assert as_tensor(make(tensor), "weight").data_ptr() == tensor.data_ptr()


def test_the_memory_outlives_the_array():
    array = read_only(np.arange(6.0).reshape(2, 3))
    tensor = as_tensor(array, "weight")
    del array
    torch.ones(1000)  # which would take the place of what was freed
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_pairs_may_be_an_array():
    tensor = weight()
    assert torch.equal(psi_of_pairs(tensor, PAIRS.numpy()), psi_of_pairs(tensor, PAIRS))
    with pytest.raises(ValueError, match=re.escape("pairs must be an int64 tensor of shape (P, 2), got torch.int32")):
        psi_of_pairs(tensor, PAIRS.int().numpy())


class Backwards(OnlyDLPack):
    strides = (-72, 36, 12, 4)


class Elsewhere(OnlyDLPack):
    def __dlpack__(self, **options):
        raise BufferError("on no device of torch")


class Traced(Elsewhere):
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("it has no value yet")


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros((2, 2), object), TypeError, "weight must have elements of a type that torch has, got object"),
        (np.array([["a"]]), TypeError, "weight must have elements of a type that torch has, got <U1"),
        (np.zeros((2, 2), np.complex64), TypeError, "weight must be float32, .*, got torch.complex64"),
        (np.zeros((2, 2), np.int64), TypeError, "weight must be float32, .*, got torch.int64"),
        (np.float32(1), ValueError, r"weight must have the shape \(F2, F1, \*K\), got \(\)"),
        (Backwards(torch.zeros(2, 2)), ValueError, "weight has negative strides, which torch has not: copy"),
        (Elsewhere(torch.zeros(2, 2)), ValueError, "weight can't be read by DLPack: on no device of torch"),
        (Traced(torch.zeros(2, 2)), ValueError, "weight can't be read as an array: it has no value yet"),
    ],
)
def test_arrays_that_are_no_weight(array, error, message):
    with pytest.raises(error, match=message):
        pairwise_psi(array)
