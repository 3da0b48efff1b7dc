"""Looking into a network while it runs: what one layer is given and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Taken = TypeVar("Taken")


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """The models in evaluation mode and without gradients; afterwards each module is as it was."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


class _Reached(BaseException):
    """Ends a forward pass; no Exception, lest the model's own code catches it."""


def calls_of(
    model: nn.Module,
    name: str,
    calls: int,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    take: Callable[[nn.Module, Tensor, Tensor], Taken],
) -> list[Taken]:
    """What `take(module, input, output)` gives in each call of the module of the name, in one forward pass.

    calls: how many there are; the pass ends after the last
    take: sees tensors that the model may change in place afterwards
    """
    taken: list[Taken] = []

    def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        taken.append(take(module, given[0] if given else next(iter(named.values())), output))
        if len(taken) >= calls:
            raise _Reached

    handle = model.get_submodule(name).register_forward_hook(hook, with_kwargs=True)
    try:
        model(*args, **kwargs)
    except _Reached:
        pass
    finally:
        handle.remove()
    return taken
