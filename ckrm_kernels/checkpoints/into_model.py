"""A checkpoint's tensors in the model that they belong to, which knows what the file does not: `--like`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ckrm_kernels.checkpoints.stored import CheckpointError
from ckrm_kernels.imported import imported

_SHOWN = 3


def constructor_of(path: str) -> Callable[[], nn.Module]:
    """What makes a model, by its import path such as "package.module:Net"; of a model itself, what copies it.

    Raises ValueError where there is no such thing, or where it needs arguments.
    """
    if not all(path.partition(":")):
        raise ValueError(f"like must be module:constructor, such as my_models:Net, got {path!r}")
    found = imported(path, f"like {path!r}")
    if isinstance(found, nn.Module):
        return partial(copy.deepcopy, found)
    if not callable(found):
        raise ValueError(f"like must be what makes a model, got {path!r}, which is of the type {type(found).__name__}")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise ValueError(
            f"like must need no arguments, and {path!r} does ({error}): define a function that calls it with them"
        ) from None
    except ValueError:  # no signature, as of something built in
        pass
    return found


def load_into(make_model: Callable[[], nn.Module], tensors: Mapping[str, Tensor], what: str) -> nn.Module:
    """A new model with the tensors of a checkpoint in the place of its own, in evaluation mode.

    make_model: makes the model, on the CPU; it draws what random numbers it draws
    tensors: by the names of the model's state dict, as the file holds them: not put together
    what: the checkpoint's path, which errors begin with
    Buffers may lack that no weight is computed from, and parameters that share their tensor with one that is there.
    Raises CheckpointError for a model that can't be made, for tensors that lack, that the model has not, and that have
    another shape than the model's.
    """
    name = _name(make_model)
    try:
        model = make_model()
    except Exception as error:  # whatever the model breaks with
        raise CheckpointError(f"{what}: its model can't be made, {name} raised {_words(error)}") from error
    if not isinstance(model, nn.Module):
        raise CheckpointError(
            f"{what}: {name} must make a torch.nn.Module, got an object of the type {type(model).__name__}"
        )
    own = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    given = _with_shared(model, tensors)
    differ = {
        key: f"{key} {tuple(given[key].shape)} for {tuple(value.shape)}"
        for key, value in own.items()
        if key in given and not is_lazy(value) and given[key].shape != value.shape
    }
    fitting = {key: tensor for key, tensor in given.items() if key not in differ}
    try:
        keys = model.load_state_dict(fitting, strict=False, assign=True)
    except Exception as error:  # of the hooks of its modules, too
        raise CheckpointError(f"{what}: does not fit {name}: {_words(error)}") from error
    optional = _optional(model)
    problems = [
        f"{words} {_some(names, count)}"
        for words, names, count in (
            ("it lacks", [key for key in keys.missing_keys if key not in differ and not optional(key)], len(own)),
            ("the model has no", [key for key in keys.unexpected_keys if not optional(key)], len(given)),
            ("other shapes than the model's:", list(differ.values()), len(own)),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{what}: does not fit {name}: {'; '.join(problems)}")
    return model.eval()


def _with_shared(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each also under the other names that the model has for it."""
    names: dict[int, list[str]] = {}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(key)
    given = dict(tensors)
    for shared in names.values():
        there = next((key for key in shared if key in tensors), None)
        given.update({key: tensors[there] for key in shared if there is not None and key not in tensors})
    return given


def _optional(model: nn.Module) -> Callable[[str], bool]:
    """Tells of a key whether no weight is computed from it, unlike from buffers of pruning and of parametrisations."""
    buffers = {
        name
        for name, _ in model.named_buffers()
        if "parametrizations" not in name.split(".") and not name.rpartition(".")[2].startswith("weight")
    }
    return lambda key: key in buffers or key.endswith("_extra_state")


def _name(make_model: Callable[..., Any]) -> str:
    module, name = (getattr(make_model, key, None) for key in ("__module__", "__qualname__"))
    return f"{module}:{name}" if module and name else repr(make_model)


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _some(names: Sequence[str], total: int) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more} (of {total})"
