"""One network trained from several seeds, in a folder: `ckrm train`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import Field, asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from torch import nn

from ckrm_kernels.data import DataConfig, Dataset
from ckrm_kernels.data.config import without_places
from ckrm_kernels.data.summary import DataSummary, check_same_data
from ckrm_kernels.distributed import joined, team
from ckrm_kernels.extras import check_installed
from ckrm_kernels.models import AnyNetwork, Network, count_parameters, network_shape, without_memory
from ckrm_kernels.models.kinds import as_network, check_kind, described_network, network_settings
from ckrm_kernels.storage.files import read_json, write_json
from ckrm_kernels.storage.lock import locked
from ckrm_kernels.storage.run_folders import RECORD, finished_run, finished_seeds, seed_folder
from ckrm_kernels.storage.settings import Tables, as_json, check_kinds, check_same, completed, typed
from ckrm_kernels.training.config import Runtime, TrainingConfig
from ckrm_kernels.training.evaluation import Score, evaluate, localization
from ckrm_kernels.training.history import Event
from ckrm_kernels.training.objective import check_smoothing
from ckrm_kernels.training.progress import Display, Forecast
from ckrm_kernels.training.run_files import Run, load_weights
from ckrm_kernels.training.saliency import SALIENCY_METRICS
from ckrm_kernels.training.workers import Job, OnEvent, Workers, finished_places, processes_for, threads_for
from ckrm_kernels.whole_numbers import as_whole

_CONFIG, _DATA = "config.json", "data.json"
_FEW_CLASSES = 5  # whose AUCs fit a line
NEEDED = ("rich", "safetensors", "pydantic", "torchmetrics")  # of training and scoring networks


class TrainingNetworks(Protocol):
    """A configuration, a dataclass, that says which network is trained and how."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def network(self) -> Network:
        """Its channels and classes are those of the data."""

    @property
    def data(self) -> DataConfig:
        """What they are trained on."""

    @property
    def training(self) -> TrainingConfig:
        """Of every network."""


Config = TypeVar("Config", bound=TrainingNetworks)


def seeds_of(value: Any, whole: bool = False) -> list[int] | None:
    """The seeds 0, 1, ... of a number, as a search's settings have it; None where it is no number."""
    count = as_whole(value)
    return None if count is None or count < 1 else list(range(count))


