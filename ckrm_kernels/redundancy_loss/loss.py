"""`RedundancyLoss`, the penalty as a module."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ckrm_kernels.choices import Pointwise
from ckrm_kernels.distributed import team_of
from ckrm_kernels.distribution import checked_threshold
from ckrm_kernels.options import SimilarityOptions, resolve
from ckrm_kernels.redundancy_loss.apart import Apart
from ckrm_kernels.redundancy_loss.live_layers import live_layers
from ckrm_kernels.redundancy_loss.together import Together
from ckrm_kernels.whole_numbers import whole_number

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Toward = Literal["apart", "together"]
_OF_APART = {"threshold": 0.6, "temperature": 0.1, "pairs_per_step": None, "pointwise": "skip", "group": None}
_OF_TOGETHER = {"example_inputs": None, "share": 0.5}
_OF_BOTH = ("layers", "toward", "refresh", "seed")


class RedundancyLoss(nn.Module):
    """A penalty on the redundancy of a network's filters: `loss = criterion(...) + 0.1 * penalty()`.

    toward="apart", the default, pushes filters apart. It is the mean over layers of the smooth lambda^t

        (1 / pairs) * sum over i < j of sigmoid((Psi(i, j) - t) / temperature)

    which goes to lambda^t as the temperature goes to 0 (a pair at t itself counts as half). Pairs further than a few
    temperatures from t have next to no gradient: where all Psi lie far below t, take threshold="chance".

    toward="together" pulls filters onto each other, so that `plan_shrink` can merge them without loss: the mean over
    couplings (layers whose filters leave together), over the pairs chosen in each, of the sum over modules m that make
    or follow the filters (convolutions, batch norms, ...) of

        |v_m(i) - v_m(j)|^2 / mean over filters k of |v_m(k)|^2

    v_m(i) being all of the module's parameters that belong to filter i; no gradient goes through the mean. The pairs
    are those of highest signed Psi, chosen anew every `refresh` calls. A penalty on 1 - Psi would not make filters
    equal: Psi takes the sign out of each slice, and the norm behind them must agree, too.

    model_or_layers: a model, or a sequence of modules, not changed and not registered: this module has no parameters
    threshold: t, a number in [0, 1], of a signed similarity in [-1, 1]; or "chance": in each layer the value that 1 %
        of pairs exceed when the positions in every slice are permuted (as `measure`'s chance level), so that what lies
        above the layer's chance level is penalised; taken anew every `refresh` calls
    temperature: > 0, in units of Psi
    layers: only the layers whose names hold this pattern, or one of several, or fit it as a glob
    pairs_per_step: of a layer with more pairs than this, so many are drawn at each call, without replacement: the
        penalty and its gradient are unbiased. By a generator of its own, the same on all ranks; inside a checkpoint the
        backward pass draws its own
    pointwise: what to do with 1x1 convolutions and Linear, as `measure` takes it
    example_inputs: of toward="together", inputs of the model's forward pass as `plan_shrink` takes them
    share: of toward="together", that of each coupling's filters that are pulled onto one that stays
    group: of toward="apart", a process group whose members share the work: each computes whole layers with their
        gradients, and has those of the others, so that the penalty and its gradient are bit for bit those of one
        process (of backend="reference" the gradient but for rounding). All must call, with the same layers frozen;
        where gradients are disabled, and for layers of which pairs are drawn, each works alone. No double backward
    refresh: calls with gradients after which thresholds by chance, or pairs, are taken anew; >= 1
    seed: of the generator that draws pairs
    options: of toward="apart", see `SimilarityOptions`; scale_free=True is what pushes shapes apart, since a penalty at
        an absolute eps is also met by larger weights

    `penalty()` reads the weights as the next forward pass uses them (parametrisations, weight_norm, ...) and gives a
    scalar, float32 (float64 for float64 weights), also under autocast. Layers that are frozen at a call count for
    nothing, of toward="together" with all that leave with them. `state_dict` holds the thresholds, pairs and the
    generator's state: a resumed training goes on alike.
    Works under torch.compile; what is drawn or chosen anew is outside the compiled graph.
    Raises TypeError or ValueError for arguments that are wrong, for a model without layers to compare, for a pattern
    that fits no layer, for weights that FSDP1 has flattened, and of toward="together" for any sharded ones. Those of
    fully_shard or tensor parallelism are gathered, a layer at a time, for which every process must call.
    """

    def __init__(
        self,
        model_or_layers: nn.Module | Iterable[nn.Module],
        threshold: float | Literal["chance"] = 0.6,
        *,
        temperature: float = 0.1,
        layers: str | Iterable[str] | None = None,
        pairs_per_step: int | None = None,
        toward: Toward = "apart",
        pointwise: Pointwise = "skip",
        example_inputs: Any = None,
        share: float = 0.5,
        group: ProcessGroup | None = None,
        refresh: int = 100,
        seed: int = 0,
        **options: Unpack[SimilarityOptions],
    ) -> None:
        super().__init__()
        similarity, backend = resolve(options, "RedundancyLoss", *_OF_APART, *_OF_TOGETHER, *_OF_BOTH)
        if toward not in ("apart", "together"):
            raise ValueError(f'toward must be "apart" or "together", got {toward!r}')
        given = {
            "threshold": threshold,
            "temperature": temperature,
            "pairs_per_step": pairs_per_step,
            "pointwise": pointwise,
            "group": group,
            "example_inputs": example_inputs,
            "share": share,
        }
        _check_of(toward, given, options)
        self.refresh = whole_number("refresh", refresh)
        seed = whole_number("seed", seed, 0)
        self._calls = 0
        self._term: Apart | Together
        if toward == "together":
            if not isinstance(model_or_layers, nn.Module):
                raise TypeError('model_or_layers must be a model where toward="together"')
            if example_inputs is None:
                raise ValueError('toward="together" needs example_inputs, inputs of the model\'s forward pass')
            _check_share(share)
            found = live_layers(model_or_layers, layers, "vector")
            self._term = Together(model_or_layers, example_inputs, [layer.name for layer in found], share)
        else:
            found = live_layers(model_or_layers, layers, pointwise)
            level = None
            if threshold != "chance":
                level = checked_threshold(_number("threshold", threshold, ' or "chance"'), similarity.lowest)
            elif pointwise == "slices":
                raise ValueError('threshold="chance" permutes positions: pointwise must be "skip" or "vector"')
            if pairs_per_step is not None:
                pairs_per_step = whole_number("pairs_per_step", pairs_per_step)
            temperature = _checked_temperature(temperature)
            team = team_of(group)
            self._term = Apart(found, level, temperature, pairs_per_step, similarity, backend, seed, team)
        self._layers, self._known_as_frozen = found, set[str]()
        self._warn_of_frozen()

    def forward(self) -> Tensor:
        """The penalty of the weights as they are: a scalar, differentiable."""
        self._warn_of_frozen()
        if self._term.is_refreshed:
            self._refresh()
        return self._term.value()

    @property
    def pairs(self) -> dict[str, list[tuple[int, int]]]:
        """Of toward="together": by the coupling's name the pairs chosen last, (filter that leaves, that stays)."""
        chosen = self._term.pairs if isinstance(self._term, Together) else {}
        return {name: [(first, second) for first, second in pairs.tolist()] for name, pairs in chosen.items()}

    @torch._disable_dynamo  # torch.compiler.disable, which imports torch._dynamo at once
    def _refresh(self) -> None:
        if not self._term.is_ready or (torch.is_grad_enabled() and self._calls % self.refresh == 0):
            self._term.refresh()
        self._calls += torch.is_grad_enabled()

    def _warn_of_frozen(self) -> None:
        """Once for each layer."""
        frozen = [each.name for each in self._layers if each.is_frozen and each.name not in self._known_as_frozen]
        if frozen:
            self._known_as_frozen.update(frozen)
            warnings.warn(
                f"RedundancyLoss leaves out layers while they are frozen: {', '.join(frozen)}",
                stacklevel=3,
            )

    def get_extra_state(self) -> Tensor:
        """For `state_dict`: bytes, always as many, which every format of checkpoints holds."""
        return torch.cat((torch.tensor([self._calls], device="cpu").view(torch.uint8), self._term.state()))

    def set_extra_state(self, state: Tensor) -> None:
        """For `load_state_dict`; ValueError for the state of another model or direction."""
        own = self.get_extra_state()
        if state.shape != own.shape:
            raise ValueError(
                f"the state is of another model or toward another direction: {state.numel()} bytes, not {own.numel()}"
            )
        state = state.cpu()
        self._term.load(state[8:])
        self._calls = int(state[:8].clone().view(torch.int64))


def _check_of(toward: Toward, given: dict[str, Any], options: SimilarityOptions) -> None:
    """Raises ValueError for an argument of the other direction."""
    others, other = (_OF_APART, "apart") if toward == "together" else (_OF_TOGETHER, "together")
    set_to = [name for name, default in others.items() if given[name] is not default and given[name] != default]
    if toward == "together":
        set_to += options
    if set_to:
        raise ValueError(f'{set_to[0]} is of toward="{other}", got it with toward="{toward}"')


def _number(name: str, value: Any, accepted: str = "") -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number{accepted}, got {value!r}")
    return float(value)


def _checked_temperature(value: Any) -> float:
    if not 0 < _number("temperature", value) < math.inf:
        raise ValueError(f"temperature must be a finite number > 0, got {value!r}")
    return float(value)


def _check_share(value: Any) -> None:
    if not 0 < _number("share", value) < 1:
        raise ValueError(f"share must lie between 0 and 1, got {value!r}")
