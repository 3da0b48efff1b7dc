"""The exported program of a user's model, which itself stays as it was."""

from __future__ import annotations

import copy
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from traceback import walk_tb
from typing import Any

import torch
from torch import nn
from torch.fx import traceback

from ckrm_kernels.shrinking.bench import random_state_kept
from ckrm_kernels.shrinking.copying import copied
from ckrm_kernels.shrinking.inputs import Inputs, replaced, tensors_in
from ckrm_kernels.shrinking.watching import Watching, is_of_a_model, place_of, with_computed_sizes


class _OfTensors(nn.Module):
    """A model as a function of tensors to a tuple of tensors: what export takes of any model."""

    def __init__(self, model: nn.Module, inputs: Inputs):
        super().__init__()
        self.model = model
        self._inputs = inputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs = replaced((self._inputs.args, self._inputs.kwargs), iter(tensors))
        return tuple(tensors_in(self.model(*args, **kwargs)))


class _Watched(_OfTensors):
    """The same, its source watched."""

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with Watching():
            return super().forward(*tensors)


_ONE_AT_A_TIME = threading.RLock()
"""The exporter and the streams and log that are silenced are the whole process's: threads take turns."""

PREFIX = "model."
"""Of the model's names in the exported program."""


def exported(model: nn.Module, inputs: Inputs, *, training: bool = False) -> torch.export.ExportedProgram:
    """The program of the model in evaluation mode; the model, its buffers and the random numbers stay as they were.

    training: in training mode instead
    By running the model, watched; where that is refused by compiling its source, which takes checks of values and NumPy
    Raises ValueError with the exporter's own words and, where they name it, the line of the model's source.
    """
    tensors = tuple(inputs.tensors())
    with _ONE_AT_A_TIME, random_state_kept(model), traceback.preserve_node_meta(), _silence():
        try:
            twin = with_computed_sizes(_twin(model, training))
            return torch.export.export(_Watched(twin, inputs), tensors, strict=False)
        except Exception as error:
            try:
                return torch.export.export(_OfTensors(_twin(model, training), inputs), tensors, strict=True)
            except Exception:
                words = str(error).strip().partition("\n")[0]
                raise ValueError(f"{_what_fails(model, inputs)}: {words}{_line(error)}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Without the exporter's warnings and log, and without the programs that it prints where it refuses a model."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)  # handlers hold the streams of before, and modules yet to be imported log too
        try:
            yield
        finally:
            logging.disable(level)


def _twin(model: nn.Module, training: bool) -> nn.Module:
    """A copy that shares the model's tensors, in evaluation or training mode."""
    shared: dict[int, Any] = {id(tensor): tensor for module in model.modules() for tensor in tensors_in(vars(module))}
    try:
        return copy.deepcopy(model, shared).train(training)
    except Exception as error:
        raise ValueError(f"the model can't be copied: {error}") from error


def _what_fails(model: nn.Module, inputs: Inputs) -> str:
    """Whether the model can't be traced, or does not even run on the inputs."""
    try:
        with torch.no_grad():
            copied(model).eval()(*inputs.args, **inputs.kwargs)
    except Exception:
        shapes = ", ".join("x".join(map(str, tensor.shape)) for tensor in inputs.tensors())
        return f"model must run on example_inputs, and fails on tensors of {shapes}"
    return "the model can't be traced"


def _line(error: Exception) -> str:
    """The innermost line of the model's source that an error passed through, in brackets, or nothing."""
    frames = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    frames = [frame for frame in frames if is_of_a_model(frame[0])]
    return f" ({place_of(*frames[-1])})" if frames else ""
