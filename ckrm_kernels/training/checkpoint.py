"""A finished training run on disk: safetensors weights and a JSON record beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ckrm_kernels.training.files import read_json, write_atomically, write_json
from ckrm_kernels.training.loop import Epoch

_WEIGHTS, _RECORD = "weights.safetensors", "run.json"


@dataclass(frozen=True)
class Run:
    """A finished training run.

    identity: everything that decides the result, as JSON
    history: its epochs
    seconds: how long it took
    """

    identity: dict[str, Any]
    history: tuple[Epoch, ...]
    seconds: float


def save_run(folder: Path, model: nn.Module, run: Run) -> None:
    """Writes the weights, then the record, whose presence says that the run is finished."""
    write_atomically(folder / _WEIGHTS, as_safetensors(model.state_dict()))
    write_json(folder / _RECORD, asdict(run))


def as_safetensors(tensors: dict[str, Tensor]) -> bytes:
    """The content of a safetensors file."""
    content: bytes = _safetensors().save(tensors)
    return content


def load_run(folder: Path, identity: dict[str, Any]) -> Run | None:
    """The finished run in the folder, or None where there is none of this identity."""
    if not (folder / _RECORD).exists() or not (folder / _WEIGHTS).exists():
        return None
    record = read_json(folder / _RECORD)
    if record["identity"] != identity:
        return None
    return Run(identity, tuple(Epoch(**epoch) for epoch in record["history"]), record["seconds"])


def load_weights(folder: Path, model: nn.Module) -> None:
    """Loads the run's weights into the model and leaves it in evaluation mode."""
    model.load_state_dict(_safetensors().load_file(folder / _WEIGHTS))
    model.eval()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('checkpoints need safetensors: pip install "ckrm-kernels[train]"') from error
    return safetensors.torch
