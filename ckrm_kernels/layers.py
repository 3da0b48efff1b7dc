"""From a model to its layers: every module with a weight, ready to be measured or with the reason why it is not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from ckrm_kernels.filters import current_weight, module_banks
from ckrm_kernels.functional import checked_weight

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_REASONS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), "normalisation, no filters"),
    ((nn.Embedding, nn.EmbeddingBag), "embedding, no filters"),
    ((nn.RNNBase, nn.RNNCellBase), "recurrent, no filters"),
    ((nn.MultiheadAttention,), "attention, its projections share one matrix"),
)


@dataclass(frozen=True)
class Layer:
    """A module with a weight.

    banks: its filter banks (filters, F1, *K), each compared within itself, differentiable in the parameters that the
        weight is made of; none where it can't be measured
    note: why it can't, or what is to be known of how it is compared
    """

    name: str
    kind: str
    banks: tuple[Tensor, ...]
    note: str = ""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(F2, F1, *K) over all banks; None without banks."""
        return (sum(bank.shape[0] for bank in self.banks), *self.banks[0].shape[1:]) if self.banks else None


def model_layers(model: nn.Module) -> list[Layer]:
    """Every module of the model that has a weight, in the order of `named_modules`, a shared one at each of its names.

    Names are without the prefixes of torch.compile, (Distributed)DataParallel, FSDP and checkpoint wrappers.
    Reads only: the model, its buffers, mode and gradients and the random number generators stay as they are.
    The banks keep the graph of the weight, through weight_norm, pruning masks and parametrisations too (to whatever
    these register), unless called under `torch.no_grad`.
    """
    layers: dict[nn.Module, Layer] = {}  # a computed weight is computed once, and so found to be shared
    named = [(name, module) for name, module in _named(model) if _has_weight(module)]
    for name, module in named:
        if module not in layers:
            layers[module] = _layer(name, module)
    return share_marked([replace(layers[module], name=name) for name, module in named])


def share_marked(layers: list[Layer]) -> list[Layer]:
    """The layers, with those whose weight occurred before left without banks and a note that says where."""
    first: dict[object, str] = {}
    marked = []
    for layer in layers:
        same = [(b.data_ptr(), b.dtype, b.shape, b.stride(), str(b.device)) for b in layer.banks if b.numel()]
        owner = first.setdefault(tuple(same), layer.name) if same else layer.name
        shared = owner != layer.name
        marked.append(Layer(layer.name, layer.kind, (), f"shares its weight with {owner}") if shared else layer)
    return marked


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    modules, names = {"": model}, {"": ""}
    yield "", model
    for path, module in model.named_modules(remove_duplicate=False):
        parent, _, leaf = path.rpartition(".")
        if not path or "parametrizations" in path.split("."):
            continue
        wrapped = leaf in WRAPPED or (leaf == "module" and isinstance(modules[parent], _WRAPPERS))
        modules[path] = module
        names[path] = names[parent] if wrapped else f"{names[parent]}.{leaf}".lstrip(".")
        yield names[path], module


def _has_weight(module: nn.Module) -> bool:
    own = {**module._parameters, **module._buffers, **getattr(module, "parametrizations", {})}
    if isinstance(plain := vars(module).get("weight"), Tensor):  # such as a hypernetwork puts in
        own["weight"] = plain
    return any("weight" in name and value is not None for name, value in own.items()) or _is_packed(module)


def _is_packed(module: nn.Module) -> bool:
    """Whether it is one of torch's quantised modules, whose weight is a method."""
    return "quantized" in type(module).__module__ and callable(getattr(type(module), "weight", None))


def _layer(name: str, module: nn.Module) -> Layer:
    kind = parametrize.type_before_parametrizations(module).__name__
    if _is_packed(module):
        return Layer(name, kind, (), "quantised, dequantise it first")
    if not isinstance(module, (_ConvNd, nn.Linear)):
        known = [reason for types, reason in _REASONS if isinstance(module, types)]
        return Layer(name, kind, (), known[0] if known else "not a convolution")
    if any(is_lazy(parameter) for parameter in module.parameters()):
        return Layer(name, kind, (), "lazy, run a batch through it first")
    weight = _read_weight(module)
    expected_dims = 2 if isinstance(module, nn.Linear) else 2 + len(module.kernel_size)
    if weight.dim() != expected_dims or hasattr(weight, "full_tensor"):
        return Layer(name, kind, (), "sharded, gather its weight first")
    if weight.is_meta:
        return Layer(name, kind, (), "on the meta device, it has no values")
    try:
        checked_weight(weight, "weight")
    except (TypeError, ValueError) as error:
        return Layer(name, kind, (), str(error))
    groups = getattr(module, "groups", 1)
    banks = tuple(module_banks(module, weight))
    note = f"{groups} groups, compared within each" if groups > 1 else ""
    return Layer(name, kind, banks, "depthwise, all filters compared" if len(banks) < groups else note)


def _read_weight(module: nn.Module) -> Tensor:
    """The weight, without what computing it may change: a parametrisation's buffers and random numbers."""
    if not parametrize.is_parametrized(module, "weight"):
        return current_weight(module)
    original = module.get_submodule("parametrizations.weight")
    # not copied, so that gradients flow to them
    shared = [*original.parameters(), *(buffer for buffer in original.buffers() if buffer.requires_grad)]
    parametrization = copy.deepcopy(original, {id(tensor): tensor for tensor in shared}).eval()
    gpus = {tensor.get_device() for tensor in parametrization.parameters() if tensor.is_cuda}
    with torch.random.fork_rng(devices=sorted(gpus)):
        weight: Tensor = parametrization()
    return weight
