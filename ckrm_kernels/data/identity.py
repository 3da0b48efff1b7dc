"""What tells one data set from another: digests of its contents, wherever they lie and however old they are."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from torch import Tensor

from ckrm_kernels.storage import settings


def digest_of(tensor: Tensor) -> str:
    """Of the tensor's dtype, shape and numbers."""
    array = tensor.numpy()
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


def digest_of_json(value: Any) -> str:
    """Of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """In words, in what two identities of data sets differ, the empty text where they are one.

    ours, theirs: see `Dataset`; what stands below "contents" are digests by the name of what they are of
    """
    ours, theirs = (json.loads(json.dumps(identity)) for identity in (ours, theirs))
    if ours == theirs:
        return ""
    if "contents" in ours and "contents" not in theirs:
        return "an earlier version of ckrm_kernels kept no digest of it"
    mine, others = ours.pop("contents", {}), theirs.pop("contents", {})
    different = settings.differences(theirs, ours, "absent")
    contents = [name for name in {**mine, **others} if mine.get(name) != others.get(name)]
    in_words = (f"{name} is {here}, not {there}" for name, (there, here) in different.items())
    return "; ".join([*in_words, *([", ".join(contents)] if contents else [])])
