"""The exported program of a user's model, which itself stays as it was."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.fx import traceback

from ckrm_kernels.shrinking.watching import Watching

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def arguments_of(example_inputs: Any) -> Inputs:
    """Positional and keyword arguments: of a tensor, a tuple, a dict of keywords, or a pair (tuple, dict)."""
    if isinstance(example_inputs, tuple) and [type(part) for part in example_inputs] == [tuple, dict]:
        args, kwargs = example_inputs
    elif isinstance(example_inputs, dict):
        args, kwargs = (), example_inputs
    elif type(example_inputs) is tuple:
        args, kwargs = example_inputs, {}
    elif isinstance(example_inputs, torch.Tensor):
        args, kwargs = (example_inputs,), {}
    else:
        raise TypeError(
            "example_inputs must be a tensor, a tuple of positional arguments, a dict of keyword arguments, or a pair "
            f"(tuple, dict), got {type(example_inputs).__name__}"
        )
    if not list(tensors_in((args, kwargs))):
        raise ValueError("example_inputs must hold at least one tensor, got none")
    return args, kwargs


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of nested tuples, lists, dicts and dataclasses, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def _replaced(value: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """The same structure with other tensors, in the order of `tensors_in`."""
    if isinstance(value, torch.Tensor):
        return next(tensors)
    if isinstance(value, dict):
        return type(value)({key: _replaced(item, tensors) for key, item in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_replaced(item, tensors) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_replaced(item, tensors) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return dataclasses.replace(value, **{f.name: _replaced(getattr(value, f.name), tensors) for f in fields})
    return value


class _OfTensors(nn.Module):
    """A model as a function of tensors to a tuple of tensors: what export takes of any model."""

    def __init__(self, model: nn.Module, inputs: Inputs):
        super().__init__()
        self.model = model
        self._inputs = inputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs = _replaced(self._inputs, iter(tensors))
        with Watching():
            return tuple(tensors_in(self.model(*args, **kwargs)))


PREFIX = "model."
"""Of the model's names in the exported program."""


def exported(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    """The program of the model in evaluation mode; the model, its buffers and the random numbers stay as they were.

    Raises ValueError with the exporter's own words and, where they name it, the line of the model's source.
    """
    twin = _twin(model)
    wrapped = _OfTensors(twin, inputs)
    tensors = tuple(tensors_in(inputs))
    with torch.random.fork_rng(devices=[]), torch.no_grad(), traceback.preserve_node_meta(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _first_that_succeeds(
            lambda: torch.export.export(wrapped, tensors, strict=False),
            lambda: torch.export.export(_OfTensors(torch.fx.symbolic_trace(twin), inputs), tensors, strict=False),
        )


def _twin(model: nn.Module) -> nn.Module:
    """A copy with the same parameters and buffers, in evaluation mode."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        return copy.deepcopy(model, shared).eval()
    except Exception as error:
        raise ValueError(f"the model can't be copied: {error}") from error


def _first_that_succeeds(
    export: Callable[[], torch.export.ExportedProgram], otherwise: Callable[[], torch.export.ExportedProgram]
) -> torch.export.ExportedProgram:
    try:
        return export()
    except Exception as error:
        try:
            return otherwise()
        except Exception:
            raise ValueError(f"the model can't be traced: {error}") from error
