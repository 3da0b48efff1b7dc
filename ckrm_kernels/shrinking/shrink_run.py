"""A network shrunk into a folder: planned, folded, written; what is there already is not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ckrm_kernels.extras import check_installed
from ckrm_kernels.shrinking.finished_parts import FinishedParts
from ckrm_kernels.shrinking.inputs import as_inputs
from ckrm_kernels.shrinking.kept_plan import keep_plan, kept_plan
from ckrm_kernels.shrinking.plan import ShrinkPlan, plan_shrink
from ckrm_kernels.shrinking.saved import PLAN, WEIGHTS, load_shrunk, save_shrunk
from ckrm_kernels.storage.files import read_json, write_atomically, write_json
from ckrm_kernels.storage.lock import locked
from ckrm_kernels.storage.settings import check_same
from ckrm_kernels.version import __version__

SETTINGS, PAGE, TEXT, DATA = "settings.json", "report.html", "report.txt", "report.json"
_PLANNED, _UNFINISHED = "planned.json", "unfinished"


@dataclass(frozen=True)
class ShrinkRun:
    """What is shrunk, how, and where to.

    folder: where all is written
    model: the trained model; made_by: where it comes from, in words
    example_inputs: of its forward pass, a batch of 2 or more, see `plan_shrink`
    calibration: (N, ...) unlabelled inputs, or None
    options: further arguments of `plan_shrink` that JSON can hold, `images` among them
    """

    folder: Path
    model: nn.Module
    made_by: str
    example_inputs: Any
    calibration: Tensor | None
    options: Mapping[str, Any]

    def settings(self) -> dict[str, Any]:
        """All that decides the result, as JSON."""
        value = {
            "version": __version__,
            "network": self.made_by,
            "weights": _digest(self.model.state_dict().values()),
            "inputs": _digest(as_inputs("example_inputs", self.example_inputs).tensors()),
            "calibration": None if self.calibration is None else _digest([self.calibration]),
            **self.options,
        }
        return dict(json.loads(json.dumps(value)))


def shrink_into(run: ShrinkRun, make: Callable[[], nn.Module], *, progress: bool = False) -> ShrinkPlan | None:
    """Shrinks the model into the folder, and gives the plan; None where the folder holds the result already.

    make: makes the original model anew, into which the result is loaded once it is written, to see that it can be
    The folder ends with the plan and the weights (see `save_shrunk`), report.html, report.txt, report.json and
    settings.json. Killed at any moment, a later call of the same settings goes on to the same bits, from the curves and
    refitted layers that are finished, or finds it done.
    Raises ValueError where the folder holds the result of other settings, or what this function did not write.
    """
    check_installed("shrinking into files", "safetensors", "matplotlib")
    settings = run.settings()
    keep = FinishedParts(run.folder / _UNFINISHED, {**settings, "torch": torch.__version__})
    with locked(run.folder):
        plan = None if _is_done(run.folder, settings) else _shrunk(run, settings, make, progress, keep)
        (run.folder / _PLANNED).unlink(missing_ok=True)
        keep.remove()
        return plan


def _shrunk(
    run: ShrinkRun, settings: dict[str, Any], make: Callable[[], nn.Module], progress: bool, keep: FinishedParts
) -> ShrinkPlan:
    """The plan, its small model and all views of it written; the page last."""
    plan = _planned(run, settings, progress, keep)
    small = plan.apply(progress=progress, keep=keep)
    save_shrunk(run.folder, plan, small)
    _check_loads(run.folder, make, small)
    plan.to_json(run.folder / DATA)
    write_atomically(run.folder / TEXT, f"{plan}\n")
    plan.to_html(run.folder / PAGE)
    return plan


def _planned(run: ShrinkRun, settings: dict[str, Any], progress: bool, keep: FinishedParts) -> ShrinkPlan:
    """The plan, which is kept until all is written; that which was kept, if any."""
    path, images = run.folder / _PLANNED, run.options["images"]
    plan = kept_plan(path, run.model, run.example_inputs, run.calibration, images)
    if plan is None:
        data = run.calibration
        try:
            plan = plan_shrink(
                run.model, run.example_inputs, calibration=data, progress=progress, keep=keep, **run.options
            )
        except (TypeError, ValueError):  # what can't be planned leaves nothing
            keep.remove()
            raise
        write_json(run.folder / SETTINGS, settings)
        keep_plan(path, plan)
    return plan


def _is_done(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder holds the whole result of the settings; the page is written last."""
    if not (folder / SETTINGS).exists():
        if there := [name for name in (PLAN, WEIGHTS, PAGE) if (folder / name).exists()]:
            raise ValueError(f"{folder} holds {there[0]}, which this did not write: choose another folder")
        return False
    check_same(settings, read_json(folder / SETTINGS), folder)
    return all((folder / name).exists() for name in (PLAN, WEIGHTS, PAGE))


def _check_loads(folder: Path, make: Callable[[], nn.Module], small: nn.Module) -> None:
    loaded, state = load_shrunk(make, folder).state_dict(), small.state_dict()
    different = [name for name, tensor in state.items() if not _same(loaded.get(name), tensor)]
    if different or len(loaded) != len(state):
        raise RuntimeError(f"{folder}: {different or 'a tensor'} is read otherwise than it was written")


def _same(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num().cpu())


def _digest(tensors: Any) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
