"""Files that are damaged in small ways."""

import random
from pathlib import Path

from ckrm_kernels.checkpoints.stored import CheckpointError


def check_damaged(read, path: Path, cases: int, seed: int = 0) -> None:
    """Reads the file cut short and with single bytes changed: what is not read raises an error that names it.

    read: of a path, a list of tensors, each of which is read too
    """
    draw, whole = random.Random(seed), path.read_bytes()
    for case in range(cases):
        damaged = bytearray(whole)
        if case % 2:
            del damaged[draw.randrange(len(whole)) :]
        else:
            damaged[draw.randrange(len(whole))] ^= draw.randrange(1, 256)
        path.write_bytes(damaged)
        message = _read_all(read, path)
        assert message is None or message.startswith(f"{path}: "), message
    path.write_bytes(whole)


def _read_all(read, path: Path) -> str | None:
    try:
        for tensor in read(path):
            if tensor.read:
                assert tuple(tensor.read().shape) == tensor.shape
    except CheckpointError as error:
        return str(error)
    return None
