"""Arrays of other libraries as tensors, without a copy where that is possible."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@runtime_checkable
class HasDLPack(Protocol):
    """An array that another library's can be made of in place: of JAX, CuPy, NumPy and others."""

    def __dlpack__(self, *, stream: Any = ...) -> Any: ...


@runtime_checkable
class HasArray(Protocol):
    """What NumPy can make an array of."""

    def __array__(self) -> np.ndarray[Any, Any]: ...


Array = HasDLPack | HasArray


def as_tensor(array: Tensor | Array, name: str) -> Tensor:
    """The array as a tensor, which shares its memory where torch can take it as it lies; never written to.

    array: on any device; a NumPy array may be read-only, of either byte order and of any strides, and of `ml_dtypes`'
        bfloat16; what has both protocols and is no NumPy array is read by DLPack
    name: of the argument, for errors
    Raises TypeError for what is no array and for elements that torch has no type for, such as objects; ValueError for
        what can't be exchanged.
    """
    if isinstance(array, Tensor):
        return array
    if not isinstance(array, Array):
        raise TypeError(f"{name} must be a tensor or an array, got {type(array).__name__}")
    if isinstance(array, np.ndarray):
        return _from_numpy(array, name)
    if any(stride < 0 for stride in getattr(array, "strides", None) or ()):  # torch would end the process
        raise ValueError(f"{name} has negative strides, which torch has not: copy the array first")
    if isinstance(array, HasDLPack):
        try:
            return torch.from_dlpack(array)
        except Exception as error:  # of whatever type the library raises
            if not isinstance(array, HasArray):
                raise ValueError(f"{name} can't be read by DLPack: {error}") from error
    try:
        found = np.asarray(array)
    except Exception as error:
        raise ValueError(f"{name} can't be read as an array: {error}") from error
    return _from_numpy(found, name)


def _from_numpy(array: np.ndarray[Any, Any], name: str) -> Tensor:
    if array.dtype.name == "bfloat16":  # of ml_dtypes, whose bits NumPy takes for a type of its own
        return _from_numpy(array.view(np.uint16), name).view(torch.bfloat16)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    try:
        return torch.from_numpy(array if array.flags.writeable else np.asarray(_Writeable(array)))
    except TypeError:
        raise TypeError(f"{name} must have elements of a type that torch has, got {array.dtype}") from None


class _Writeable:
    """The memory of a read-only array as that of one that is not: torch warns of those, and nothing is written."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array  # whose memory lives as long
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
