"""A small model in a folder: a plan that cuts the original model, as JSON, and the weights, as safetensors.

Neither file is run: the plan holds names and indices, which are checked against the model before anything is cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ckrm_kernels.checkpoints.raw import damage_named
from ckrm_kernels.extras import require
from ckrm_kernels.shrinking.copying import copied, tensors_of
from ckrm_kernels.shrinking.surgery import Kept, cut_in_place, kept_indices, shapes_of
from ckrm_kernels.shrinking.torch_modules import norm_sizes
from ckrm_kernels.shrinking.traceable import check_traceable
from ckrm_kernels.storage.files import sha256_of, write_atomically, write_json
from ckrm_kernels.version import __version__

if TYPE_CHECKING:
    from ckrm_kernels.shrinking.plan import ShrinkPlan

PLAN, WEIGHTS = "plan.json", "model.safetensors"
_FORMAT = 1
_FIELDS = {"format": int, "ckrm_kernels": str, "sha256": str, "layers": dict, "original": dict, "kept": dict}
_WHAT = "a small model's file"


def save_shrunk(folder: str | PathLike[str], plan: ShrinkPlan, model: nn.Module) -> None:
    """Writes the small model into a folder: `plan.json` and `model.safetensors`, replacing those of another.

    plan: that made it; model: what `plan.apply` gave, trained further or not
    Raises ValueError, before anything is written, where the model is none of this plan, or has state that is no
    tensor; TypeError for a plan or a model that is none; OSError where a file can't be written.
    """
    if not all(hasattr(plan, each) for each in ("graph", "removed", "model", "layers")):
        raise TypeError(f"plan must be a ShrinkPlan, as plan_shrink gives it, got {type(plan).__name__}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    folder = Path(folder)
    original, kept = _shapes(plan.model), kept_indices(plan.graph, plan.removed, plan.model)
    _check_cut(model, original, kept)
    content = _content(model)
    value = {
        "format": _FORMAT,
        "ckrm_kernels": __version__,
        "sha256": hashlib.sha256(content).hexdigest(),
        "layers": {layer.name: list(layer.kept) for layer in plan.layers},
        "original": original,
        "kept": {name: {str(dim): list(each) for dim, each in dims.items()} for name, dims in kept.items()},
    }
    (folder / PLAN).unlink(missing_ok=True)  # that of the weights before would not fit these
    write_atomically(folder / WEIGHTS, content)
    write_json(folder / PLAN, value)


def load_shrunk(model: nn.Module | Callable[[], nn.Module], folder: str | PathLike[str]) -> nn.Module:
    """The small model that `save_shrunk` wrote, in evaluation mode; its tensors are those saved, bit for bit.

    model: the original model, with any weights, which stays as it is; or what makes it, without arguments
    folder: with `plan.json` and `model.safetensors`; nothing of them is run
    Raises FileNotFoundError where one is missing, ValueError, naming the file and what is wrong in it, for damaged,
    foreign or hand-edited ones, and for a model that the plan is not of, naming the first tensor that differs;
    TypeError for a model that is none; either for one without values of its own (lazy, on the meta device, sharded).
    """
    folder = Path(folder)
    made = _made(model)
    path = folder / PLAN
    plan = _read(path)
    absent = norm_sizes(made).keys() - plan["original"].keys()  # from plans of before norms had entries
    _check_original(path, plan["original"], {name: each for name, each in _shapes(made).items() if name not in absent})
    kept = _checked_kept(path, plan["kept"], plan["original"])
    cut_in_place(made, kept)
    _load(folder / WEIGHTS, plan["sha256"], made)
    return made.eval()


def _made(model: Any) -> nn.Module:
    """A copy of the model, or what a constructor makes, that can hold values."""
    made = model() if callable(model) and not isinstance(model, nn.Module) else model
    if not isinstance(made, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module or what makes one, got {type(made).__name__}")
    check_traceable(made)
    return copied(made) if made is model else made


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    """Of all parameters and buffers, shared ones under their first name, and of norms without them."""
    return {name: list(shape) for name, shape in shapes_of(model).items()}


def _stored(model: nn.Module) -> dict[str, Tensor]:
    """What its file holds: parameters and persistent buffers."""
    left_out = set()
    for path, module in model.named_modules(remove_duplicate=False):
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise ValueError(f"model must hold its state in tensors, and {path or 'it'} has get_extra_state")
        left_out |= {f"{path}.{name}".removeprefix(".") for name in module._non_persistent_buffers_set}
    return {name: tensor for name, tensor in tensors_of(model).items() if name not in left_out}


def _content(model: nn.Module) -> bytes:
    with require(_WHAT, "safetensors"):
        import safetensors.torch
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _stored(model).items()}
    content: bytes = safetensors.torch.save(copies, {"format": "pt"})
    return content


def _check_cut(model: nn.Module, original: Mapping[str, list[int]], kept: Kept) -> None:
    """Refuses a model that is not the original without the filters of the plan."""
    shapes = shapes_of(model)
    for name, shape in original.items():
        wanted = [len(kept.get(name, {}).get(dim, range(size))) for dim, size in enumerate(shape)]
        found = list(shapes[name]) if name in shapes else None
        if found != wanted:
            what = "none" if found is None else str(tuple(found))
            raise ValueError(f"model must be what this plan's apply gave: {name} must be {tuple(wanted)}, got {what}")
    if added := [name for name in shapes if name not in original]:
        raise ValueError(f"model must be what this plan's apply gave, and it has another tensor {added[0]}")


def _read(path: Path) -> dict[str, Any]:
    """The plan's fields, each of its type."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        plan = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(plan, dict) or "format" not in plan or "kept" not in plan:
        raise ValueError(f"{path}: is no plan of a shrunk model")
    if plan["format"] != _FORMAT:
        raise ValueError(f"{path}: format must be {_FORMAT}, which this version reads, got {plan['format']!r}")
    for name, kind in _FIELDS.items():
        if type(plan.get(name)) is not kind:
            raise ValueError(f"{path}: {name} must be of the type {kind.__name__}, got {plan.get(name)!r:.80}")
    return plan


