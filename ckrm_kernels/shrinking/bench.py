"""A private copy of a model in high precision, and what it gives on two inputs: what proofs compare with."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ckrm_kernels.shrinking.copying import copied, tensors_of
from ckrm_kernels.shrinking.inputs import Inputs, tensors_in

TOLERANCE = 1e-9
"""Of an output's scale, in float64."""

SINGLE_TOLERANCE = 1e-4
"""Of an output's scale, for a model that does not run in float64, or computes in less inside."""


@dataclass(frozen=True)
class Bench:
    """A model's copy on which its proofs run.

    network: in evaluation mode, in float64 where it runs in it
    inputs: the example, and one of its shape with other values
    outputs: for each of the inputs all tensors that the network gives
    tolerance: how far apart outputs may be that are equal; note: why it is not 1e-9, or ""
    """

    network: nn.Module
    inputs: tuple[Inputs, ...]
    outputs: tuple[list[Tensor], ...]
    tolerance: float
    note: str

    def with_other_weights(self, generator: torch.Generator) -> Bench:
        """With parameters drawn near the network's, none of them zero, so that all of it has effect."""
        network = copied(self.network)
        for parameter in network.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
                parameter.data.add_(noise * 0.1 * (parameter.data.square().mean().sqrt() + 0.1))
        return replace(self, network=network, outputs=tuple(run(network, each) for each in self.inputs))

    def apart(self, outputs: Sequence[Tensor], expected: Sequence[Tensor], place: int) -> float:
        """The largest difference, relative to the largest value of the same tensor of the network's own outputs.

        place: of the inputs
        Raises ValueError where the outputs have other shapes.
        """
        check_shapes(outputs, expected)
        scales = (_size(tensor) for tensor in self.outputs[place])
        found = (_apart(*each) for each in zip(outputs, expected, scales, strict=True))
        return max(found, default=0.0)


def bench(model: nn.Module, inputs: Inputs, generator: torch.Generator) -> Bench:
    """The bench of a model, which stays as it is.

    Raises ValueError for a model that does not run, gives no tensors, NaN, or something else each time.
    """
    others = _other_values(inputs, generator)
    precise = lambda tensor: tensor.double() if tensor.is_floating_point() else tensor  # noqa: E731
    network = copied(model).eval()
    narrow = _Narrow()
    try:
        network = network.double()
        both = inputs.map(precise), others.map(precise)
        with narrow:
            outputs = tuple(run(network, each) for each in both)
        note = f"proved to {SINGLE_TOLERANCE:.0e}: it computes in {narrow.seen} inside" if narrow.seen else ""
    except Exception as error:
        network, both = copied(model).eval(), (inputs, others)
        try:
            outputs = tuple(run(network, each) for each in both)
        except Exception as own:
            raise ValueError(f"model must run on example_inputs, which raised {in_words(own)}") from own
        note = f"proved to {SINGLE_TOLERANCE:.0e}, since it does not run in float64: {in_words(error)}"
    made = Bench(network, both, outputs, SINGLE_TOLERANCE if note else TOLERANCE, note)
    _check(made)
    return made


@torch.no_grad()
def run(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All tensors that a network gives."""
    args, kwargs = inputs.map(Tensor.clone)
    return [tensor.detach() for tensor in tensors_in(network(*args, **kwargs))]


def check_shapes(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise a ValueError where outputs have other shapes than expected."""
    wanted, got = ([tuple(tensor.shape) for tensor in each] for each in (expected, outputs))
    if wanted != got:
        raise ValueError(f"outputs of shape {', '.join(map(str, wanted))} become {', '.join(map(str, got))}")


def in_words(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def random_state_kept(model: nn.Module) -> Iterator[None]:
    """Puts the global random state back after use: torch's, on the model's devices too, NumPy's and Python's."""
    devices = {tensor.device.index or 0 for tensor in tensors_of(model).values() if tensor.is_cuda}
    numpys = np.random.get_state()  # noqa: NPY002 - the global one is what a model may draw from
    pythons = random.getstate()
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        np.random.set_state(numpys)  # noqa: NPY002
        random.setstate(pythons)


class _Narrow(TorchDispatchMode):
    """Notes the first type of less than 64 bits that numbers of 64 bits are turned to."""

    seen = ""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        if not self.seen and any(tensor.dtype == torch.float64 for tensor in tensors_in(args)):
            narrow = (each.dtype for each in tensors_in(result) if each.is_floating_point() and each.itemsize < 8)
            self.seen = str(next(narrow, "")).removeprefix("torch.")
        return result


def _check(made: Bench) -> None:
    if not any(made.outputs):
        raise ValueError("model must give tensors, in tuples, dicts or dataclasses if several; got none")
    if any(tensor.isnan().any() for outputs in made.outputs for tensor in outputs):
        raise ValueError("model must give numbers on example_inputs and on their values in another order, got NaN")
    again = made.apart(run(made.network, made.inputs[0]), made.outputs[0], 0)
    if not again <= made.tolerance:
        raise ValueError(
            f"model must give the same outputs for the same inputs in evaluation mode, got some {again:.1g} of their "
            "scale apart: it draws random numbers or changes its own state, and nothing can be proved of it"
        )


def _other_values(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """With the values of each tensor permuted; integers, which may be lengths or indices, only where all are."""
    floats = any(tensor.is_floating_point() for tensor in inputs.tensors())

    def other(tensor: Tensor) -> Tensor:
        if floats and not tensor.is_floating_point():
            return tensor
        order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
        values = tensor.flatten()[order].view(tensor.shape)
        if not floats or not tensor.numel() or tensor.amin() < tensor.amax():
            return values
        step = 0.1 * max(1.0, float(tensor.abs().amax()))
        return values + step * torch.rand(tensor.shape, generator=generator).to(tensor)

    return inputs.map(other)


def _size(tensor: Tensor) -> float:
    """Its largest finite absolute value."""
    values = _real(tensor).abs()
    return float(values[values.isfinite()].amax()) if values.isfinite().any() else 0.0


def _apart(one: Tensor, other: Tensor, scale: float) -> float:
    one, other = _real(one), _real(other)
    if not one.numel():
        return 0.0
    apart = float(torch.where(one == other, 0.0, (one - other).abs()).amax().nan_to_num(torch.inf))
    return apart / (scale or apart or 1.0)


def _real(tensor: Tensor) -> Tensor:
    dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
    return torch.view_as_real(dense.resolve_conj()).double() if dense.is_complex() else dense.double()
