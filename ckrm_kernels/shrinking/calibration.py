"""Calibration: the unlabelled inputs on which a network's layers are observed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure

from ckrm_kernels.shrinking.copying import copied
from ckrm_kernels.shrinking.inputs import as_inputs, replaced, tensors_in
from ckrm_kernels.whole_numbers import whole_number

Call = tuple[tuple[Any, ...], dict[str, Any]]

_ACCEPTED = "a tensor (N, ...), a loader or anything that can be iterated, of inputs like example_inputs"


class Calibration(Sequence[Call]):
    """Inputs like the example's, in batches; read and checked once and kept, so that every pass sees the same.

    data: a tensor (N, ...) where the example is one tensor; a loader or anything that can be iterated, of batches or of
        single inputs: tensors, tuples or dicts as the example inputs are, or pairs of those and labels, which are left
    example_inputs: a tensor, a tuple of positional arguments, a dict of keyword arguments, or (arguments, keywords);
        with a batch dimension. Its tensors say the shape of one input, the device and the floating dtype
    images: how many inputs to use at most, >= 2; 128 to 256 suffice
    batch: inputs in one forward pass
    Its items are (arguments, keywords) of one forward pass each; what is no tensor in the example comes from it.
    Raises ValueError for data with fewer than two inputs, NaN or Inf, another shape than the example's, or whole
    numbers where the example has floating-point ones; TypeError for what is not inputs.
    """

    def __init__(self, data: Any, example_inputs: Any, *, images: int = 256, batch: int = 32) -> None:
        most, self.batch = whole_number("images", images, 2), whole_number("batch", batch)
        self._example = _Example(example_inputs)
        pieces: list[list[Tensor]] = []
        self.images = 0
        for tensors in self._example.inputs(data):
            pieces.append([tensor[: most - self.images] for tensor in tensors])
            _check_finite(pieces[-1])
            self.images += len(pieces[-1][0])
            if self.images >= most:
                break
        if self.images < 2:
            got = "one input" if self.images else "no inputs"
            raise ValueError(f"calibration has {got}; accepted are 2 or more, 128 to 256 suffice")
        self._tensors = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*pieces, strict=True)]

    @property
    def memory(self) -> int:
        """Bytes of the inputs that are kept."""
        return sum(tensor.nbytes for tensor in self._tensors)

    def __len__(self) -> int:
        return -(-self.images // self.batch)

    def __getitem__(self, index: Any) -> Any:
        first = range(0, self.images, self.batch)[index]
        return self._example.call([tensor[first : first + self.batch] for tensor in self._tensors])


def check_runs(model: nn.Module, calibration: Calibration) -> None:
    """Raises ValueError, with the model's own words, where it can't run on the calibration's batches."""
    private = copied(model).eval()
    args, kwargs = calibration[0]
    try:
        with torch.no_grad():
            private(*args, **kwargs)
    except Exception as error:
        words = next(iter(str(error).strip().splitlines()), "")
        raise ValueError(
            f"model must run on the calibration in batches of {images_of((args, kwargs))} inputs, and fails with "
            f"{type(error).__name__}: {words}"
        ) from error


def images_of(call: Call) -> int:
    """How many inputs the arguments of one forward pass hold."""
    return next(len(leaf) for leaf in tree_leaves(call) if isinstance(leaf, Tensor) and leaf.ndim > 0)


