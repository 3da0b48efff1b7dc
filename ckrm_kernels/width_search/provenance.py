"""How an experiment was made, in words for whoever gets its page alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ckrm_kernels.comparison.tables import listed
from ckrm_kernels.data import DataConfig
from ckrm_kernels.data.identity import digest_of_json
from ckrm_kernels.data.summary import DataSummary
from ckrm_kernels.models import Network
from ckrm_kernels.models.zoo import NETWORKS
from ckrm_kernels.presentation.numbers import counted, roughly, times
from ckrm_kernels.training import TrainingConfig
from ckrm_kernels.width_search.config import RuleConfig, WidthSearchConfig
from ckrm_kernels.width_search.narrowing import parameters_of
from ckrm_kernels.width_search.sessions import Session

_DIGEST = 12  # characters
_SHOWN = ("epochs", "batch_size", "optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "precision")


def network_name(network: Network) -> str:
    """The name that `ckrm models` lists, whatever the channels and classes; else its kind, or its class."""
    shape: Any = network
    for name, each in NETWORKS.items():
        known: Any = each.network
        if type(known) is type(shape) and known == replace(shape, in_channels=known.in_channels, classes=known.classes):
            return name
    return network.kind.partition(":")[2] or network.kind


def data_name(config: DataConfig) -> str:
    """The data set's name, and that of the folder with its files, which tells MNIST from Fashion-MNIST."""
    return config.name if config.folder is None else f"{config.name} ({Path(config.folder).name})"


def provenance(
    config: WidthSearchConfig, data: DataSummary, sessions: Sequence[Session], networks: int, seconds: float
) -> dict[str, str]:
    """What the result depends on, by what it is, and what it took.

    networks, seconds: how many were trained, and the time that took, summed over them
    """
    rows = {
        "network": _network(config.network),
        "data": data_name(config.data),
        "images": (
            f"{data.train:,} to train with, {data.validation:,} to validate, {data.held_out:,} held out to score, of "
            f"{times(data.image_shape)} (channels, height, width), in {len(data.classes)} classes"
        ),
        "digest of the data": digest_of_json(data.identity)[:_DIGEST],
        "training": _training(config.training),
        "networks": (
            f"{config.seeds} of each round, from {_seeds(config.seeds)}; {config.final_seeds} of each kind that is "
            f"compared, from {_seeds(config.final_seeds)}"
        ),
        "measured": (
            f"λ above Ψ {config.threshold:g}, at {config.similarity.in_words()}; target {config.target:g}, margin "
            f"{config.margin:g}"
        ),
        "rule": f"{_rule(config.rule)}, at most {counted(config.search().most_rounds, 'round')}",
        "time": (
            f"{'at least ' if len(sessions) > 1 else ''}{roughly(seconds)} of training, summed over "
            f"{counted(networks, 'network')}"
        ),
    }
    return {**rows, **_sessions(sessions)}


def _seeds(number: int) -> str:
    return f"the seeds 0 to {number - 1}" if number > 1 else "the seed 0"


def in_brief(config: WidthSearchConfig, data: DataSummary) -> str:
    """What a reader must know of an experiment before its numbers."""
    return (
        f"{counted(data.train, 'image')} of {times(data.image_shape)} to train with, "
        f"{counted(config.training.epochs, 'epoch')}; {counted(config.seeds, 'network')} of each round, "
        f"{config.final_seeds} of each kind compared, on {counted(data.held_out, 'held-out image')}."
    )


def _network(network: Network) -> str:
    settings = asdict(network)  # type: ignore[call-overload]
    words = [f"{name} {value}" for name, value in settings.items() if isinstance(value, str) and name != "kind"]
    described = ", ".join([network_name(network), *words])
    return f"{described}; {parameters_of(network):,} parameters, widths {listed(network.widths())}"


def _rule(config: RuleConfig) -> str:
    """The settings that the rule goes by."""
    unused = ("tied", "closed") if config.by == "error" else ("by", "parameters")
    return _named(config, RuleConfig(), unused, every=True)


def _training(config: TrainingConfig) -> str:
    """The usual settings, and the others where they are not the default."""
    shown = [f"{name.replace('_', ' ')} {_value(getattr(config, name))}" for name in _SHOWN]
    others = _named(config, TrainingConfig(), without=_SHOWN)
    return ", ".join([*shown, *([others] if others else [])])


def _named(config: Any, default: Any, without: Sequence[str] = (), *, every: bool = False) -> str:
    """The settings of a dataclass by their names, those that are not the default or all."""
    names = [each.name for each in fields(config) if each.name not in without]
    return ", ".join(
        f"{name.replace('_', ' ')} {_value(getattr(config, name))}"
        for name in names
        if every or getattr(config, name) != getattr(default, name)
    )


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _sessions(sessions: Sequence[Session]) -> dict[str, str]:
    if not sessions:
        return {}
    machines = dict.fromkeys(
        f"{each.device}; {', '.join(f'{name} {version}' for name, version in each.versions.items())}"
        for each in sessions
    )
    began = [each.started.replace("T", " ").replace("+00:00", " UTC") for each in sessions]
    later = f", taken up again {counted(len(began) - 1, 'time')}, last {began[-1]}" if len(began) > 1 else ""
    rows = {"begun": f"{began[0]}{later}", "trained on": " | ".join(machines)}
    changes = [
        f"{change.setting} {change.before} → {change.after} after {counted(each.rounds, 'round')}"
        for each in sessions
        for change in each.changes
    ]
    return {**rows, **({"changed on the way": "; ".join(changes)} if changes else {})}
