"""Which depthwise kernels of a VGNet may be fixed: the ablation of the VGNet paper's Table 4, `ckrm ablate vgnet`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from ckrm_kernels.comparison.measured_layers import MeasuredLayer, measure_networks
from ckrm_kernels.comparison.statistics import Interval, mean_interval
from ckrm_kernels.comparison.trained_runs import check_same_data
from ckrm_kernels.distributed import joined
from ckrm_kernels.extras import check_installed
from ckrm_kernels.models import VGNetShape, count_parameters
from ckrm_kernels.models.vgnet import VARIANTS, VariantName
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.storage.files import write_atomically, write_json
from ckrm_kernels.storage.lock import locked
from ckrm_kernels.storage.settings import as_json
from ckrm_kernels.training import Runtime, Score
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.runs import NEEDED, RunsConfig, TrainedRuns, train_runs

THRESHOLD = 0.6  # t of lambda^t
REFERENCE: VariantName = "c"  # of which all kernels are learnt
Place = Literal["downsampling", "mixing", "last"]


@dataclass(frozen=True)
class DepthwiseLayers:
    """The depthwise layers of one kind in a variant's networks, measured scale-free.

    place: those of the downsampling blocks, those that mix positions in the others, or the last one
    fixed: whether their kernels are; layers: how many a network has
    redundancy, chance: lambda^0.6 and its chance level, means over layers and networks
    """

    place: Place
    fixed: bool
    layers: int
    redundancy: float
    chance: float


@dataclass(frozen=True)
class AblatedVariant:
    """A variant's networks, one for each seed.

    variant: its name, see `models.vgnet.VARIANTS`; parameters: of each network, those that are learnt
    accuracies, aucs: on the held-out part, in the order of the seeds
    accuracy_difference, auc_difference: the mean over the seeds of the variant's less that of the network of the same
        seed whose kernels are all learnt, with Student's 95 % interval; None of that one itself
    """

    variant: VariantName
    parameters: int
    accuracies: tuple[float, ...]
    aucs: tuple[float, ...]
    accuracy_difference: Interval | None
    auc_difference: Interval | None
    depthwise: tuple[DepthwiseLayers, ...]


@dataclass(frozen=True)
class Ablation:
    """All variants of one network, trained alike on one data set.

    network: the first variant's; config: of all, with that network
    data, images: the data set's name, and how many images the held-out part has
    """

    network: VGNetShape
    config: RunsConfig
    data: str
    images: int
    variants: tuple[AblatedVariant, ...]


def ablate_vgnet(
    folder: str | Path,
    config: RunsConfig,
    *,
    runtime: Runtime = Runtime(),  # noqa: B008
    processes: int | None = None,
    console: Any = None,
) -> Ablation:
    """Trains the network in all variants, from the same seeds, or goes on with that, and compares them.

    folder: gets a folder of `ckrm train` for each variant, ablation.json and report.html
    config: its network is a VGNet of any variant
    processes, console: see `train_runs`
    Raises ValueError as `train_runs` does, and for a network of another kind.
    """
    check_installed("an ablation", *NEEDED, "scipy", "jinja2", "matplotlib")
    from ckrm_kernels.comparison import ablation_page

    network = config.network
    if not isinstance(network, VGNetShape):
        raise ValueError(f"network must be a VGNet, such as vgnetg-small, got one of kind {network.kind!r}")
    folder = Path(folder)
    with joined() as team, locked(folder):
        scores: dict[VariantName, dict[int, Score]] = {}
        for variant in VARIANTS:
            chosen = replace(config, network=replace(network, variant=variant))
            scores[variant] = train_runs(
                folder / variant, chosen, runtime=runtime, processes=processes, console=console
            )
        display = Display(console, folder / "log.txt")
        ablation = team.of_first(lambda: _compared(folder, scores, display))
        if team.is_first:
            write_json(folder / "ablation.json", _as_json(ablation))
            write_atomically(folder / "report.html", ablation_page.page(ablation).encode())
        for table in ablation_page.tables(ablation):
            display.show(table)
        for sentence in ablation_page.in_words(ablation):
            display.print_line(sentence)
        display.print_line(f"written to {folder}: report.html, ablation.json, and a folder for each variant")
    return ablation


def _compared(folder: Path, scores: Mapping[VariantName, Mapping[int, Score]], display: Display) -> Ablation:
    display.phase("Comparing the variants")
    groups = {variant: TrainedRuns.of(folder / variant, display) for variant in VARIANTS}
    check_same_data(list(groups.values()))
    first = groups[REFERENCE]
    variants: list[AblatedVariant] = []
    for variant, group in groups.items():
        of_seeds = [scores[variant][seed] for seed in group.config.seeds]
        variants.append(_variant(variant, group, of_seeds, variants[0] if variants else None))
    network: Any = first.config.network
    return Ablation(network, first.config, first.data.name, len(first.data.held_out), tuple(variants))


def _variant(
    variant: VariantName, group: TrainedRuns, scores: Sequence[Score], reference: AblatedVariant | None
) -> AblatedVariant:
    models = [job.trained() for job in group.jobs()]
    accuracies, aucs = tuple(score.accuracy for score in scores), tuple(score.auc for score in scores)
    layers = measure_networks(models, THRESHOLD, Similarity(scale_free=True))
    return AblatedVariant(
        variant,
        count_parameters(models[0]),
        accuracies,
        aucs,
        None if reference is None else paired_difference(accuracies, reference.accuracies),
        None if reference is None else paired_difference(aucs, reference.aucs),
        tuple(depthwise_layers(models[0], layers)),
    )


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Interval:
    """The mean of value less reference, of the same seed each, with Student's 95 % interval."""
    return mean_interval([value - other for value, other in zip(values, reference, strict=True)])


def depthwise_layers(model: nn.Module, measured: Sequence[MeasuredLayer]) -> Iterator[DepthwiseLayers]:
    """The depthwise layers of a VGNet by their place, learnable ones first. measured: scale-free, of its networks"""
    kinds: dict[tuple[Place, bool], list[MeasuredLayer]] = {
        (place, fixed): [] for place in get_args(Place) for fixed in (False, True)
    }
    for layer in measured:
        module: Any = model.get_submodule(layer.name)
        if module.groups > 1:
            kinds[_place(layer.name), "weight" in module._buffers].append(layer)
    for (place, fixed), layers in kinds.items():
        if layers:
            yield DepthwiseLayers(
                place,
                fixed,
                len(layers),
                statistics.fmean(layer.configured.mean for layer in layers),
                statistics.fmean(layer.configured.chance for layer in layers),
            )


def _place(name: str) -> Place:
    if re.match(r"stage\d+\.0\.", name):
        return "downsampling"
    return "mixing" if name.startswith("stage") else "last"


def _as_json(ablation: Ablation) -> dict[str, Any]:
    kernels = {name: each._asdict() for name, each in VARIANTS.items()}
    variants = [{**asdict(each), "kernels": kernels[each.variant]} for each in ablation.variants]
    return {
        "config": as_json(ablation.config),
        "data": ablation.data,
        "images": ablation.images,
        "threshold": THRESHOLD,
        "reference": REFERENCE,
        "variants": variants,
    }