def _check_original(path: Path, plans: Mapping[str, Any], models: Mapping[str, list[int]]) -> None:
    """Refuses another model than the plan's, by the first tensor that differs."""
    for name in (*models, *(name for name in plans if name not in models)):
        if plans.get(name) != models.get(name):
            here, there = (
                f"of shape {tuple(shape)}" if isinstance(shape := each.get(name), list) else "not there"
                for each in (models, plans)
            )
            raise ValueError(f"{path}: is of another model: {name} is {there} in the plan's and {here} in this one")


def _checked_kept(path: Path, kept: Mapping[str, Any], original: Mapping[str, Any]) -> dict[str, dict[int, list[int]]]:
    """The indices by tensor and dimension; refuses what is none of the model's."""
    checked: dict[str, dict[int, list[int]]] = {}
    for name, dims in kept.items():
        if name not in original:
            raise ValueError(f"{path}: kept: {name} is no tensor of the model")
        if not isinstance(dims, dict):
            raise ValueError(f"{path}: kept: {name} must hold indices by dimension, got {dims!r:.80}")
        for dim, indices in dims.items():
            if dim not in map(str, range(len(original[name]))):
                raise ValueError(f"{path}: kept: {name} has no dimension {dim!r:.80}")
            _check_indices(f"{path}: kept: {name}, dimension {dim}", indices, original[name][int(dim)])
        checked[name] = {int(dim): indices for dim, indices in dims.items()}
    return checked


def _check_indices(what: str, indices: Any, size: int) -> None:
    if not isinstance(indices, list) or not indices or any(type(index) is not int for index in indices):
        raise ValueError(f"{what}: must be a list of indices, got {indices!r:.80}")
    if indices != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= size:
        raise ValueError(f"{what}: must be ascending indices below {size}, got {indices!r:.80}")


def _load(path: Path, digest: str, small: nn.Module) -> None:
    """Puts the file's tensors in the place of the small model's, which they must fit."""
    with require(_WHAT, "safetensors"):
        from safetensors import safe_open
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if sha256_of(path)[0] != digest:
        raise ValueError(f"{path}: is not the file that {PLAN} was written with: truncated, edited or of another model")
    with damage_named(path, "a safetensors file"), torch.no_grad():
        file = safe_open(path, framework="pt")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    wanted = _stored(small)
    for name in (*wanted, *(name for name in tensors if name not in wanted)):
        here, there = (None if name not in each else tuple(each[name].shape) for each in (wanted, tensors))
        if here != there:
            raise ValueError(f"{path}: {name} must be {here or 'absent'} in the small model, got {there or 'nothing'}")
        dtypes = {wanted[name].dtype, tensors[name].dtype}
        if len(dtypes) > 1 and not all(dtype.is_floating_point for dtype in dtypes):
            raise ValueError(f"{path}: {name} must be like {wanted[name].dtype}, got {tensors[name].dtype}")
    for name, tensor in wanted.items():
        tensor.data = tensors[name].to(tensor.device)
