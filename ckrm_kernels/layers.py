"""From a model to its layers: every module with a weight, ready to be measured or with the reason why it is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from ckrm_kernels.distributed import ALONE, Team
from ckrm_kernels.filters import grouped_banks
from ckrm_kernels.functional import all_finite, checked_weight
from ckrm_kernels.sharded import gathered, gathered_by, is_sharded, own_part, without_values
from ckrm_kernels.used_weights import (
    NoWeightError,
    Use,
    frozen_weights,
    fx_uses,
    is_freed,
    is_plain,
    is_uninitialised,
    torchscript_use,
    used_weight,
    with_adapters,
)

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_TORCHSCRIPT = "TorchScript whose weights or groups are not known, measure the module that it was made from"
_SHARDED = "sharded, gather its weight first"
_FREED = "sharded by FSDP1, measure within its summon_full_params"
_NORMALISATION = "normalisation, no filters"
_REASONS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), _NORMALISATION),
    ((nn.Embedding, nn.EmbeddingBag), "embedding, no filters"),
    ((nn.RNNBase, nn.RNNCellBase), "recurrent, no filters"),
    ((nn.MultiheadAttention,), "attention, its projections share one matrix"),
    ((nn.Bilinear,), "not a convolution"),
)


@dataclass(frozen=True, eq=False)
class ShardedWeight:
    """A weight of which each of several processes has a part, and the use that its layer makes of the whole."""

    weight: Tensor
    use: Use

    def banks(self, rank: int = 0, team: Team = ALONE) -> tuple[Tensor, ...]:
        """(F2, F1, *K) each, gathered; every process that has a part must call.

        rank, team: the only process that has them then, and those that call; without, all that call have them
        """
        weight = gathered(self.weight) if team.size == 1 else gathered_by(rank, self.weight, team)
        return () if weight is None else tuple(_banks(weight, self.use))

    @property
    def bank(self) -> Tensor:
        """The only bank (F2, F1, *K) of a layer that is not grouped, as it is sharded."""
        return _banks(self.weight, self.use)[0]

    @property
    def is_finite(self) -> bool:
        """Whether this process's part holds neither NaN nor Inf."""
        return all_finite(own_part(self.weight))


@dataclass(frozen=True, eq=False)
class Layer:
    """A module with a weight.

    banks: its filter banks (filters, F1, *K), each compared within itself, differentiable in the parameters that the
        weight is made of; none where it can't be measured
    note: why it can't, or what is to be known of how it is compared
    shared_with: the layer that has the same weight and comes first, and so has the banks; None where it is this one
    sharded: the weight, where it lies with several processes: then the banks have no values, and `gathered` has
    """

    name: str
    kind: str
    banks: tuple[Tensor, ...]
    note: str = ""
    shared_with: str | None = None
    sharded: ShardedWeight | None = None

    def gathered(self, rank: int = 0, team: Team = ALONE) -> tuple[Tensor, ...]:
        """The banks with their values; of a sharded weight, every process that has a part must ask for them.

        rank, team: as of `ShardedWeight.banks`
        """
        return self.sharded.banks(rank, team) if self.sharded else self.banks

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(F2, F1, *K) over all banks; None without banks."""
        return (sum(bank.shape[0] for bank in self.banks), *self.banks[0].shape[1:]) if self.banks else None


class _Place(NamedTuple):
    """A module of the model, and what the modules above it say of its weight.

    adapter: the module that adds a low-rank update to the output of this one
    part_of: the name of the layer whose update this one is a part of
    use: that a traced graph makes of the weight
    """

    name: str
    module: nn.Module
    adapter: nn.Module | None = None
    part_of: str | None = None
    use: Use | None = None


def model_layers(model: nn.Module, *, sharded: bool = False) -> list[Layer]:
    """Every module of the model that has a weight, in the order of `named_modules`, a shared one at each of its names.

    Names are without the prefixes of torch.compile, (Distributed)DataParallel, FSDP and checkpoint wrappers, and of
    a module around the model that has no parameter of its own, such as one that averages weights.
    Reads only: the model, its buffers, mode and gradients and the random number generators stay as they are.
    The weights are those that a forward pass uses (`used_weight`). One that can't be had is a layer without banks,
    whose note says why: it does not keep the others from being read.
    The banks keep the graph of the weight, through weight_norm, pruning masks and parametrisations too (to whatever
    these register), unless called under `torch.no_grad`.

    sharded: also layers whose weights lie with several processes; else these are without banks
    """
    read: dict[int, list[Layer]] = {}  # a computed weight is computed once, and so found to be shared
    tied: dict[frozenset[int], Layer] = {}
    layers = []
    for place in _places(model):
        if id(place.module) not in read:
            read[id(place.module)] = [_layer(place, tied)] if _has_weight(place) else _frozen(place)
        layers += [replace(each, name=f"{place.name}.{each.name}".strip(".")) for each in read[id(place.module)]]
    if not layers and isinstance(model, torch.jit.ScriptModule):
        layers = [Layer("", _kind(model), (), _TORCHSCRIPT)]
    if not sharded:
        layers = [Layer(each.name, each.kind, (), _SHARDED) if each.sharded else each for each in layers]
    return share_marked(layers)


def layer_modules(model: nn.Module) -> dict[str, nn.Module]:
    """By the names of `model_layers`, each convolution and linear module whose own weight is its layer's."""
    return {
        place.name: place.module
        for place in _places(model)
        if isinstance(place.module, (_ConvNd, nn.Linear)) and place.adapter is None and place.part_of is None
    }


