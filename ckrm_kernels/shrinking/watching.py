"""What a model's source says of each operation while the model is exported: its line, and which sizes are constants."""

from __future__ import annotations

import linecache
import operator
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.fx import traceback
from torch.overrides import TorchFunctionMode

_TORCH, _HERE = str(Path(torch.__file__).parent), str(Path(__file__).parent)
_KEY = "ckrm"


class Computed(int):
    """A size that the model reads or computes from the shape of a tensor, as against a constant."""


def with_computed_sizes(model: nn.Module) -> nn.Module:
    """The model, its layers' own sizes computed ones: they are what a shrunk layer's become."""
    for module in model.modules():
        for name in _OWN_SIZES & set(vars(module)) if isinstance(module, _LAYERS) else ():
            setattr(module, name, Computed(getattr(module, name)))
        if isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels:
            module.num_groups = Computed(module.num_groups)
    return model


_LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_OWN_SIZES = {"in_channels", "out_channels", "in_features", "out_features", "num_features", "num_channels"}


def _computed(operation: Callable[..., Any], reflected: bool = False) -> Callable[[Computed, Any], Any]:
    def method(self: Computed, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        first, second = (int(other), int(self)) if reflected else (int(self), int(other))
        return Computed(operation(first, second))

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Computed, f"__{_name}__", _computed(getattr(operator, _name)))
    setattr(Computed, f"__r{_name}__", _computed(getattr(operator, _name), reflected=True))


Computed.__neg__ = lambda self: Computed(-int(self))  # type: ignore[method-assign]


@dataclass(frozen=True)
class Source:
    """Where an operation stands in the model's source, and the whole numbers that it is given there.

    place: "file.py, line 3: `code`", or "" where it is unknown
    numbers: each with whether it is computed from shapes (or -1, to be inferred), in order; None where unknown
    """

    place: str = ""
    numbers: tuple[tuple[int, bool], ...] | None = None

    def computes(self, number: int) -> bool:
        """Whether the number is not given as a constant."""
        return self.numbers is None or (number, True) in self.numbers or (number, False) not in self.numbers


class Watching(TorchFunctionMode):
    """While it is entered, sizes of tensors are `Computed` and each traced operation keeps its `Source`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == _DATA:  # which export takes for a constant
            return args[0].detach()
        if func in _READ_SIZES:
            sizes = func(*_plain(args), **_plain(kwargs))
            return torch.Size(Computed(size) for size in sizes) if isinstance(sizes, torch.Size) else Computed(sizes)
        numbers = tuple(
            (int(number), isinstance(number, Computed) or number == -1) for number in _numbers((args, kwargs))
        )
        with traceback.annotate({_KEY: Source(_place(sys._getframe(1)), numbers)}):
            return func(*_plain(args), **_plain(kwargs))


_DATA = vars(torch._C.TensorBase)["data"].__get__
_READ_SIZES = {vars(torch._C.TensorBase)["shape"].__get__, torch.Tensor.size, torch.Tensor.numel}


def source_of(node: torch.fx.Node) -> Source:
    """What was noted of a node of the exported graph; of one that was not watched the line alone."""
    noted = node.meta.get("custom", {}).get(_KEY)
    return Source(_place_in(node.meta.get("stack_trace") or "")) if noted is None else noted


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, slice):
        yield from _numbers((value.start, value.stop, value.step))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, dict):
        yield from _numbers(tuple(value.values()))


def _plain(value: Any) -> Any:
    """The same arguments with plain numbers."""
    if isinstance(value, Computed):
        return int(value)
    if isinstance(value, slice):
        return slice(_plain(value.start), _plain(value.stop), _plain(value.step))
    if type(value) in (tuple, list, torch.Size):
        return type(value)([_plain(item) for item in value])
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    return value


def is_of_a_model(file: str) -> bool:
    """Whether a frame's file is neither torch's nor this package's, and is one."""
    return not file.startswith((_TORCH, _HERE, "<"))


def place_of(file: str, line: int) -> str:
    """A line of source: "file.py, line 3: `code`"."""
    code = linecache.getline(file, line).strip()
    return f"{Path(file).name}, line {line}" + (f": `{code}`" if code else "")


def _place(frame: FrameType | None) -> str:
    """The innermost line of the model's source; none is further out than where this package calls the model."""
    while frame is not None and not is_of_a_model(frame.f_code.co_filename):
        frame = None if frame.f_code.co_filename.startswith(_HERE) else frame.f_back
    return place_of(frame.f_code.co_filename, frame.f_lineno) if frame is not None else ""


def _place_in(stack: str) -> str:
    """The innermost line of a printed stack that is the model's."""
    frames = [(file, int(line)) for file, line in re.findall(r'File "(.+?)", line (\d+)', stack) if is_of_a_model(file)]
    return place_of(*frames[-1]) if frames else ""
