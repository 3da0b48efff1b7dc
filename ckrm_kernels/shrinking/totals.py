"""What a model takes: parameters, multiply-adds, bytes and time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import nn

from ckrm_kernels.comparison.latency import one_thread, time_in_turns
from ckrm_kernels.shrinking.copying import copied
from ckrm_kernels.shrinking.inputs import Inputs

_SECONDS = 0.5


def bytes_of_weights(model: nn.Module) -> int:
    """What the parameters and persistent buffers take in a file, shared ones once."""
    held = {(tensor.data_ptr(), tensor.shape): tensor for tensor in model.state_dict().values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in held.values())


def latencies(models: Mapping[str, nn.Module], inputs: Inputs) -> dict[str, float]:
    """The median seconds of a forward pass of each model in evaluation mode, timed in turns with one thread.

    models: private copies of them run, since a forward pass may change a model
    inputs: of the forward pass, on the models' device
    """
    calls = {name: partial(copied(model).eval(), *inputs.args, **inputs.kwargs) for name, model in models.items()}
    with one_thread():
        return time_in_turns(calls, inputs.device, _SECONDS)
