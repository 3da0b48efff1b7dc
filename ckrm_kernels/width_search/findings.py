"""Everything that a finished experiment found: what its conclusions, tables and report are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ckrm_kernels.comparison.candidates import Candidate, named, narrowed_of
from ckrm_kernels.comparison.latency import Latency
from ckrm_kernels.comparison.saliency_examples import SaliencyExamples
from ckrm_kernels.comparison.statistics import Comparison
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.width_search.search import Outcome, Round


@dataclass(frozen=True)
class Findings:
    """A finished experiment.

    network, data: the names of the standard network and of the data set; images: of its held-out part
    threshold, psi: t of lambda^t, and the psi that the search goes by
    target: a layer is within target when lambda is at most this, or no more than chance
    rounds, outcome: of the search
    candidates: the standard network first, then, where there is a narrower round, the searched one, or that of the best
        narrower round, and its yardsticks, see `compared`
    comparisons: the searched or narrower one with each of the others, by each metric
    latencies: of all candidates, on each device
    weights: for each candidate with measured layers, by name, their weights (F2, F1, *K) in the network of its first
        seed
    conclusions: sentences; advice: sentences too, on what to change where the search shrunk nothing
    brief, provenance: how the experiment was made, in a sentence and in whole, see `provenance`
    folders: for each candidate, by name, the folder of its networks, relative to the search's
    classes: the names of the data's
    saliency: some held-out images as the networks of the first seed see them, where they predict saliency
    """

    network: str
    data: str
    images: int
    threshold: float
    similarity: Similarity
    target: float
    rounds: tuple[Round, ...]
    outcome: Outcome
    candidates: tuple[Candidate, ...]
    comparisons: tuple[Comparison, ...]
    latencies: tuple[Latency, ...]
    weights: Mapping[str, Mapping[str, Tensor]]
    conclusions: tuple[str, ...]
    advice: tuple[str, ...]
    brief: str
    provenance: Mapping[str, str]
    folders: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    saliency: SaliencyExamples | None = None

    @property
    def standard(self) -> Candidate:
        """The network that the search began with."""
        return named(self.candidates, "standard")

    @property
    def narrowed(self) -> Candidate | None:
        """The searched one, or that of the best narrower round; None where there is none."""
        return narrowed_of(self.candidates)

    @property
    def before_and_after(self) -> tuple[Candidate, ...]:
        """The standard network and, where there is one, the narrowed one: what the search made of what."""
        return (self.standard,) if self.narrowed is None else (self.standard, self.narrowed)
