"""What a search for widths is to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, get_args

from ckrm_kernels.choices import SearchRule, Tied
from ckrm_kernels.data import DataConfig
from ckrm_kernels.models import AnyNetwork, WidthTies, network_shape
from ckrm_kernels.models.kinds import as_network, network_settings
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.storage.settings import Tables, check_kinds
from ckrm_kernels.training import TrainingConfig
from ckrm_kernels.whole_numbers import whole_number
from ckrm_kernels.width_search.error_search import ErrorSearch
from ckrm_kernels.width_search.rules import BracketRule, StageRule, WidthRule, check_tied
from ckrm_kernels.width_search.search import Search
from ckrm_kernels.width_search.searchable import check_searchable


@dataclass(frozen=True)
class RuleConfig:
    """The rule that chooses widths.

    by: "redundancy" goes by lambda, see `BracketRule`; "error" takes the widths that shrinking the trained standard
        network to a budget keeps at the least added error, see `shrinking.plan_shrink`, each layer its own
    parameters: that budget, the share of the standard network's parameters, in (0, 1); of "error" alone
    tied: "layer" gives every layer, or set of layers that are added, its own width; "stage" one to each stage
    minimum, multiple, closed: see `BracketRule`; the last is of "redundancy" alone
    Raises ValueError, naming it, for a setting that is not as above.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    by: SearchRule = "redundancy"
    parameters: float = 0.5
    tied: Tied = "layer"
    minimum: int = BracketRule.minimum
    multiple: int = BracketRule.multiple
    closed: float = BracketRule.closed

    def __post_init__(self) -> None:
        if self.tied not in get_args(Tied):
            raise ValueError(f"tied must be layer or stage, got {self.tied!r}")
        if self.by not in get_args(SearchRule):
            raise ValueError(f"by must be redundancy or error, got {self.by!r}")
        if self.by == "error" and self.tied != "layer":
            raise ValueError(f"tied must be layer where the rule goes by error, got {self.tied!r}")
        for name in ("minimum", "multiple"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        self._of_each_width()

    def rule(self, ties: WidthTies) -> WidthRule:
        """The rule for the widths of a network; raises ValueError where those that it ties differ."""
        rule = self._of_each_width()
        if self.tied == "layer":
            return rule
        check_tied(ties.widths(), ties.stage_of_width())
        return StageRule(rule, ties.stage_of_width())

    def _of_each_width(self) -> BracketRule:
        return BracketRule(self.minimum, self.multiple, self.closed)


def number_of_seeds(value: Any, whole: bool = False) -> int | None:
    """How many seeds a list of them holds, as the settings of `ckrm train` have it; None where it is no list.

    Raises ValueError for a list of others than 0, 1, ...
    """
    if not isinstance(value, list):
        return None
    if not value or value != list(range(len(value))):
        raise ValueError(f"a search trains from the seeds 0, 1, ... of a number, got {value}")
    return len(value)


@dataclass(frozen=True)
class WidthSearchConfig:
    """Everything that decides what a search for widths and the comparison after it give.

    network: the standard one, deliberately too wide; each of its widths must be that of a measured layer, so `out` of
        bottlenecks must be None; where the rule goes by error, that of any layer
    training: of every network
    seeds: each round trains its widths from the seeds 0, 1, ... of this number
    final_seeds: the networks compared are trained from so many, >= seeds
    threshold: t of lambda^t, in [0, 1]
    psi: what lambda is measured with; its eps decides what counts as redundant
    target: a layer is within target when its lambda is at most this or what `MeasuredLayer` allows
    most_rounds: see `Search`
    margin: the largest difference in accuracy and in AUC that counts as none, > 0; see `Search` too
    Raises ValueError, naming it, for a setting that is not as above.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    tables: ClassVar[Tables] = {"network": network_settings, "seeds": number_of_seeds}

    network: AnyNetwork = field(default_factory=partial(network_shape, "resnet-paper-digits"))
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    rule: RuleConfig = field(default_factory=RuleConfig)
    similarity: Similarity = field(default_factory=Similarity)
    seeds: int = 3
    final_seeds: int = 10
    threshold: float = 0.6
    target: float = 0.01
    most_rounds: int = Search.most_rounds
    margin: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", as_network(self.network))
        check_kinds(self, data=DataConfig, training=TrainingConfig, rule=RuleConfig, similarity=Similarity)
        for name in ("seeds", "final_seeds", "most_rounds"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if self.final_seeds < self.seeds:
            raise ValueError(f"final_seeds must be a whole number >= seeds, {self.seeds}, got {self.final_seeds!r}")
        lowest = self.similarity.lowest
        if not lowest <= self.threshold <= 1 or math.isnan(self.threshold):
            raise ValueError(f"threshold must lie in [{lowest:g}, 1], got {self.threshold!r}")
        if not 0 < self.margin < math.inf:
            raise ValueError(f"margin must be a finite number > 0, got {self.margin!r}")
        self.search()
        check_searchable(self.network, self.rule.by)

    def search(self) -> Search:
        """The search that this describes; raises ValueError for a field that it does not accept."""
        settings = (self.network, self.rule.rule(self.network), self.target, self.most_rounds, self.margin)
        return ErrorSearch(*settings, self.rule.parameters) if self.rule.by == "error" else Search(*settings)