class _Example:
    """What the example inputs say of every input."""

    def __init__(self, example_inputs: Any) -> None:
        self.args, self.kwargs = as_inputs("example_inputs", example_inputs)
        self.tree = tree_structure((self.args, self.kwargs))
        self.all = list(tensors_in((self.args, self.kwargs)))
        self.places = [index for index, tensor in enumerate(self.all) if tensor.ndim > 0]
        if not self.places:
            raise ValueError("example_inputs must have a tensor with a batch dimension, got none")
        self.tensors: list[Tensor] = [self.all[index] for index in self.places]

    def inputs(self, data: Any) -> Iterator[list[Tensor]]:
        """The tensors of each item of the data, in the example's order, with a batch dimension, checked."""
        if isinstance(data, Tensor):
            yield self.checked([data])
            return
        for item in _items(data):
            yield self.checked(self.found(item))

    def found(self, item: Any) -> list[Tensor]:
        """The tensors of one item of the data that stand where the example's do; labels are left."""
        for candidate in (item, *(item[:1] if isinstance(item, (tuple, list)) else ())):
            call = self.as_call(candidate)
            tensors = list(tensors_in(call))
            if tree_structure(call) == self.tree and len(tensors) == len(self.all):
                return [tensors[index] for index in self.places]
        example = self.args[0] if len(self.args) == 1 and not self.kwargs else (self.args, self.kwargs)
        raise TypeError(f"calibration gives {_described(item)}; accepted is {_ACCEPTED}: {_described(example)}")

    def as_call(self, item: Any) -> Call | None:
        """An item of the data as arguments; of a sequence as many as the example has, of a mapping those it names."""
        try:
            args, kwargs = as_inputs("calibration", tuple(item) if isinstance(item, list) else item)
        except TypeError:
            return None
        return args[: len(self.args)], {name: kwargs[name] for name in self.kwargs if name in kwargs}

    def checked(self, tensors: list[Tensor]) -> list[Tensor]:
        """The tensors with a batch dimension, if shapes and dtypes are the example's; raises ValueError otherwise."""
        if len(tensors) != len(self.tensors):
            raise TypeError(f"calibration is one tensor, while example_inputs are {len(self.tensors)}")
        result = []
        for given, example in zip(tensors, self.tensors, strict=True):
            _check_values(given)
            _check_dtype(given, example)
            if given.shape == example.shape[1:]:
                given = given.unsqueeze(0)
            if given.shape[1:] != example.shape[1:]:
                raise ValueError(
                    f"calibration has inputs of shape {tuple(given.shape[1:])}, example_inputs of "
                    f"{tuple(example.shape[1:])}; accepted are (N, {', '.join(map(str, example.shape[1:]))})"
                )
            result.append(given.detach())
        if len({len(tensor) for tensor in result}) > 1:
            raise ValueError(f"calibration gives tensors of {[len(t) for t in result]} inputs; one number is accepted")
        return result

    def call(self, tensors: list[Tensor]) -> Call:
        """The arguments of a forward pass on the tensors, on the example's device and in its dtype."""
        given = list(self.all)
        for index, tensor, example in zip(self.places, tensors, self.tensors, strict=True):
            given[index] = tensor.to(example.device, example.dtype)
        args, kwargs = replaced((self.args, self.kwargs), iter(given))
        return args, kwargs


def _items(data: Any) -> Iterable[Any]:
    if isinstance(data, (str, bytes, Mapping)):
        raise TypeError(f"calibration is a {type(data).__name__}; accepted is {_ACCEPTED}")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not hasattr(data, "__iter__"):
        return (data[index] for index in range(len(data)))  # a torch Dataset ends by its length alone
    try:
        return iter(data)
    except TypeError:
        raise TypeError(f"calibration is a {type(data).__name__}; accepted is {_ACCEPTED}") from None


def _check_values(given: Tensor) -> None:
    if given.is_meta:
        raise ValueError("calibration is on the meta device, without values; accepted are inputs that have some")
    if given.layout != torch.strided:
        raise ValueError(f"calibration has a tensor of the layout {given.layout}; accepted are dense ones")


def _check_dtype(given: Tensor, example: Tensor) -> None:
    if given.dtype != example.dtype and not (given.is_floating_point() and example.is_floating_point()):
        hint = "; scale the images as the network's training did" if example.is_floating_point() else ""
        raise ValueError(f"calibration has dtype {given.dtype}, example_inputs have {example.dtype}{hint}")


def _check_finite(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError("calibration has inputs with NaN or Inf; accepted are finite ones")


def _described(value: Any) -> str:
    """The structure of a value in words: its types, its tensors' shapes."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {_described(part)}" for name, part in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}({', '.join(map(_described, value))})"
    return f"a {type(value).__name__}"
