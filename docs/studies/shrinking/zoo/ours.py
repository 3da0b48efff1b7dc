"""ckrm_kernels.shrinking on a model of the zoo: what it couples, proves and leaves alone, and whether that is so."""

from __future__ import annotations

import copy
import random
import time
from collections import Counter
from collections.abc import Mapping

import judge
import torch
from torch import Tensor, nn

from ckrm_kernels.shrinking import graph, proof, surgery
from ckrm_kernels.shrinking.couplings import Graph


def measured(model: nn.Module, inputs: tuple[Tensor, ...], reads: Mapping[str, int]) -> dict[str, object]:
    """The columns of this package in a model's row; it must be in evaluation mode."""
    before = copy.deepcopy(model)
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
    for share in (0.25, 0.5):
        verdict = jointly(model, traced, proofs, inputs, reads, share)
        row |= {f"{share:.0%}": verdict.name, f"{share:.0%}_left": f"{verdict.left:.3f}"}
        row[f"{share:.0%}_detail"] = verdict.detail
    row["model_unchanged"] = unchanged(before, model)
    return row


def may_leave(traced: Graph, proofs: Mapping[str, proof.Proof], name: str) -> bool:
    """Whether a coupling's filters may leave: proved exact, or in shape where statistics change."""
    return proofs[name].exact or (traced.coupling(name).statistics_change and not proofs[name].reason)


def coupled(model: nn.Module, traced: Graph, proofs: Mapping[str, proof.Proof]) -> dict[str, object]:
    """What was found, proved and left alone."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    widths = {
        layer.weight: weights[layer.weight].shape[layer.output_dim] * transposed_groups(layer)
        for layer in traced.layers
    }
    free = Counter(
        {
            (entry.tensor, index)
            for coupling in traced.couplings
            if may_leave(traced, proofs, coupling.name)
            for entry in coupling.with_role("produces")
            if entry.tensor in widths
            for index in entry.of(range(coupling.width))
        }
    )
    names = [coupling.name for coupling in traced.couplings]
    refused = {name: proofs[name].reason for name in names if not may_leave(traced, proofs, name)}
    exact = [name for name in names if proofs[name].exact]
    return {
        "layers": len(traced.layers),
        "couplings": len(names),
        "filters": sum(widths.values()),
        "may_leave": len(free),
        "exact": len(exact),
        "statistics": len(names) - len(exact) - len(refused),
        "refused": len(refused),
        "refused_detail": counted(refused),
        "fixed": len(traced.fixed),
        "fixed_detail": counted(traced.fixed),
        "unsupported": "; ".join(traced.unsupported)[:300],
    }


def transposed_groups(layer) -> int:
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
        if may_leave(traced, proofs, coupling.name) and coupling.width > 1:
            count = max(1, round(share * coupling.width))
            removed[coupling.name] = tuple(sorted(generator.sample(range(coupling.width), count)))
    try:
        small = surgery.without(model, traced, removed)
    except Exception as error:  # a crash is its result
        return judge.Verdict("error", f"surgery: {type(error).__name__}: {judge.first_line(error)}", 1.0)
    return judge.judge(model, small, inputs, reads)


def unchanged(before: nn.Module, after: nn.Module) -> bool:
    """Whether a model has the same values, modes, hooks and gradients as its copy of before."""
    values = all(
        torch.equal(a, b) for a, b in zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    )
    flags = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in before.modules()]
    now = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in after.modules()]
    wanted = [(p.requires_grad, p.grad is None) for p in before.parameters()]
    return values and flags == now and wanted == [(p.requires_grad, p.grad is None) for p in after.parameters()]
