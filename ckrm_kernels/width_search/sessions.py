"""When, with what and at which settings the work on an experiment was begun or taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import torch

from ckrm_kernels.storage.machine import processor, versions
from ckrm_kernels.training import Runtime

_DECIDE = ("scipy",)  # distributions, beside torch, whose version may decide a number


@dataclass(frozen=True)
class Change:
    """A setting that was another before; both values as JSON has them."""

    setting: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Session:
    """One start of the work.

    started: in UTC, as ISO 8601; rounds: of the search that were finished before
    device: a processor's or a GPU's name; versions: of the packages, by name
    changes: of the settings, since the session before
    """

    started: str
    rounds: int
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()


def session_now(rounds: int, changes: Mapping[str, tuple[Any, Any]], runtime: Runtime) -> Session:
    """The session that begins. changes: settings by name, each before and after"""
    device = runtime.torch_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return Session(
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        rounds,
        name,
        versions(*_DECIDE),
        tuple(Change(setting, before, after) for setting, (before, after) in changes.items()),
    )
