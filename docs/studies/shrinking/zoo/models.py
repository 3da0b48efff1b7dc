"""The models of the zoo by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import built
import joined  # noqa: F401 (enters its networks in KINDS)
import kinds
import operators  # noqa: F401
import predictions  # noqa: F401
import rearranged  # noqa: F401
import streams  # noqa: F401
import surroundings  # noqa: F401
import tasks


@dataclass(frozen=True)
class Model:
    """A model of the zoo.

    family: "hand-made", "transformers", "MONAI" or "ckrm_kernels"
    build: makes (network, example inputs with a batch of 2)
    reads: of weights that no layer's module holds, the dimension that reads channels
    """

    family: str
    build: Callable[[], tuple]
    reads: Mapping[str, int] = field(default_factory=dict)


def models() -> dict[str, Model]:
    """All models, in the order of the table."""
    found = {
        name.replace("_", " "): Model("hand-made", build, kinds.READS.get(name, {}))
        for name, build in kinds.KINDS.items()
    }
    families = {
        "transformers": built.TRANSFORMERS | tasks.TRANSFORMERS,
        "MONAI": built.MONAI | tasks.MONAI,
        "ckrm_kernels": built.OWN,
    }
    for family, builders in families.items():
        found |= {name: Model(family, build, built.READS.get(name, {})) for name, build in builders.items()}
    return found
