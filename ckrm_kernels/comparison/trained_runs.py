"""Groups of trained networks compared: `ckrm compare`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ckrm_kernels.comparison import tables
from ckrm_kernels.comparison.candidates import Candidate, compare_scores, evaluate_candidate
from ckrm_kernels.comparison.latency import Latency, measure_latencies
from ckrm_kernels.comparison.measured_layers import measure_networks
from ckrm_kernels.comparison.statistics import Comparison
from ckrm_kernels.comparison.verdict import in_words
from ckrm_kernels.data.identity import differences
from ckrm_kernels.distribution import checked_threshold
from ckrm_kernels.extras import check_installed
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.storage.files import write_json
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.runs import NEEDED, TrainedRuns


def compare_runs(
    folders: Sequence[Path],
    margin: float,
    json: Path | None = None,
    console: Any = None,
    *,
    threshold: float = 0.6,
    similarity: Similarity = Similarity(),  # noqa: B008
) -> tuple[list[Candidate], list[Comparison], list[Latency]]:
    """Compares the networks that `ckrm train`, or a search, left in each folder, on the held-out part of their data.

    Networks of the same seeds as those of the first folder are paired by seed.

    folders: two or more, the first that of the standard network; all of the same data. See `TrainedRuns.of`
    margin: the largest difference that counts as none, > 0
    json: where the result is written, too
    console: a rich console, by default one on standard output
    threshold, similarity: t of lambda^t, in [0, 1], and the similarity that the layers are measured with
    """
    check_installed("comparing networks", *NEEDED, "scipy")
    threshold = checked_threshold(threshold, similarity.lowest)
    display = Display(console)
    groups = _groups(folders, margin, display)
    data = groups[0].data
    unique = len({folder.name for folder in folders}) == len(folders)
    names = [folder.name if unique else str(folder) for folder in folders]
    candidates, of_name = [], {}
    for name, group in zip(names, groups, strict=True):
        models = group.trained()
        alike = [models] if group.alike else [[model] for model in models]
        layers = [layer for each in alike for layer in measure_networks(each, threshold, similarity)]
        widths = group.config.network.widths() if group.alike else {}
        candidates.append(evaluate_candidate(name, widths, models, layers, data))
        of_name[name] = models[0]
    comparisons = [
        each
        for other, group in zip(candidates[1:], groups[1:], strict=True)
        for each in compare_scores(other, candidates[0], margin, paired=_of_same_seeds(group, groups[0]))
    ]
    latencies = measure_latencies(of_name, data.image_shape)
    display.show(tables.compared(candidates, latencies))
    for each, group in zip(candidates, groups, strict=True):
        if group.alike:
            display.show(tables.layers_of(each, threshold, similarity))
    for comparison in comparisons:
        display.print_line(f"{comparison.metric}: {in_words(comparison)}")
    if json:
        write_json(
            json,
            {
                "threshold": threshold,
                "similarity": asdict(similarity),
                "networks": [asdict(each) for each in candidates],
                "comparisons": [asdict(each) for each in comparisons],
                "latencies": [asdict(each) for each in latencies],
            },
        )
    return candidates, comparisons, latencies


def _groups(folders: Sequence[Path], margin: float, display: Display) -> list[TrainedRuns]:
    """The groups, checked before any work."""
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise ValueError(f"runs must be two or more different folders, got {', '.join(map(str, folders))}")
    if not 0 < margin < math.inf:
        raise ValueError(f"margin must be a finite number > 0, got {margin!r}")
    groups = [TrainedRuns.of(folder, display) for folder in folders]
    check_same_data(groups)
    for group in groups:
        group.check_finished()
    return groups


def _of_same_seeds(one: TrainedRuns, other: TrainedRuns) -> bool:
    return sorted(one.config.seeds) == sorted(other.config.seeds)


def check_same_data(groups: Sequence[TrainedRuns]) -> None:
    """Raises ValueError, naming both folders, where one was trained on other data than the first."""
    for group in groups:
        different = differences(group.data.identity, groups[0].data.identity)
        if different:
            raise ValueError(f"{group.folder} was trained on other data than {groups[0].folder}: {different}")
