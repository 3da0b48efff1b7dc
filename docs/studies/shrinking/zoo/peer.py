"""torch-pruning on a model of the zoo: its groups one by one, and its pruner."""

from __future__ import annotations

import copy
import random
import warnings
from collections import Counter
from collections.abc import Callable, Mapping

import judge
import torch
from torch import Tensor, nn

MOST_GROUPS, MOST_GROUPS_OF_LARGE, LARGE = 16, 6, 100_000  # parameters: each group takes a graph of its own
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


def measured(model: nn.Module, inputs: tuple[Tensor, ...], reads: Mapping[str, int]) -> dict[str, object]:
    """The torch-pruning columns of a model's row; it must be in evaluation mode."""
    warnings.simplefilter("ignore")
    row: dict[str, object] = {}
    verdicts = by_groups(model, inputs, reads)
    counts = Counter(verdict.name for verdict in verdicts.values())
    row["groups"] = len(verdicts) - counts["output"]
    row |= {f"groups_{name}": counts[name] for name in ("exact", "statistics", "error", "wrong", "nothing")}
    row["groups_detail"] = details(verdicts)
    outputs = [name for name, verdict in verdicts.items() if verdict.name == "output"]
    for share in (0.25, 0.5):
        verdict = by_pruner(model, inputs, reads, share, outputs)
        row |= {f"pruner_{share:.0%}": verdict.name, f"pruner_{share:.0%}_left": f"{verdict.left:.3f}"}
        row[f"pruner_{share:.0%}_detail"] = verdict.detail
    return row


def by_groups(model: nn.Module, inputs: tuple[Tensor, ...], reads: Mapping[str, int]) -> dict[str, judge.Verdict]:
    """What becomes of the model without a quarter of the filters of one layer; for so many layers, spread evenly."""
    names = [name for name, module in model.named_modules() if isinstance(module, LAYERS)]
    most = min(len(names), MOST_GROUPS if judge.parameters(model) < LARGE else MOST_GROUPS_OF_LARGE)
    chosen = [names[index * len(names) // most] for index in range(most)]
    if names[-1] not in chosen:
        chosen.append(names[-1])  # most often the one that makes the output
    return {
        name: attempt(model, inputs, reads, lambda copied, name=name: one_group(copied, inputs, name))
        for name in chosen
    }


def attempt(
    model: nn.Module, inputs: tuple[Tensor, ...], reads: Mapping[str, int], prune: Callable[[nn.Module], None]
) -> judge.Verdict:
    """The verdict on a copy of the model after `prune`."""
    small = copy.deepcopy(model)
    try:
        prune(small)
    except Exception as error:  # what the tool raises is its result
        return judge.Verdict("error", f"pruning: {type(error).__name__}: {judge.first_line(error)}", 1.0)
    return judge.judge(model, small, inputs, reads)


def one_group(model: nn.Module, inputs: tuple[Tensor, ...], name: str) -> None:
    """Removes a random quarter of a layer's filters, and what torch-pruning couples with them."""
    import torch_pruning

    module = model.get_submodule(name)
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    if isinstance(module, nn.Linear):
        function = torch_pruning.prune_linear_out_channels
    elif getattr(module, "groups", 1) == width and not transposed:
        function = torch_pruning.prune_depthwise_conv_out_channels
    else:
        function = torch_pruning.prune_conv_out_channels
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=inputs, output_transform=flat)
    group = graph.get_pruning_group(module, function, idxs=random.Random(0).sample(range(width), max(1, width // 4)))
    if graph.check_pruning_group(group):
        group.prune()


def by_pruner(
    model: nn.Module, inputs: tuple[Tensor, ...], reads: Mapping[str, int], share: float, outputs: list[str]
) -> judge.Verdict:
    """The model after torch-pruning's pruner; the layers that make the output are ignored, as its README asks."""
    ignored = list(outputs)
    for _ in range(8):  # more layers turn out to make the output: those without an own try above
        verdict = attempt(model, inputs, reads, lambda copied: whole(copied, inputs, share, ignored))
        if verdict.name != "output":
            break
        more = [name for name, module in model.named_modules() if isinstance(module, LAYERS) and name not in ignored]
        if not more:
            break
        ignored.append(more[-1])
    return verdict


def whole(model: nn.Module, inputs: tuple[Tensor, ...], share: float, ignored: list[str]) -> None:
    """A step of the pruner with random importance."""
    import torch_pruning

    torch.manual_seed(0)
    torch_pruning.pruner.BasePruner(
        model,
        inputs,
        importance=torch_pruning.importance.RandomImportance(),
        pruning_ratio=share,
        ignored_layers=[model.get_submodule(name) for name in ignored],
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
        output_transform=flat,
    ).step()


def flat(output: object) -> list[Tensor]:
    """The outputs that have a gradient."""
    return [x for x in judge.leaves(output) if x.grad_fn is not None]


def details(verdicts: Mapping[str, judge.Verdict]) -> str:
    """The layers with an error or a wrong network, and why."""
    told = {name: verdict for name, verdict in verdicts.items() if verdict.name in ("error", "wrong")}
    return "; ".join(f"{name} {verdict.name} {verdict.detail}" for name, verdict in told.items())[:600]
