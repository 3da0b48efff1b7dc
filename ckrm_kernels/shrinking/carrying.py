"""An optimizer and a model of averaged weights, carried over from a model to the same one without some filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ckrm_kernels.shrinking.copying import tensors_of
from ckrm_kernels.shrinking.couplings import Graph
from ckrm_kernels.shrinking.surgery import Kept, Removed, cut_in_place, cut_to, kept_indices, shapes_of

_Carried = tuple[list[list[Tensor]], dict[Any, Any]]
"""Of an optimizer: the parameters of each group, and the state."""

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


def carry_over(
    original: nn.Module,
    small: nn.Module,
    graph: Graph,
    removed: Removed,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    ema: nn.Module | None = None,
) -> nn.Module | None:
    """Makes an optimizer train the small model from now on, and cuts a model of averaged weights alike.

    original, small: the model, and it without the filters `removed`; the same tensors by name
    optimizer: of the original's parameters or some of them, changed in place: its groups hold the small model's, with
        the options that they have; state of a parameter's shape (moments, momentum) is cut as the parameter is, other
        state (steps) stays
    scheduler: of this optimizer, which stays the same object; checked only
    ema: the original's structure, or a module whose `.module` has it (`torch.optim.swa_utils.AveragedModel`), changed
        in place and given back; its weights are not refitted as a fold refits the small model's
    Raises TypeError or ValueError before anything is changed: for an optimizer with other parameters than the
    original's, state of another shape than its parameter's (factored, as Adafactor's, or LBFGS's), a scheduler of
    another optimizer, averaged weights of another model or held by the original itself, models that are wrapped for
    parallel training.
    """
    kept, averaged, carried = _checked(
        original, small, graph, removed, optimizer=optimizer, scheduler=scheduler, ema=ema
    )
    if averaged is not None:
        cut_in_place(averaged, kept)
    if optimizer is not None and carried is not None:
        groups, state = carried
        for group, parameters in zip(optimizer.param_groups, groups, strict=True):
            group["params"][:] = parameters  # the list stays, which some optimizers hold as well
        optimizer.state.clear()
        optimizer.state.update(state)
    return ema


def check_carried(
    original: nn.Module,
    graph: Graph,
    removed: Removed,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    ema: nn.Module | None = None,
) -> None:
    """Raises the errors of `carry_over`, and changes nothing."""
    _checked(original, original, graph, removed, optimizer=optimizer, scheduler=scheduler, ema=ema)


def _checked(
    original: nn.Module,
    small: nn.Module,
    graph: Graph,
    removed: Removed,
    *,
    optimizer: torch.optim.Optimizer | None,
    scheduler: Any,
    ema: nn.Module | None,
) -> tuple[Kept, nn.Module | None, _Carried | None]:
    """What stays of each tensor, the averaged weights, and the optimizer's groups and state for the small model."""
    for name, model in (("original", original), ("small", small), ("ema", ema)):
        _check_unwrapped(name, model)
    if scheduler is not None and (optimizer is None or getattr(scheduler, "optimizer", None) is not optimizer):
        raise ValueError("scheduler must be one of the optimizer that is given, got one of another")
    kept = kept_indices(graph, removed, original)
    averaged = None if ema is None else _averaged(ema, original)
    return kept, averaged, None if optimizer is None else _carried(optimizer, original, small, kept)


def _check_unwrapped(name: str, model: nn.Module | None) -> None:
    if type(model).__name__ in _WRAPPERS:
        raise TypeError(
            f"{name} must not be wrapped for parallel training, got {type(model).__name__}: shrink its .module on "
            "every rank with the same plan, then wrap the small model and make its optimizer's state again there"
        )


def _averaged(ema: Any, original: nn.Module) -> nn.Module:
    """What of the given module has the original's tensors."""
    if not isinstance(ema, nn.Module):
        raise TypeError(f"ema must be a module, such as torch.optim.swa_utils.AveragedModel, got {type(ema).__name__}")
    wanted = shapes_of(original)
    inner = getattr(ema, "module", None)
    for candidate in (ema, inner):
        if isinstance(candidate, nn.Module) and shapes_of(candidate) == wanted:
            _check_own_tensors(candidate, original)
            return candidate
    found = shapes_of(inner if isinstance(inner, nn.Module) else ema)
    other = next(name for name in (*wanted, *found) if wanted.get(name) != found.get(name))
    raise ValueError(
        f"ema must average the model's weights: {other} must have the shape {wanted.get(other)}, got {found.get(other)}"
    )


def _check_own_tensors(averaged: nn.Module, original: nn.Module) -> None:
    """Refuses averaged weights that are the original's, which cutting them in place would change."""
    originals = {id(tensor) for tensor in tensors_of(original).values()}
    for name, tensor in tensors_of(averaged).items():
        if id(tensor) in originals:
            raise ValueError(f"ema must hold weights of its own, and its {name} is the model's own tensor")


def _carried(optimizer: torch.optim.Optimizer, original: nn.Module, small: nn.Module, kept: Kept) -> _Carried:
    """The parameters of each group, and the state, of the small model."""
    names = {id(parameter): name for name, parameter in original.named_parameters()}
    parameters = dict(small.named_parameters())
    _check_parameters(optimizer, names)
    groups: list[list[Tensor]] = [
        [parameters[names[id(p)]] for p in group["params"]] for group in optimizer.param_groups
    ]
    state: dict[Any, Any] = {}
    for key, values in optimizer.state.items():
        name = names.get(id(key))
        if name is None:
            state[key] = values
        else:
            state[parameters[name]] = {
                entry: _cut_state(name, entry, value, key, kept.get(name, {})) for entry, value in values.items()
            }
    return groups, state


def _check_parameters(optimizer: Any, names: Mapping[int, str]) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "optimizer must keep a state for each parameter, got LBFGS: make a new one for the small model"
        )
    given: Sequence[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    other = [tuple(p.shape) for p in given if id(p) not in names]
    if other:
        shapes = ", ".join(map(str, other[:3])) + (", ..." if len(other) > 3 else "")
        raise ValueError(
            f"optimizer must train parameters of the model alone, got {len(other)} of {len(given)} that are none of "
            f"it, of shape {shapes}"
        )


def _cut_state(name: str, entry: str, value: Any, parameter: Tensor, kept: Mapping[int, Sequence[int]]) -> Any:
    """An entry of a parameter's state, as the parameter is cut."""

    def cut(tensor: Tensor) -> Tensor:
        if tensor.shape == parameter.shape:
            return cut_to(tensor, kept)
        if tensor.numel() == 1:
            return tensor
        raise ValueError(
            f"optimizer's state {entry!r} of {name} must have its shape {tuple(parameter.shape)} to be cut with it, "
            f"got {tuple(tensor.shape)}: make a new optimizer for the small model"
        )

    return pytree.tree_map_only(Tensor, cut, value) if kept else value
