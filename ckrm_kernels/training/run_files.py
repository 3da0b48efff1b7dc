"""Training runs on disk: the weights and the record of a finished one, and the whole state of an unfinished one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ckrm_kernels.data.identity import differences
from ckrm_kernels.extras import require
from ckrm_kernels.storage import settings
from ckrm_kernels.storage.files import read_json, write_atomically, write_json
from ckrm_kernels.storage.run_folders import RECORD, WEIGHTS
from ckrm_kernels.training.config import TrainingConfig
from ckrm_kernels.training.history import Epoch

_UNFINISHED = "unfinished.pt"


@dataclass(frozen=True)
class Run:
    """A finished training run.

    identity: everything that decides the result, as JSON
    history: its epochs
    seconds: how long it took, of a resumed one since its last start
    """

    identity: dict[str, Any]
    history: tuple[Epoch, ...]
    seconds: float


def save_run(folder: Path, model: nn.Module, run: Run, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the weights, then the record, whose presence says that the run is finished.

    metadata: what the file of the weights says of them
    Raises ValueError, as `check_replaceable`, where the folder holds another finished run.
    """
    check_replaceable(folder, run.identity)
    (folder / RECORD).unlink(missing_ok=True)  # that of lost weights would vouch for these
    write_atomically(folder / WEIGHTS, as_safetensors(model.state_dict(), metadata))
    write_json(folder / RECORD, asdict(run))
    for unfinished in (folder / _UNFINISHED, *folder.glob(f".{_UNFINISHED}.*")):  # and what a kill left half written
        unfinished.unlink(missing_ok=True)


def load_run(folder: Path, identity: dict[str, Any]) -> Run | None:
    """The finished run in the folder, or None where there is none of this identity.

    Raises ValueError, naming the file, where it is damaged.
    """
    if not (folder / RECORD).exists() or not (folder / WEIGHTS).exists():
        return None
    record = read_json(folder / RECORD)
    with _damage_named(folder / RECORD):
        run = Run(
            _completed(record["identity"]),
            tuple(Epoch(**epoch) for epoch in record["history"]),
            float(record["seconds"]),
        )
    return run if run.identity == identity else None


def check_replaceable(folder: Path, identity: dict[str, Any]) -> None:
    """Raises ValueError, naming the difference, where the folder holds a finished run of another identity."""
    if not (folder / RECORD).exists() or not (folder / WEIGHTS).exists():
        return
    with _damage_named(folder / RECORD):
        theirs = _completed(dict(read_json(folder / RECORD)["identity"]))
    data = differences(identity.get("data", {}), theirs.get("data", {}))
    others = settings.differences({**theirs, "data": 0}, {**identity, "data": 0}, "absent")
    different = [
        *([f"the data differs: {data}"] if data else []),
        *(f"{name} is {before}, not {after}" for name, (before, after) in others.items()),
    ]
    if different:
        raise ValueError(
            f"{folder} holds a finished network, which is never replaced, and it is another one ("
            f"{'; '.join(different)}): choose another folder"
        )


def load_metadata(folder: Path) -> dict[str, str]:
    """What the file of the run's weights says of them; raises ValueError, naming the file, where it is damaged."""
    safetensors = _safetensors()
    with _damage_named(folder / WEIGHTS), safetensors.safe_open(folder / WEIGHTS, "pt") as file:
        return dict(file.metadata() or {})


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """The finished run's weights by name; raises ValueError, naming the file, where they are damaged."""
    safetensors = _safetensors()
    with _damage_named(folder / WEIGHTS):
        tensors: dict[str, Tensor] = safetensors.load_file(folder / WEIGHTS)
    return tensors


def load_weights(folder: Path, model: nn.Module) -> None:
    """Loads the run's weights into the model and leaves it in evaluation mode."""
    tensors = load_tensors(folder)
    with _damage_named(folder / WEIGHTS):
        model.load_state_dict(tensors)
    model.eval()


@dataclass(frozen=True)
class UnfinishedRun:
    """Where the state of an unfinished run is kept: one file, so that it is whole or not there.

    folder: the run's; identity: everything that decides the result, as JSON
    """

    folder: Path
    identity: dict[str, Any]

    def save(self, state: dict[str, Any]) -> None:
        """Writes the state: nested dicts and lists of tensors and plain values."""
        content = BytesIO()
        torch.save({"identity": self.identity, "state": state}, content)
        write_atomically(self.folder / _UNFINISHED, content.getvalue())

    def take_up(self, load_state_dict: Callable[[dict[str, Any]], None]) -> None:
        """Calls the function with the state, if there is one of this identity.

        Raises ValueError, naming the file, where it is damaged.
        """
        path = self.folder / _UNFINISHED
        if not path.exists():
            return
        with _damage_named(path):
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if _completed(saved["identity"]) == self.identity:
                load_state_dict(saved["state"])


def _completed(identity: dict[str, Any]) -> dict[str, Any]:
    """A saved identity, with the defaults of settings of the training that came later."""
    if "training" not in identity:
        return identity
    return {**identity, "training": {**asdict(TrainingConfig()), **identity["training"]}}


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turns whatever a damaged file leads to, where it is read and used, into a ValueError that names it."""
    try:
        yield
    except OSError:  # which names it
        raise
    except Exception as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}); delete it to train anew") from error


def as_safetensors(tensors: dict[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file of copies of the tensors, the same for the same tensors and metadata."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content: bytes = _safetensors().save(copies)
    if not metadata:
        return content
    # safetensors would write the metadata in any order
    size = int.from_bytes(content[:8], "little")
    header = json.dumps({"__metadata__": dict(metadata), **json.loads(content[8 : 8 + size])}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def _safetensors() -> Any:
    with require("a trained network's file", "safetensors"):
        import safetensors.torch
    return safetensors.torch