def share_marked(layers: list[Layer]) -> list[Layer]:
    """The layers, with those whose weight occurred before left without banks and a note that says where."""
    first: dict[object, str] = {}
    marked = []
    for layer in layers:
        same: list[object] = [id(layer.sharded.weight)] if layer.sharded else [_storage_of(b) for b in layer.banks]
        same = [each for each in same if each is not None]
        owner = first.setdefault(tuple(same), layer.name) if same else layer.name
        note = f"shares its weight with {owner}"
        marked.append(Layer(layer.name, layer.kind, (), note, owner) if owner != layer.name else layer)
    return marked


def _storage_of(bank: Tensor) -> object:
    """What a bank shares with an equal one that is made of the same numbers; None where it is empty."""
    held = (bank.data_ptr(), bank.dtype, bank.shape, bank.stride(), str(bank.device))
    return held if bank.numel() else None


def _tied(layer: Layer, place: _Place, tied: dict[frozenset[int], Layer]) -> Layer:
    """The layer, with the banks of the first one that computes an equal weight from the same parameters."""
    parameters = frozenset(id(each) for name, each in place.module.named_parameters() if name != "bias")
    if not layer.banks or layer.sharded or not parameters:
        return layer
    first = tied.setdefault(parameters, layer)
    if first is layer or len(first.banks) != len(layer.banks):
        return layer
    return replace(layer, banks=first.banks) if all(map(torch.equal, first.banks, layer.banks)) else layer


def descriptions(layers: Sequence[Layer]) -> dict[str, str]:
    """By each layer's name, its kind, shape and groups, or why it has none, and which layers share its weight."""
    by_name = {layer.name: layer for layer in layers}
    sharing: dict[str, list[str]] = {}
    for layer in layers:
        sharing.setdefault(layer.shared_with or layer.name, []).append(layer.name)
    return {layer.name: _described(layer, by_name, sharing) for layer in layers}


def _described(layer: Layer, by_name: Mapping[str, Layer], sharing: Mapping[str, Sequence[str]]) -> str:
    owner = layer.shared_with or layer.name
    weight = by_name[owner]
    groups = f", {len(weight.banks)} groups" if len(weight.banks) > 1 else ""
    shared = f", shared by {', '.join(sorted(sharing[owner]))}" if len(sharing[owner]) > 1 else ""
    return f"layer {layer.name!r} ({layer.kind}, {weight.shape or weight.note}{groups}{shared})"


def _places(model: nn.Module) -> Iterator[_Place]:
    yield from _places_in(_Place("", model), {}, (), True)


def _places_in(place: _Place, uses: dict[str, Use], above: tuple[int, ...], is_root: bool) -> Iterator[_Place]:
    """A module and those in it. One that is registered within itself is not entered again.

    uses: of the weights below it, by their paths from it; above: the modules that it is in
    is_root: whether it is the model, or what wrappers hold it
    """
    module, above = place.module, (*above, id(place.module))
    uses = {**uses, **fx_uses(module)}
    yield place._replace(use=uses.get("weight"))
    for leaf, child in module._modules.items():
        if child is None or id(child) in above or (leaf == "parametrizations" and _parametrised(module)):
            continue
        wrapped = leaf in WRAPPED or (leaf == "module" and _is_wrapper(module, is_root))
        below = place._replace(name=place.name if wrapped else f"{place.name}.{leaf}".lstrip("."), module=child)
        if "base_layer" in module._modules and hasattr(type(module), "get_delta_weight"):
            is_base = leaf == "base_layer"
            below = below._replace(adapter=module if is_base else None, part_of=None if is_base else place.name)
        elif not wrapped:
            below = below._replace(adapter=None)
        own = {path.removeprefix(f"{leaf}."): use for path, use in uses.items() if path.startswith(f"{leaf}.")}
        yield from _places_in(below, own, above, is_root and wrapped)


