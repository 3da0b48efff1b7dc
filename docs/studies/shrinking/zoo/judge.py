"""Is a shrunk network the original without some filters? Judged from the two networks alone.

No tool's records are used. Every weight is given values that occur once, so that the values of the small network say
which entries of the original it kept, hence which input channels each layer no longer reads. The original with just
these inputs zeroed must be the same function.
"""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass

import norms
import numpy as np
import torch
from torch import Tensor, nn

TOLERANCE = 1e-9  # of the output's scale, in float64
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Verdict:
    """What a shrunk network is.

    name: "exact": the original with the inputs of the filters that left zeroed
        "statistics": the same, once the layer and group norms between reduce over the channels that stayed alone
        "wrong": runs, and is another function, with no error from the tool
        "error": does not run, train or save, or has outputs of another shape ("output")
        "nothing": has all its parameters
    detail: the deviation, of the outputs' scale, or the error; "without effect" where the small network gives what the
        original gives with nothing zeroed, so that its being exact says little
    left: share of the parameters that it has
    """

    name: str
    detail: str
    left: float


def with_single_values(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64, in place, with floating-point values that occur once, and none that is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for tensor in state(model).values():
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            spread = 0.1 if tensor.numel() == max(tensor.shape, default=1) or tensor.std() == 0 else 0.0
            tensor.mul_(1 + 0.02 * noise).add_(spread * noise + 1e-6 * noise)
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    """Floating-point parameters and buffers by name, shared ones once."""
    return {
        name: tensor
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if tensor.is_floating_point()
    }


def judge(original: nn.Module, small: nn.Module, inputs: Inputs, reads: Mapping[str, int] | None = None) -> Verdict:
    """What `small` is of `original`, a model of `with_single_values`.

    inputs: of a forward, with a batch of 2
    reads: of the weights that no layer's module holds, the dimension that reads channels
    """
    left = parameters(small) / parameters(original)
    if left == 1:
        return Verdict("nothing", "", left)
    trained = copy.deepcopy(small.train())  # which drops what some modules cache in evaluation, and can't be copied
    batches = [inputs, tuple(other(x) for x in inputs)]
    try:
        outputs = [run(small, batch) for batch in batches]
        name, detail = compared(original, small, batches, outputs, reads or {})
        if name in ("exact", "statistics"):
            train_and_save(trained, inputs)
    except Exception as error:  # whatever a broken network raises is its verdict
        name, detail = "error", f"{type(error).__name__}: {first_line(error)}"
    return Verdict(name, detail, left)


def compared(
    original: nn.Module, small: nn.Module, batches: list[Inputs], outputs: list[list[Tensor]], reads: Mapping[str, int]
) -> tuple[str, str]:
    """The name and detail of the verdict on a small model that gives these outputs."""
    shapes = [[tuple(x.shape) for x in run(original, batch)] for batch in batches]
    if shapes != [[tuple(x.shape) for x in output] for output in outputs]:
        return "output", "outputs of another shape"
    kept = {}
    for name, tensor in state(small).items():
        full = state(original).get(name)
        entries = None if full is None else kept_entries(full, tensor)
        if entries is None:
            return "wrong", f"{name} has values that the original's has not"
        kept[name] = entries
    masked = without_inputs(original, kept, reads)
    blind = ", without effect" * (deviation([run(original, batch) for batch in batches], outputs) <= TOLERANCE)
    found = deviation([run(masked, batch) for batch in batches], outputs)
    if found <= TOLERANCE:
        return "exact", f"{found:.1e}{blind}"
    norms.narrow_modules(masked, small, kept)
    again = deviation([run_with_norms_of(small, masked, batch) for batch in batches], outputs)
    return ("statistics", f"{again:.1e}{blind}") if again <= TOLERANCE else ("wrong", f"{min(found, again):.2g}")


def run_with_norms_of(small: nn.Module, masked: nn.Module, inputs: Inputs) -> list[Tensor]:
    """What `masked` gives when its norms without weights, too, see the channels of `small` alone."""
    with norms.Recorded() as recorded:
        run(small, inputs)
    with norms.Narrowed(recorded.calls):
        return run(masked, inputs)


def kept_entries(full: Tensor, part: Tensor) -> np.ndarray | None:
    """Where in the flattened `full` each entry of `part` lies, shaped as part; None if one lies nowhere."""
    values, wanted = full.detach().numpy().ravel(), part.detach().numpy()
    order = np.argsort(values)
    found = order[np.searchsorted(values[order], wanted.ravel()).clip(max=len(values) - 1)]
    return found.reshape(wanted.shape) if np.array_equal(values[found], wanted.ravel()) else None


def without_inputs(original: nn.Module, kept: Mapping[str, np.ndarray], reads: Mapping[str, int]) -> nn.Module:
    """A copy whose layers read zeros where the small network's layers have no weights any more."""
    masked = copy.deepcopy(original)
    modules = dict(masked.named_modules())
    tensors = state(masked)
    for name, entries in kept.items():
        module, weight = modules[name.rpartition(".")[0]], tensors[name]
        if name in reads or re.search(r"(in_proj_weight|weight_[ih]h_l\d+)$", name):
            dim = reads.get(name, 1)
            lost = np.setdiff1d(np.arange(weight.shape[dim]), np.unravel_index(entries.ravel(), weight.shape)[dim])
            weight.data.index_fill_(dim, torch.from_numpy(lost), 0)
        elif name.endswith("weight") and isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            weight.data.mul_(still_read(module, entries, tuple(weight.shape)))
    return masked


def still_read(module: nn.Module, entries: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """1 where a weight's input channel is read by a filter of its group that stayed, or where none stayed; else 0."""
    groups = getattr(module, "groups", 1)
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    rows, columns = (index.ravel() for index in np.unravel_index(entries, shape)[:2])
    group = rows // (shape[0] // groups)
    read = np.zeros((groups, shape[0] // groups if transposed else shape[1]), bool)
    read[group, rows % (shape[0] // groups) if transposed else columns] = True
    read[~np.isin(np.arange(groups), group)] = True  # the group is gone: what it made is zeroed where it is read
    mask = torch.from_numpy(read).double()
    mask = mask.reshape(-1, 1) if transposed else mask.repeat_interleave(shape[0] // groups, 0)
    return mask.reshape(*mask.shape, *[1] * (len(shape) - 2))


def deviation(wanted: list[list[Tensor]], given: list[list[Tensor]]) -> float:
    """The largest difference of outputs, of the largest entry of each tensor; NaN counts as infinite."""
    worst = 0.0
    for one, other in zip(wanted, given, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            found = ((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-30)).item()
            worst = max(worst, found if found == found else float("inf"))
    return worst


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The floating-point outputs of the model in evaluation, with its randomness seeded."""
    model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        return [x for x in leaves(model(*inputs)) if x.is_floating_point()]


def leaves(output: object) -> Iterator[Tensor]:
    """The tensors of nested outputs, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from (leaf for value in output.values() for leaf in leaves(value))
    elif isinstance(output, (list, tuple)):
        yield from (leaf for value in output for leaf in leaves(value))
    elif is_dataclass(output):
        yield from leaves(vars(output))


def other(x: Tensor) -> Tensor:
    """Another input, of a batch of 3: noise, or tokens in another order."""
    generator = torch.Generator().manual_seed(1)
    if x.is_floating_point():
        return torch.randn(3, *x.shape[1:], generator=generator, dtype=x.dtype)
    return torch.cat([x, x[:1]]).flip(-1)


def train_and_save(model: nn.Module, inputs: Inputs) -> None:
    """One step of training and a state dict saved and loaded; raises where one fails."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = sum(x.square().mean() for x in leaves(model(*inputs)) if x.is_floating_point())
    loss.backward()
    if not torch.isfinite(loss) or all(parameter.grad is None for parameter in trained):
        raise ArithmeticError(f"training: loss {loss.item()}, or no gradients")
    torch.optim.SGD(trained, 1e-4).step()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    model.load_state_dict(torch.load(file, weights_only=True))


def parameters(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened."""
    return (str(error).strip().splitlines() or [""])[0][:160]