@dataclass(frozen=True)
class RunsConfig:
    """Everything that decides the trained networks.

    network: a description, or its name, see `models.network_of`
    seeds: different whole numbers, at least one; each gives a network
    Raises ValueError, naming it, for a setting that is not as above.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    tables: ClassVar[Tables] = {"network": network_settings, "seeds": seeds_of}

    network: AnyNetwork = field(default_factory=partial(network_shape, "resnet-paper-digits"))
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", as_network(self.network))
        check_kinds(self, data=DataConfig, training=TrainingConfig)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different whole numbers, at least one, got {list(self.seeds)}")
        for seed in self.seeds:
            number = as_whole(seed)
            if number is None or not 0 <= number < 2**63:
                raise ValueError(f"seeds must be whole numbers from 0 to 2^63 - 1, got {seed!r}")
        object.__setattr__(self, "seeds", tuple(map(int, self.seeds)))


def loaded(config: DataConfig, display: Display) -> Dataset:
    """The data set as it is now, with a word on what was left out of it and on classes that a part lacks."""
    data = config.reload(display.track)
    display.skipped(data)
    for sentence in data.missing_classes:
        display.print_line(f"warning: {sentence}")
    return data


def adapted_to(config: Config, data: Dataset) -> Config:
    """The configuration for the data's channels and classes; raises ValueError where it can't be trained on so."""
    check_kind(config.network)
    if len(data.held_out.labels.unique()) < 2:
        raise ValueError(f"the held-out part of {data.name} must hold images of at least 2 classes, for an AUC")
    network = config.network.adapted_to(data)
    network.check_training(config.training)
    check_smoothing(network.loss, config.training.label_smoothing)
    return replace(config, network=network)


def jobs_of(
    config: TrainingNetworks,
    data: dict[str, Any],
    network: Network,
    seeds: Iterable[int],
    folder: Path,
    runtime: Runtime,
) -> list[Job]:
    """A job for each seed, in the folder's `seed-N`: the network trained as the configuration says.

    data: the identity of the data set that the configuration loads
    """
    return [
        Job(network, config.data.load, data, config.training, seed, seed_folder(folder, seed), runtime)
        for seed in seeds
    ]


def run_with_bars(workers: Workers, jobs: Sequence[Job], display: Display, watch: OnEvent | None = None) -> list[Run]:
    """The finished runs of the jobs, all of as many epochs, with a bar for each. watch: called with every event too"""
    names, epochs = [f"seed {job.seed}" for job in jobs], jobs[0].config.epochs
    with display.bars(names, epochs, finished_places(jobs)) as bars:

        def on_event(place: int, event: Event) -> None:
            bars.on_event(place, event)
            if watch is not None:
                watch(place, event)

        return workers.run(jobs, on_event)


class TrainedRuns:
    """The runs of one configuration in one folder, each in its own folder `seed-N`.

    Raises ValueError where the folder holds runs of another configuration or of other data; more seeds may be added,
    and the data may lie elsewhere.
    """

    def __init__(self, folder: Path, config: RunsConfig, runtime: Runtime, display: Display) -> None:
        self.folder, self.display, self.data = folder, display, loaded(config.data, display)
        self.config, self.runtime = adapted_to(config, self.data), runtime
        self._check_folder()

    @classmethod
    def of(cls, folder: Path, display: Display) -> TrainedRuns:
        """The runs that `ckrm train` left in a folder, or those of one network of a search.

        folder: of `ckrm train`; of a finished search, for the network that it ended with; or, within a search's, that
            of one of its networks, such as networks/uniform or networks/shrunk
        """
        search = _search_of(folder)
        if search is not None:
            return cls._of_search(search, finished_run(folder).parent, display)
        path = folder / _CONFIG
        if not path.exists():
            raise ValueError(f"{folder} holds no runs of `ckrm train`: {_CONFIG} is missing")
        value = _read(path)
        value.pop("version", None)
        return cls(folder, typed(RunsConfig, value, str(path)), Runtime(), display)

    @classmethod
    def _of_search(cls, search: Path, folder: Path, display: Display) -> TrainedRuns:
        seeds = finished_seeds(folder)
        identity = read_json(seed_folder(folder, seeds[0]) / RECORD)["identity"]
        network = described_network(identity["network"], str(folder))
        value = read_json(search / _CONFIG)
        data: DataConfig = typed(DataConfig, value["data"], f"{search / _CONFIG}: data")
        training: TrainingConfig = typed(TrainingConfig, value["training"], f"{search / _CONFIG}: training")
        kind = _MadeOfOthers if {"shrunk", "start"} & set(identity) else cls
        return kind(folder, RunsConfig(network, data, training, tuple(seeds)), Runtime(), display)

    @property
    def alike(self) -> bool:
        """Whether the networks of all seeds have one shape, that of the configuration."""
        return True

    def check_finished(self) -> None:
        """Raises FileNotFoundError or ValueError where a run is not there, or is another one."""
        for job in self.jobs():
            job.result()

    def trained(self) -> list[nn.Module]:
        """The finished networks, of the lowest seed first."""
        return [job.trained() for job in sorted(self.jobs(), key=lambda job: job.seed)]

    def jobs(self) -> list[Job]:
        """The runs, a job for each seed."""
        return jobs_of(
            self.config, self.data.identity, self.config.network, self.config.seeds, self.folder, self.runtime
        )

    def train(self, processes: int) -> None:
        """Does what is not done yet, with so many networks trained side by side."""
        jobs, epochs = self.jobs(), self.config.training.epochs
        finished = finished_places(jobs)  # refuses finished networks of other jobs, before anything is written
        if team().is_first:
            write_json(self.folder / _DATA, asdict(DataSummary.of(self.data)))
            write_json(self.folder / _CONFIG, as_json(self.config))
        to_go = [0 if place in finished else epochs for place in range(len(jobs))]
        forecast = Forecast(self.display, to_go, processes * team().size)
        with Workers(processes) as workers:
            run_with_bars(workers, jobs, self.display, forecast.on_event)

    def _check_folder(self) -> None:
        path = self.folder / _CONFIG
        if not path.exists():
            return
        ours, theirs = as_json(self.config), completed(RunsConfig, _read(path), str(path))
        check_same(without_places({**ours, "seeds": theirs.get("seeds")}), without_places(theirs), self.folder)
        kept = read_json(self.folder / _DATA) if (self.folder / _DATA).exists() else {}
        identity = kept.get("identity", {}) if isinstance(kept, dict) else {}
        check_same_data(self.data.identity, identity, self.config.data.place, f"{self.folder} holds runs")


class _MadeOfOthers(TrainedRuns):
    """The runs of a search that shrinking made of others: that of each seed has a shape of its own."""

    @property
    def alike(self) -> bool:
        return False

    def check_finished(self) -> None:
        for record in self._records():
            check_same_data(self.data.identity, record["data"], self.config.data.place, f"{self.folder} holds runs")

    def trained(self) -> list[nn.Module]:
        models = []
        for seed, record in zip(self.config.seeds, self._records(), strict=True):
            models.append(described_network(record["network"], str(self.folder)).build())
            load_weights(seed_folder(self.folder, seed), models[-1])
        return models

    def _records(self) -> list[dict[str, Any]]:
        return [read_json(seed_folder(self.folder, seed) / RECORD)["identity"] for seed in self.config.seeds]


def _search_of(folder: Path) -> Path | None:
    """The search that the folder is of, or lies in as that of one network, which has no configuration of its own."""
    candidates = [folder] if (folder / _CONFIG).exists() else folder.absolute().parents[1:2]
    return next(
        (each for each in candidates if (each / _CONFIG).exists() and "rule" in read_json(each / _CONFIG)), None
    )


def _read(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not the configuration of a run; choose another folder")
    if "rule" in value:
        raise ValueError(f"{path.parent} holds a search of `ckrm search`, not runs of `ckrm train`")
    return value


def train_runs(
    folder: str | Path,
    config: RunsConfig,
    *,
    runtime: Runtime = Runtime(),  # noqa: B008
    processes: int | None = None,
    console: Any = None,
) -> dict[int, Score]:
    """Trains the networks in the folder, or goes on with them, and scores them on the held-out part.

    processes: networks trained side by side, by default as many as there are cores; one on a GPU
    console: a rich console, by default one on standard output
    out: for each seed its score, which scores.json in the folder holds too
    Under torchrun all processes train a single network together, and share out several.
    A finished network is never replaced. Raises ValueError where the folder holds runs of another configuration or of
    other data, or another process works in it.
    """
    check_installed("training", *NEEDED, *(["tensorboard"] if runtime.tensorboard else []))
    folder = Path(folder)
    with joined() as team, locked(folder):
        count, data_parallel = len(config.seeds), team.size > 1 and len(config.seeds) == 1
        processes = processes_for(count, processes, runtime)
        if data_parallel:
            processes = 1
        if runtime.torch_device().type == "cpu" and team.size == 1:
            runtime = replace(runtime, threads=threads_for(processes, runtime))
        display = Display(console, folder / "log.txt")
        runs = TrainedRuns(folder, config, replace(runtime, data_parallel=data_parallel), display)
        parameters = count_parameters(without_memory(runs.config.network))
        display.phase(f"Training {parameters:,} parameters on {runs.data.name}")
        runs.train(processes)
        scores = team.of_first(lambda: {job.seed: _scored(job, runs, display) for job in runs.jobs()})
        if team.is_first:
            write_json(folder / "scores.json", {str(seed): asdict(score) for seed, score in scores.items()})
        display.print_line(f"written to {folder}: scores.json, and for each seed weights.safetensors and run.json")
        display.print_line(how_to_load(folder))
    return scores


def how_to_load(folder: Path) -> str:
    """A line for who wants to use a network of the folder."""
    return f'in Python: model, transform = ckrm_kernels.training.load("{folder}")'


def _scored(job: Job, runs: TrainedRuns, display: Display) -> Score:
    """The score of a finished run, which is shown."""
    model, data = job.trained(), runs.data
    score = evaluate(model, data.held_out, data.classes)
    hits = localization(model, data.held_out, data.region_of_class)
    where = "" if hits is None else f", activation maps highest in the right region {hits:.4f}"
    present = len(data.held_out.labels.unique())
    of = "" if present == data.classes else f" of {present} of {data.classes} classes"
    display.print_line(f"seed {job.seed}: held-out accuracy {score.accuracy:.4f}, macro AUC {score.auc:.4f}{of}{where}")
    if data.classes <= _FEW_CLASSES:
        areas = zip(data.names_of_classes, score.auc_of_class, strict=True)
        shown = ", ".join(f"{name} {area:.4f}" for name, area in areas if area is not None)
        display.print_line(f"    AUC of each class against the others: {shown}")
    if score.saliency is not None:
        means = (f"{title} {getattr(score.saliency, name):.4f}" for name, title in SALIENCY_METRICS.items())
        display.print_line(f"    predicted saliency against the gaze: {', '.join(means)}")
    return score
