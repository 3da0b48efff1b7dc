"""Calibration: the unlabelled inputs on which a network's layers are observed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ckrm_kernels.whole_numbers import whole_number

Call = tuple[tuple[Any, ...], dict[str, Any]]

_ACCEPTED = "a tensor (N, ...), a loader or anything that can be iterated, of inputs like example_inputs"


class Calibration:
    """Inputs like the example's, in batches; read and checked once and kept, so that every pass sees the same.

    data: a tensor (N, ...) where the example is one tensor; a loader or anything that can be iterated, of batches or of
        single inputs: tensors, tuples or dicts as the example inputs are, or pairs of those and labels, which are left
    example_inputs: a tensor, a tuple of positional arguments, a dict of keyword arguments, or (arguments, keywords);
        with a batch dimension. Its tensors say the shape of one input, the device and the floating dtype
    images: how many inputs to use at most, >= 2; 128 to 256 suffice
    batch: inputs in one forward pass
    Iterating gives (arguments, keywords) of one forward pass each; what is no tensor in the example comes from it.
    Raises ValueError for data with fewer than two inputs, NaN or Inf, another shape than the example's, or whole
    numbers where the example has floating-point ones; TypeError for what is not inputs.
    """

    def __init__(self, data: Any, example_inputs: Any, *, images: int = 256, batch: int = 32) -> None:
        most, self.batch = whole_number("images", images, 2), whole_number("batch", batch)
        self._example = _Example(example_inputs)
        self._pieces: list[list[Tensor]] = []
        self.images = 0
        for tensors in self._example.inputs(data):
            piece = [tensor[: most - self.images] for tensor in tensors]
            _check_finite(piece)
            self._pieces.append(piece)
            self.images += len(piece[0])
            if self.images >= most:
                break
        if self.images < 2:
            got = "one input" if self.images else "no inputs"
            raise ValueError(f"calibration has {got}; accepted are 2 or more, 128 to 256 suffice")

    @property
    def memory(self) -> int:
        """Bytes of the inputs that are kept."""
        return sum(tensor.numel() * tensor.element_size() for piece in self._pieces for tensor in piece)

    def __len__(self) -> int:
        return -(-self.images // self.batch)

    def __iter__(self) -> Iterator[Call]:
        return (self._example.call(tensors) for tensors in _batches(self._pieces, self.batch))


def arguments(example_inputs: Any) -> Call:
    """The positional and keyword arguments that example inputs stand for.

    example_inputs: a tensor, a tuple of positional arguments, a dict of keyword arguments, or (arguments, keywords)
    """
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if not isinstance(example_inputs, tuple):
        return (example_inputs,), {}
    if len(example_inputs) == 2 and isinstance(example_inputs[0], tuple) and isinstance(example_inputs[1], Mapping):
        return example_inputs[0], dict(example_inputs[1])
    return example_inputs, {}


def images_of(call: Call) -> int:
    """How many inputs the arguments of one forward pass hold."""
    return next(len(leaf) for leaf in tree_leaves(call) if isinstance(leaf, Tensor) and leaf.ndim > 0)


class _Example:
    """What the example inputs say of every input."""

    def __init__(self, example_inputs: Any) -> None:
        self.args, self.kwargs = arguments(example_inputs)
        leaves, self.tree = tree_flatten((self.args, self.kwargs))
        self.leaves = leaves
        self.places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.ndim > 0]
        if not self.places:
            raise ValueError("example_inputs must have a tensor with a batch dimension, got none")
        self.tensors: list[Tensor] = [leaves[index] for index in self.places]

    def inputs(self, data: Any) -> Iterator[list[Tensor]]:
        """The tensors of each item of the data, in the example's order, with a batch dimension, checked."""
        if isinstance(data, Tensor):
            yield self.checked([data])
            return
        for item in _items(data):
            yield self.checked(self.found(item))

    def found(self, item: Any) -> list[Tensor]:
        """The tensors of one item of the data that stand where the example's do; labels are left."""
        for candidate in (item, item[0] if isinstance(item, (tuple, list)) and item else None):
            args, kwargs = self.as_call(candidate)
            leaves, tree = tree_flatten((args, kwargs))
            if tree == self.tree and all(isinstance(leaves[index], Tensor) for index in self.places):
                return [leaves[index] for index in self.places]
        raise TypeError(f"calibration gives {_described(item)}; accepted is {_ACCEPTED}: {_described(self.example)}")

    @property
    def example(self) -> Any:
        """The example in its shortest form."""
        if not self.kwargs:
            return self.args[0] if len(self.args) == 1 else self.args
        return self.kwargs if not self.args else (self.args, self.kwargs)

    def as_call(self, item: Any) -> Call:
        """An item of the data as arguments; of a sequence as many as the example has, of a dict those it names."""
        if isinstance(item, list):
            item = tuple(item)
        args, kwargs = arguments(item)
        return tuple(args[: len(self.args)]), {name: kwargs[name] for name in self.kwargs if name in kwargs}

    def checked(self, tensors: list[Tensor]) -> list[Tensor]:
        """The tensors with a batch dimension, if shapes and dtypes are the example's; raises ValueError otherwise."""
        if len(tensors) != len(self.tensors):
            raise TypeError(f"calibration is one tensor, while example_inputs are {len(self.tensors)}")
        result = []
        for given, example in zip(tensors, self.tensors, strict=True):
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
        leaves = list(self.leaves)
        for index, tensor, example in zip(self.places, tensors, self.tensors, strict=True):
            leaves[index] = tensor.to(example.device, example.dtype)
        args, kwargs = tree_unflatten(leaves, self.tree)
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


def _batches(pieces: list[list[Tensor]], size: int) -> Iterator[list[Tensor]]:
    """The pieces, cut and put together to batches of at most the size."""
    held: list[tuple[Tensor, ...]] = []
    for piece in pieces:
        for part in zip(*(tensor.split(size) for tensor in piece), strict=True):
            if sum(len(tensors[0]) for tensors in (*held, part)) > size:
                yield _joined(held)
                held = []
            held.append(part)
    yield _joined(held)


def _joined(parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(column) if len(column) > 1 else column[0] for column in zip(*parts, strict=True)]


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
