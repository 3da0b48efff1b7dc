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
    calls: Mapping[str, int],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    take: Mapping[str, Callable[[nn.Module, Tensor, Tensor], Taken]],
) -> dict[str, list[Taken]]:
    """What `take(module, input, output)` gives in each call of some modules, by their names, in one forward pass.

    calls: how many there are of each; the pass ends after the last of all
    take: of each module; sees tensors that the model may change in place afterwards
    """
    taken: dict[str, list[Taken]] = {name: [] for name in calls}
    handles = [
        model.get_submodule(name).register_forward_hook(_hook(name, calls, take[name], taken), with_kwargs=True)
        for name in calls
    ]
    try:
        model(*args, **kwargs)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return taken


def _hook(
    name: str,
    calls: Mapping[str, int],
    take: Callable[[nn.Module, Tensor, Tensor], Taken],
    taken: dict[str, list[Taken]],
) -> Callable[..., None]:
    def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        taken[name].append(take(module, given[0] if given else next(iter(named.values())), output))
        if all(len(taken[each]) >= count for each, count in calls.items()):
            raise _Reached

    return hook
