"""A plan in words: the one thing to know, what is proved of it, what its columns mean, and how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckrm_kernels.presentation.numbers import counted, duration, percent, size
from ckrm_kernels.presentation.reasons import by_reason

if TYPE_CHECKING:
    from ckrm_kernels.shrinking.plan_views import PlanViews
    from ckrm_kernels.shrinking.rows import ShrunkLayer


def verdict(plan: PlanViews) -> str:
    """The one thing to know: how many layers lose filters, and what is left of the network."""
    shrunk = [layer for layer in plan.layers if layer.shrinks]
    if not shrunk:
        return f"No filter leaves any of {counted(len(plan.layers), 'layer')}."
    filters = sum(layer.width - layer.reached for layer in shrunk)
    first = f"{counted(filters, 'filter')} leave{'s' * (filters == 1)} {len(shrunk)} of"
    left = [f"{percent(after, before)} of the {name}" for name, before, after in _shares(plan) if before]
    return f"{first} {counted(len(plan.layers), 'layer')}: {' and '.join(left)} are left."


def proved(plan: PlanViews) -> str:
    """What is proved of the couplings whose filters leave, by themselves and of all together."""
    used = {layer.coupling for layer in plan.layers if layer.shrinks}
    proofs = [proof for name, proof in plan.proof.items() if name in used]
    exact = [proof for proof in proofs if proof.exact]
    if not proofs:
        return "Nothing was removed, so there is nothing to prove."
    worst = max(found for found in (0.0, plan.deviation, *(proof.deviation for proof in proofs)) if found is not None)
    within = f"to {worst:.1g} of the output's scale, in float64" if worst else "to the last bit, in float64"
    if len(exact) == len(proofs):
        return f"Proved: without these filters it is the network that ignores them, {within}."
    shape = counted(len(proofs) - len(exact), "coupling")
    why = "a norm's statistics change"
    reasons = "; ".join(dict.fromkeys(proof.reason or why for proof in proofs if not proof.exact))
    some = f"Proved of {len(exact)} of {counted(len(proofs), 'coupling')}, {within}; o" if exact else "O"
    return f"{some}f {shape} only the shape is proved ({reasons})."


def totals(plan: PlanViews) -> list[tuple[str, str, str, str]]:
    """Name, number before, number after and the share that is left, of all that the network takes."""
    before, after = plan.before, plan.after
    rows: list[tuple[str, str, str, float, float]] = [
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}", before.parameters, after.parameters),
        ("multiply-adds", f"{before.multiply_adds:,}", f"{after.multiply_adds:,}", *_both(plan, "multiply_adds")),
        ("file", size(before.file_bytes), size(after.file_bytes), before.file_bytes, after.file_bytes),
        ("one forward", duration(before.latency), duration(after.latency), before.latency, after.latency),
    ]
    return [(name, old, new, percent(part, whole) if whole else "") for name, old, new, whole, part in rows]


def unchanged(plan: PlanViews) -> list[tuple[str, list[ShrunkLayer]]]:
    """The layers that no filter leaves, by reasons, the most frequent first."""
    return grouped([layer for layer in plan.layers if not layer.shrinks])


def grouped(layers: Sequence[ShrunkLayer]) -> list[tuple[str, list[ShrunkLayer]]]:
    """The layers by why no filter left, or fewer than wanted, the most frequent first."""
    return by_reason(layers, lambda layer: layer.why or "none of its filters was chosen", lambda layer: layer.name)


def explanations(plan: PlanViews) -> dict[str, str]:
    """What the columns mean that the views of this plan show, by their heads."""
    layers, consumers = plan.layers, "the layers that read its filters"
    terms = {}
    if any(layer.wanted != layer.reached for layer in layers):
        terms["wanted"] = "filters that the choice of widths asked for, where it is another number than those after"
    if any(layer.redundancy is not None for layer in layers):
        terms["lambda"] = (
            "share of pairs of the layer's filters with signed Psi above the threshold, whatever their scale"
        )
        terms["chance"] = "lambda of the same slices with the positions in each permuted"
    if any(layer.psi is not None for layer in layers):
        terms["Psi"] = "how alike a dropped filter is to the most similar one that is kept, signed; the mean"
    if any(layer.error is not None for layer in layers):
        terms["estimate"] = f"relative error of {consumers}, as estimated when the widths were chosen"
    if any(layer.error_before is not None for layer in layers):
        terms["plain"] = "relative error of the layer's output without the filters that it read"
        terms["folded"] = "the same once its weights are refitted to the filters that are left"
    if any(layer.deviation is not None for layer in layers):
        terms["proof"] = "largest difference from the network that ignores these filters, of the output's scale"
    return terms


def provenance(plan: PlanViews) -> list[tuple[str, str]]:
    """What was shrunk, how, when and with what: names and values."""
    made = [
        ("model", type(plan.model).__name__),
        ("budget", plan.budget),
        ("filters chosen by", plan.choose),
        ("date", plan.created),
        ("versions", ", ".join(map(" ".join, plan.versions.items()))),
    ]
    return [(name, value) for name, value in made if value]


def _shares(plan: PlanViews) -> list[tuple[str, int, int]]:
    return [(name, *_both(plan, name.replace("-", "_"))) for name in ("parameters", "multiply-adds")]


def _both(plan: PlanViews, name: str) -> tuple[int, int]:
    return getattr(plan.before, name), getattr(plan.after, name)
