"""Reports made by hand, as views have to show them."""

from __future__ import annotations

from ckrm_kernels.report import LayerRedundancy, RedundancyReport
from ckrm_kernels.report.result import ScaleFreeRedundancy, Source
from ckrm_kernels.similarity import Similarity

BINS = 100
NASTY = '<script>alert("x")</script>&$a_1$'


def layer(
    name: str,
    redundancy: float = 0.0,
    chance: float | None = 0.0,
    *,
    scale_free: tuple[float, float, float] | None = (0.0, 0.0, 64),
    kind: str = "Conv2d",
    shape: tuple[int, ...] = (64, 16, 3, 3),
    distinct: float = 64,
    dead: int = 0,
    live: tuple[float, float] = (0.0, 0.0),
    models: int = 1,
    reason: str = "",
) -> LayerRedundancy:
    """A measured layer; scale_free: lambda, chance and distinct."""
    pairs = shape[0] * (shape[0] - 1) // 2
    above = round(redundancy * pairs)
    histogram = (pairs - above, *[0] * (BINS - 2), above)
    by_shape = None
    if scale_free is not None:
        found, by_chance, left = scale_free
        deviation = None if models == 1 else 0.01
        by_shape = ScaleFreeRedundancy(
            found, deviation, (found,) * models, by_chance, (by_chance,) * models, left, (int(left),) * models
        )
    return LayerRedundancy(
        name=name,
        kind=kind,
        filters=shape[0],
        slices=shape[1],
        kernel_size=shape[2:],
        pairs=pairs,
        redundancy=redundancy,
        deviation=None if models == 1 else 0.01,
        per_model=(redundancy,) * models,
        chance=chance,
        chance_per_model=() if chance is None else (chance,) * models,
        distinct=None if chance is None else distinct,
        distinct_per_model=() if chance is None else (int(distinct),) * models,
        histogram=tuple(models * count for count in histogram),
        histogram_per_model=(histogram,) * models,
        status="measured",
        reason=reason,
        dead=dead,
        dead_per_model=(dead,) * models,
        live_redundancy=live[0] if dead else redundancy,
        live_chance=live[1] if dead else chance,
        scale_free=by_shape,
    )


def skipped(name: str, reason: str, kind: str = "BatchNorm2d") -> LayerRedundancy:
    """A layer without filters."""
    return LayerRedundancy(
        name, kind, None, None, None, 0, None, None, (), None, (), None, (), None, (), "skipped", reason
    )


def report(*layers: LayerRedundancy, **others: object) -> RedundancyReport:
    """A report of these layers, of one file."""
    values = {
        "threshold": 0.6,
        "models": 1,
        "similarity": Similarity(),
        "sources": (Source("weights/model.safetensors", 44_700_000, "0123456789abcdef" * 4),),
        "created": "2026-11-27T04:30:00+00:00",
        "versions": {"ckrm_kernels": "1.0", "torch": "2.13.0"},
    }
    return RedundancyReport(layers, **{**values, **others})


REPEATS = layer("blocks.11.conv_dw", 0.7, 0.1, scale_free=(0.652, 0.0009, 15), distinct=12, shape=(672, 1, 5, 5))
ARTEFACT = layer("stem.conv", 1.0, 1.0, scale_free=(0.0, 0.0, 49), distinct=1)
NOTHING = layer("blocks.0.conv_pw_with_a_long_name_of_its_own.conv", 0.0004, 0.0002)
DEAD = layer("dead", 0.224, 0.199, scale_free=(0.224, 0.199, 40), dead=48, live=(0.08, 0.016), distinct=40)
SINGLE = layer("single", 0.0, 0.0, shape=(1, 16, 3, 3), scale_free=(0.0, 0.0, 1), distinct=1)
NORMS = [skipped(f"blocks.{index}.bn", "normalisation, no filters") for index in range(41)]
SHARED = [skipped(f"copy{index}", f"shares its weight with {index}", "Conv2d") for index in range(3)]
EVERYTHING = report(REPEATS, ARTEFACT, NOTHING, DEAD, SINGLE, *NORMS, *SHARED)
