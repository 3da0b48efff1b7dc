"""Pushing filters apart: the smooth stand-in for lambda^t, of all pairs or of a random sample of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ckrm_kernels.backends import Backend, implementation
from ckrm_kernels.distributed import Team
from ckrm_kernels.distribution import omega_of_banks
from ckrm_kernels.functional import soft_redundancy_of_banks
from ckrm_kernels.ops import result_dtype
from ckrm_kernels.redundancy_loss.live_layers import LiveLayer
from ckrm_kernels.redundancy_loss.shared import shared_soft_redundancy
from ckrm_kernels.sampling import drawn_by_chance, packed_to_pairs, uniform_sample
from ckrm_kernels.sharing import facts_of
from ckrm_kernels.similarity import Similarity

CHANCE_SHARE = 0.01
"""The lambda by chance at a chance threshold: that below which a report finds no repeats."""


class Apart:
    """The mean over layers of the mean over a layer's pairs of sigmoid((Psi - t) / temperature).

    threshold: t, of all layers; None: of each layer the value that 1 % of its pairs exceed by chance
    pairs_per_step: of a layer with more pairs, so many are drawn anew at each call; None takes all
    team: the processes that share the work on whole layers where gradients are asked for
    """

    def __init__(
        self,
        layers: Sequence[LiveLayer],
        threshold: float | None,
        temperature: float,
        pairs_per_step: int | None,
        similarity: Similarity,
        backend: Backend | None,
        seed: int,
        team: Team,
    ) -> None:
        self.layers = layers
        self.threshold, self.temperature = threshold, temperature
        self.pairs_per_step = pairs_per_step
        self.similarity, self.backend = similarity, backend
        self.team = team
        self._has_same_layers = self._has_same_weights = False  # whether its processes have been found to
        self.generator = torch.Generator().manual_seed(seed)
        self.levels: list[Tensor] | None = None  # by chance, of each layer

    @property
    def is_refreshed(self) -> bool:
        """Whether anything is chosen anew now and then."""
        return self.threshold is None

    @property
    def is_ready(self) -> bool:
        """Whether what is chosen now and then is there."""
        return self.levels is not None

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes the chance thresholds anew, of the weights as they are."""
        levels = []
        for layer in self.layers:
            banks = layer.banks(self.similarity.scale_free)
            omega = omega_of_banks(list(drawn_by_chance(banks)), self.similarity, self.backend)
            assert omega is not None  # of a sample
            levels.append(torch.cat(omega).quantile(1 - CHANCE_SHARE))
        self.levels = levels

    def state(self) -> Tensor:
        """What a training that goes on needs: bytes, always as many. Levels are NaN where there are none."""
        levels = torch.full((len(self.layers),), torch.nan, dtype=torch.float64, device="cpu")
        if self.levels is not None:
            levels = torch.stack([level.cpu().double() for level in self.levels])
        return torch.cat((levels.view(torch.uint8), self.generator.get_state()))

    def load(self, state: Tensor) -> None:
        """Goes on from a state."""
        size = 8 * len(self.layers)
        levels = state[:size].clone().view(torch.float64)
        self.levels = None if levels.isnan().any() else list(levels.unbind())
        self.generator.set_state(state[size:].clone())

    def value(self) -> Tensor:
        """The penalty, of the weights as they are."""
        active = [index for index, layer in enumerate(self.layers) if not layer.is_frozen]
        if self.team.size > 1 and torch.is_grad_enabled():
            self._check_layers()
        if not active:
            bank = self.layers[0].banks(False)[0]
            return bank.new_zeros((), dtype=result_dtype(bank.dtype))
        of_layers = {index: self.layers[index].banks(self.similarity.scale_free) for index in active}
        whole = [
            (index, bank) for index in active for bank in of_layers[index] if not self._is_sampled(of_layers[index])
        ]
        threshold = (
            self.threshold if self.threshold is not None else [self._level(index, bank) for index, bank in whole]
        )
        values = self._of_banks([bank for _, bank in whole], threshold)
        # a layer's banks have as many pairs each
        found = [value / len(of_layers[index]) for (index, _), value in zip(whole, values, strict=True)]
        found += [self._of_sample(index, banks) for index, banks in of_layers.items() if self._is_sampled(banks)]
        return torch.stack([each.to(found[0]) for each in found]).sum() / len(active)

    def _of_banks(self, banks: Sequence[Tensor], threshold: float | Sequence[Tensor]) -> list[Tensor]:
        if self.team.size == 1 or not torch.is_grad_enabled() or not banks:
            return soft_redundancy_of_banks(banks, threshold, self.temperature, self.similarity, self.backend)
        return self._shared(banks, threshold)

    @torch._disable_dynamo  # torch.compiler.disable, which imports torch._dynamo at once
    def _check_layers(self) -> None:
        """Once, before anything is left out or gathered, that the processes have the same layers frozen."""
        if not self._has_same_layers:
            with self.team.together():
                self.team.check_agreement(self._facts)
            self._has_same_layers = True

    @torch._disable_dynamo
    def _shared(self, banks: Sequence[Tensor], threshold: float | Sequence[Tensor]) -> list[Tensor]:
        if not self._has_same_weights:
            with self.team.together():
                self.team.check_agreement(lambda: facts_of(banks, self.similarity, self.backend))
            self._has_same_weights = True
        return shared_soft_redundancy(banks, threshold, self.temperature, self.similarity, self.backend, self.team)

    def _facts(self) -> list[str]:
        """What the processes must have in common beside the weights."""
        layers = [f"a layer {layer.name!r}{' that is frozen' if layer.is_frozen else ''}" for layer in self.layers]
        threshold = "chance" if self.threshold is None else self.threshold
        arguments = {"temperature": self.temperature, "threshold": threshold, "pairs_per_step": self.pairs_per_step}
        return [*layers, *facts_of([], self.similarity, self.backend, **arguments)]

    def _level(self, index: int, bank: Tensor) -> Tensor:
        """The chance threshold of a layer."""
        assert self.levels is not None
        return self.levels[index].to(bank.device)

    def _is_sampled(self, banks: Sequence[Tensor]) -> bool:
        return self.pairs_per_step is not None and _pairs(banks) > self.pairs_per_step

    def _of_sample(self, index: int, banks: Sequence[Tensor]) -> Tensor:
        """The mean over `pairs_per_step` pairs of a layer, drawn without replacement: unbiased."""
        assert self.pairs_per_step is not None
        threshold = self.threshold if self.threshold is not None else self._level(index, banks[0])
        parts = []
        for bank, pairs in zip(banks, self._drawn(banks), strict=True):
            psi = implementation(self.backend, bank).psi_of_pairs(bank, pairs.to(bank.device), self.similarity)
            parts.append(((psi - threshold) / self.temperature).sigmoid().sum())
        return torch.stack(parts).sum() / self.pairs_per_step

    @torch._disable_dynamo  # torch.compiler.disable, which imports torch._dynamo at once
    def _drawn(self, banks: Sequence[Tensor]) -> list[Tensor]:
        """The pairs (P, 2) that are drawn of each bank of a layer."""
        assert self.pairs_per_step is not None
        filters = banks[0].shape[0]
        packed = uniform_sample(_pairs(banks), self.pairs_per_step, self.generator)
        which = packed // (_pairs(banks) // len(banks))
        packed = packed % (_pairs(banks) // len(banks))
        return [packed_to_pairs(packed[which == bank], filters) for bank in range(len(banks))]


def _pairs(banks: Sequence[Tensor]) -> int:
    return len(banks) * (banks[0].shape[0] * (banks[0].shape[0] - 1) // 2)
