"""ckrm_kernels.shrinking on a model of the zoo: what it couples, proves and leaves alone, and whether that is so."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping

import judge
from torch import Tensor, nn

from ckrm_kernels.shrinking import graph, proof, surgery
from ckrm_kernels.shrinking.couplings import Graph, Layer
from ckrm_kernels.shrinking.plan import plan_shrink

LONGEST_PROOF = 1.0  # second; of longer ones no plan is made, which would prove everything once more


def measured(model: nn.Module, inputs: tuple[Tensor, ...], reads: Mapping[str, int]) -> dict[str, object]:
    """The columns of this package in a model's row; it must be in evaluation mode."""
    before = conditions(model)
    start = time.perf_counter()
    try:
        traced = graph.trace(model, inputs)
    except (ValueError, TypeError, NotImplementedError) as error:  # a refusal of the whole model
        return {"refused model": judge.first_line(error)}
    traced_after = time.perf_counter()
    proofs = proof.prove(model, traced, inputs)
    proved_after = time.perf_counter()
    row: dict[str, object] = {
        "trace_seconds": f"{traced_after - start:.1f}",
        "proof_seconds": f"{proved_after - traced_after:.1f}",
    }
    row |= coupled(model, traced, proofs)
    row["model_unchanged"] = conditions(model) == before
    for share in (0.25, 0.5):
        verdict = jointly(model, traced, proofs, inputs, reads, share)
        row |= {f"{share:.0%}": verdict.name, f"{share:.0%}_left": f"{verdict.left:.3f}"}
        row[f"{share:.0%}_detail"] = verdict.detail
    if proved_after - traced_after < LONGEST_PROOF:
        verdict = by_plan(model, inputs, reads)
        row |= {"plan": verdict.name, "plan_left": f"{verdict.left:.3f}", "plan_detail": verdict.detail}
    return row


def coupled(model: nn.Module, traced: Graph, proofs: Mapping[str, proof.Proof]) -> dict[str, object]:
    """What was found, proved and left alone."""
    layers = {(layer.weight, layer.output_dim): layer for layer in traced.layers}
    weights = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    free = {
        (place, index)
        for coupling in traced.couplings
        if proofs[coupling.name].holds
        for entry in coupling.entries
        if (place := (entry.tensor, entry.dim)) in layers
        for index in entry.of(range(coupling.width))
    }
    names = [coupling.name for coupling in traced.couplings]
    refused = {name: proofs[name].reason for name in names if not proofs[name].holds}
    exact = [name for name in names if proofs[name].holds and proofs[name].exact]
    return {
        "layers": len(traced.layers),
        "couplings": len(names),
        "filters": sum(weights[place[0]].shape[place[1]] * copies(layer) for place, layer in layers.items()),
        "may_leave": sum(copies(layers[place]) for place, _ in free),
        "exact": len(exact),
        "statistics": sum(proofs[name].holds and not proofs[name].exact for name in names),
        "refused": len(refused),
        "refused_detail": counted(refused),
        "fixed": len(traced.fixed),
        "fixed_reasons": counted({name: reason.partition(" (")[0] for name, reason in traced.fixed.items()}),
        "fixed_detail": counted(traced.fixed),
        "unsupported": "; ".join(traced.unsupported)[:300],
    }


def copies(layer: Layer) -> int:
    """Filters of a transposed convolution for each entry of its weight's output dimension."""
    return layer.groups if layer.kind == "transposed" else 1


def counted(reasons: Mapping[str, str]) -> str:
    """Each reason with how many it holds for."""
    return "; ".join(f"{count} x {reason}" for reason, count in Counter(reasons.values()).most_common())[:600]


def jointly(
    model: nn.Module,
    traced: Graph,
    proofs: Mapping[str, proof.Proof],
    inputs: tuple[Tensor, ...],
    reads: Mapping[str, int],
    share: float,
) -> judge.Verdict:
    """The verdict on the model without a random share of the filters of every coupling that was proved, at once."""
    generator = random.Random(f"{share}")
    removed = {}
    for coupling in traced.couplings:
        if proofs[coupling.name].holds and coupling.width > 1:
            count = max(1, round(share * coupling.width))
            removed[coupling.name] = tuple(sorted(generator.sample(range(coupling.width), count)))
    try:
        small = surgery.without(model, traced, removed)
    except Exception as error:  # a crash is its result
        return judge.Verdict("error", f"surgery: {type(error).__name__}: {judge.first_line(error)}", 1.0)
    return judge.judge(model, small, inputs, reads)


def by_plan(model: nn.Module, inputs: tuple[Tensor, ...], reads: Mapping[str, int]) -> judge.Verdict:
    """The verdict on what `plan_shrink` makes of the model for 60 % of its parameters, filters drawn by chance."""
    try:
        small = plan_shrink(model, inputs, parameters=0.6, choose="random").apply(fold=False)
    except Exception as error:
        if "the least that can be reached" in str(error):
            return judge.Verdict("nothing", judge.first_line(error), 1.0)
        return judge.Verdict("error", f"plan: {type(error).__name__}: {judge.first_line(error)}", 1.0)
    return judge.judge(model, small, inputs, reads)


def conditions(model: nn.Module) -> tuple:
    """A model's values, modes, hooks and gradients, for comparison."""
    values = tuple(tensor.double().sum().item() for tensor in model.state_dict().values())
    modes = tuple((m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules())
    return values, modes, tuple((p.requires_grad, p.grad is None, p.dtype) for p in model.parameters())