def _is_wrapper(module: nn.Module, is_root: bool) -> bool:
    """Whether its child `module` is the model: torch's wrappers, and any without a parameter of its own."""
    bare = len(module._modules) == 1 and all(each is None for each in module._parameters.values())
    return isinstance(module, _WRAPPERS) or (is_root and bare)


def _own(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that the module itself holds."""
    own = {**dict(module._parameters.items()), **dict(module._buffers.items())}
    if isinstance(plain := vars(module).get("weight"), Tensor):  # such as a hypernetwork puts in
        own["weight"] = plain
    return {name: tensor for name, tensor in own.items() if isinstance(tensor, Tensor)}


def _parametrised(module: nn.Module) -> tuple[str, ...]:
    """The names of the tensors that parametrisations compute."""
    found = dict(module._modules.items()).get(
        "parametrizations"
    )  # not by an attribute, which a module's own code may answer
    return tuple(found) if isinstance(found, nn.ModuleDict) else ()


def _has_weight(place: _Place) -> bool:
    module = place.module
    if isinstance(module, (_ConvNd, nn.Linear)) or _is_packed(module):
        return True
    if any("weight" in name for name in (*_own(module), *_parametrised(module))):
        return True
    return any(_may_be_filters(parameter) for parameter in module._parameters.values())


def _may_be_filters(parameter: Tensor | None) -> bool:
    """Whether it is of a convolution's shape, of more than one filter and of more than one number in each."""
    return (
        parameter is not None
        and not is_lazy(parameter)
        and 3 <= parameter.dim() <= 5
        and 1 < parameter.shape[0] < parameter.numel()
    )


def _is_packed(module: nn.Module) -> bool:
    """Whether it is one of torch's quantised modules, whose weight is a method."""
    return "quantized" in type(module).__module__ and callable(getattr(type(module), "weight", None))


def _layer(place: _Place, tied: dict[frozenset[int], Layer]) -> Layer:
    """The module's layer, not yet named, whatever its own code raises."""
    kind = _kind(place.module)
    try:
        return _tied(_read_layer(place, kind), place, tied)
    except NoWeightError as error:
        return Layer("", kind, (), str(error))
    except Exception as error:  # a parametrisation, a forward or a tensor's class may raise anything
        message = next(iter(str(error).splitlines()), "")
        return Layer("", kind, (), f"its weight can't be computed: {message or type(error).__name__}")


def _kind(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return module.original_name
    bases = [base for base in type(module).__bases__ if base.__name__ != "FSDPModule"]
    is_wrapped = _parametrised(module) or len(bases) < len(type(module).__bases__)
    return (bases[0] if is_wrapped else type(module)).__name__


def _read_layer(place: _Place, kind: str) -> Layer:
    module = place.module
    if _is_packed(module):
        return Layer("", kind, (), "quantised, dequantise it first")
    if place.part_of is not None:
        return Layer("", kind, (), f"a part of the weight of {place.part_of or '(whole)'}")
    if isinstance(module, (_ConvNd, nn.Linear)):
        return _of_convolution(place, module, kind)
    weight = _own(module).get("weight")
    use = torchscript_use(module) if isinstance(module, torch.jit.ScriptModule) else place.use
    if weight is not None and use is not None:
        return _of_use(kind if place.use is None else use.operator, weight, use)
    if isinstance(module, torch.jit.ScriptModule) and weight is not None and weight.dim() > 1:
        return Layer("", kind, (), _TORCHSCRIPT)
    if weight is not None and _is_like_a_convolution(module, weight):
        use = Use(kind, module.groups, transposed=False)  # type: ignore[arg-type]
        return _of_use(kind, weight, use, "taken for a convolution by its shape")
    return Layer("", kind, (), _reason(module, kind))


def _of_convolution(place: _Place, module: _ConvNd | nn.Linear, kind: str) -> Layer:
    if is_uninitialised(module):
        return Layer("", kind, (), "lazy, run a batch through it first")
    used = used_weight(module)
    if place.adapter is not None:
        used = with_adapters(place.adapter, used)
    expected_dims = 2 if isinstance(module, nn.Linear) else 2 + len(module.kernel_size)
    if used.weight.dim() != expected_dims:
        return Layer("", kind, (), _FREED)
    operator = "linear" if isinstance(module, nn.Linear) else kind
    use = Use(operator, getattr(module, "groups", 1), getattr(module, "transposed", False))
    return _of_use(kind, used.weight, use, used.note)


def _of_use(kind: str, weight: Tensor, use: Use, note: str = "") -> Layer:
    """The layer of a weight whose use is known."""
    if is_sharded(weight) and not weight.is_meta:
        return _of_sharded(kind, weight, use, note)
    if not is_plain(weight):
        dequantised = weight.dequantize()
        if not is_plain(dequantised):
            return Layer("", kind, (), f"a {type(weight).__name__} tensor, which can't be read as numbers")
        weight, note = dequantised, "; ".join(filter(None, (f"{type(weight).__name__}, dequantised", note)))
    if weight.is_meta:
        return Layer("", kind, (), "on the meta device, it has no values")
    try:
        checked_weight(weight, "weight")
    except (TypeError, ValueError) as error:
        return Layer("", kind, (), str(error))
    if is_freed(weight):
        return Layer("", kind, (), _FREED)
    banks = _banks(weight, use)
    return Layer("", kind, tuple(banks), _compared(banks, use, note))


def _of_sharded(kind: str, weight: Tensor, use: Use, note: str) -> Layer:
    """The layer of a DTensor, gathered when its banks are asked for."""
    banks = _banks(checked_weight(without_values(weight), "weight"), use)
    return Layer("", kind, tuple(banks), _compared(banks, use, note), sharded=ShardedWeight(weight, use))


def _banks(weight: Tensor, use: Use) -> list[Tensor]:
    is_linear = use.operator == "linear"
    return [weight] if is_linear else grouped_banks(weight, use.groups, transposed=use.transposed)


def _compared(banks: Sequence[Tensor], use: Use, note: str) -> str:
    """The note, after how the filters of a grouped layer are compared."""
    compared = f"{use.groups} groups, compared within each" if use.groups > 1 else ""
    if len(banks) < use.groups:
        compared = "depthwise, all filters compared"
    return "; ".join(filter(None, (compared, note)))


def _is_like_a_convolution(module: nn.Module, weight: Tensor) -> bool:
    """Whether it has a convolution's settings, and its weight the shape that these give, such as a deformable one."""
    outs, ins, groups = (getattr(module, name, None) for name in ("out_channels", "in_channels", "groups"))
    if not (isinstance(outs, int) and isinstance(ins, int) and isinstance(groups, int) and groups > 0):
        return False
    kernel = getattr(module, "kernel_size", None)
    sizes = (kernel,) * (weight.dim() - 2) if isinstance(kernel, int) else kernel
    return isinstance(sizes, tuple) and tuple(weight.shape) == (outs, ins // groups, *sizes)


def _reason(module: nn.Module, kind: str) -> str:
    """Why a module that is no convolution by its class is not measured."""
    known = next((reason for types, reason in _REASONS if isinstance(module, types)), None)
    if known is not None:
        return known
    own = _own(module)
    weights = {name: tensor for name, tensor in own.items() if "weight" in name and not is_lazy(tensor)}
    if weights and all(tensor.dim() <= 1 for tensor in weights.values()):
        named = "norm" in kind.lower() or "running_mean" in own
        return _NORMALISATION if named else "not a convolution"
    if hasattr(module, "kernel_size") and hasattr(module, "num_experts"):
        return "conditional convolution, each pass mixes its weight from experts"
    for name, tensor in (weights or own).items():
        if not is_lazy(tensor) and 3 <= tensor.dim() <= 5:
            what = "a weight" if name == "weight" else f"a parameter {name}"
            return f"{what} of shape {tuple(tensor.shape)}, whose use is not known"
    return "not a convolution"


def _frozen(place: _Place) -> list[Layer]:
    """The layers in a TorchScript module that keeps its weights as constants of its graph."""
    module = place.module
    if not isinstance(module, torch.jit.ScriptModule) or len(module._modules) or _own(module):
        return []
    return [
        replace(_of_use(use.operator, weight, use, "frozen TorchScript"), name=name)
        for name, (weight, use) in frozen_weights(module).items()
    ]
