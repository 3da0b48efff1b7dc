"""Layer elimination from the first training to the report, in a folder: `ckrm eliminate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ckrm_kernels.data.config import without_places
from ckrm_kernels.extras import check_installed
from ckrm_kernels.layer_elimination.chosen_data import (
    CONFIG,
    TASKS,
    ChosenImages,
    check_every_layer,
    chosen_images,
    selection_file,
    stored_selection,
    write_selection,
)
from ckrm_kernels.layer_elimination.config import EliminationConfig
from ckrm_kernels.layer_elimination.page import page
from ckrm_kernels.layer_elimination.results import Elimination, SeedResult, evaluated
from ckrm_kernels.layer_elimination.strongest import Selection, check_enough, strongest_activations
from ckrm_kernels.models import Network, count_parameters, without_memory
from ckrm_kernels.models.three_convolutions import LAYERS
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.storage.files import read_json, write_atomically, write_json
from ckrm_kernels.storage.lock import locked
from ckrm_kernels.storage.run_folders import seed_folder
from ckrm_kernels.storage.settings import as_json, check_same, typed
from ckrm_kernels.training import Runtime
from ckrm_kernels.training.progress import Display, Forecast
from ckrm_kernels.training.runs import NEEDED, TrainedRuns, run_with_bars
from ckrm_kernels.training.workers import Job, Workers, finished_places, processes_for, threads_for

_RESULTS, _PAGE = "results.json", "report.html"
_IN_WORDS = {
    "cnn-2": "CNN 2, which predicts the layer",
    "cnn-3": "CNN 3, whose layers images skip",
    "no-skipping": "for comparison, a network on the same images that skip nothing",
}


def eliminate_layers(
    folder: str | Path,
    config: EliminationConfig = EliminationConfig(),  # noqa: B008
    *,
    runtime: Runtime = Runtime(),  # noqa: B008
    processes: int | None = None,
    console: Any = None,
) -> Elimination:
    """Trains CNN 1, chooses the images that activate its layers most, trains CNN 2 and CNN 3 on them, and compares.

    folder: ends with config.json, cnn-1/, selection/, cnn-2/, cnn-3/, no-skipping/, results.json and report.html; each
        network's folder is one that `training.load` takes. An unfinished elimination of the same configuration goes on
    processes: networks trained side by side, by default as many as there are cores; one on a GPU
    console: a rich console, by default one on standard output
    Raises ValueError where the data holds fewer images than the selection needs, where a layer is left with too few,
    where the folder holds what another configuration or other data left, or another process works in it.
    """
    check_installed("layer elimination", *NEEDED, "scipy", "PIL")
    folder = Path(folder)
    with locked(folder):
        processes = processes_for(len(config.seeds), processes, runtime)
        if runtime.torch_device().type == "cpu":
            runtime = replace(runtime, threads=threads_for(processes, runtime))
        return _Phases(folder, config, runtime, processes, Display(console, folder / "log.txt")).run()


class _Phases:
    def __init__(
        self, folder: Path, config: EliminationConfig, runtime: Runtime, processes: int, display: Display
    ) -> None:
        self._folder, self._runtime, self._processes, self._display = folder, runtime, processes, display
        self._first = TrainedRuns(folder / "cnn-1", config.first_runs, runtime, display)
        self._data, self._config = self._first.data, replace(config, network=self._first.config.network)
        _check_folder(folder, self._config)
        check_enough(len(self._data.train), LAYERS, config.maps, config.images_per_map)

    def run(self) -> Elimination:
        """All phases, those that are done already taken as they are."""
        config, display = self._config, self._display
        parameters = count_parameters(without_memory(config.network))
        display.phase(f"Training CNN 1, {parameters:,} parameters, on {self._data.name}")
        self._first.train(self._processes)
        display.phase("Choosing the images that activate its layers most")
        selections = {job.seed: self._selection(job) for job in self._first.jobs()}
        # only now: where a layer is left without images, the same CNN 1 serves with another selection
        write_json(self._folder / CONFIG, as_json(config))
        jobs = {name: self._jobs(name, selections) for name in TASKS}
        with Workers(self._processes) as workers:
            for name, of_seeds in jobs.items():
                self._train(name, of_seeds, workers)
        display.phase("Comparing on the held-out images")
        result = self._evaluated(selections, jobs)
        write_atomically(self._folder / _PAGE, page(result, config, self._data, selections))
        display.print_line(f"written to {self._folder}: {_PAGE}, {_RESULTS}, and the networks")
        return result

    def _selection(self, job: Job) -> Selection:
        """That of the finished CNN 1 of a seed."""
        config, file, data = self._config, self._selection_file(job.seed), self._data
        sizes = {"maps": config.maps, "images_per_map": config.images_per_map}
        identity = {**job.result().identity, **sizes}
        selection = stored_selection(file, identity, len(data.train))
        if selection is None:
            model: Any = job.trained().to(self._runtime.torch_device())
            selection = strongest_activations(model, data.train, **sizes, track=self._display.track)
        self._display.print_line(
            f"seed {job.seed}: {len(selection.rows)} of {counted(len(data.train), 'training image')} chosen; "
            f"by layers 1 to {LAYERS}: {_listed(selection.found)}; left to each: {_listed(selection.won)}"
        )
        try:
            check_every_layer(selection)
        except ValueError as error:
            raise ValueError(f"seed {job.seed}: {error}; CNN 1 is trained and stays") from error
        write_selection(file, selection, identity)
        return selection

    def _jobs(self, name: str, selections: dict[int, Selection]) -> list[Job]:
        """The trainings of one of the networks after CNN 1, a job for each seed."""
        config, task = self._config, TASKS[name]
        network: Network = config.predictor if task == "layer" else config.network
        jobs = []
        for seed, selection in selections.items():
            data = chosen_images(self._data, selection, task, config.data.split_seed)
            load = ChosenImages(config.data, self._selection_file(seed), task)
            adapted, place = network.adapted_to(data), seed_folder(self._folder / name, seed)
            adapted.check_training(config.training)
            jobs.append(Job(adapted, load, data.identity, config.training, seed, place, self._runtime))
        return jobs

    def _train(self, name: str, jobs: Sequence[Job], workers: Workers) -> None:
        finished = finished_places(jobs)  # refuses finished networks of other jobs, before anything is written
        self._display.phase(f"Training {_IN_WORDS[name]}")
        to_go = [0 if place in finished else job.config.epochs for place, job in enumerate(jobs)]
        run_with_bars(workers, jobs, self._display, Forecast(self._display, to_go, self._processes).on_event)

    def _evaluated(self, selections: dict[int, Selection], jobs: dict[str, list[Job]]) -> Elimination:
        """The result of every seed; those that results.json holds stay, with the times that were measured."""
        file, data = self._folder / _RESULTS, self._data
        known = {each.seed: each for each in _stored_results(file)}
        result = Elimination(len(data.held_out), ())
        for place, (seed, selection) in enumerate(selections.items()):
            if seed not in known:
                models = {name: of_seeds[place].trained() for name, of_seeds in jobs.items()}
                models["cnn-1"] = self._first.jobs()[place].trained()
                of_layers, by_depth = (jobs[name][place].load_data() for name in ("cnn-2", "cnn-3"))
                known[seed] = evaluated(seed, selection, data, of_layers, by_depth, models)
            result = replace(result, seeds=(*result.seeds, known[seed]))
            self._show(known[seed])
            write_json(file, asdict(replace(result, seeds=tuple(known.values()))))
        return result

    def _show(self, result: SeedResult) -> None:
        ratio = result.seconds["cnn-3-predicted"] / result.seconds["cnn-1"]
        self._display.print_line(
            f"seed {result.seed}: CNN 2 names the layer of {result.layer_accuracy:.4f}; held-out accuracy: CNN 1 "
            f"{result.held_out['cnn-1']:.4f}, CNN 3 with predicted layers {result.held_out['cnn-3-predicted']:.4f}, in "
            f"{ratio:.2f} of the time of CNN 1"
        )

    def _selection_file(self, seed: int) -> Path:
        return selection_file(self._folder, seed_folder(self._folder, seed).name)


def _listed(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))


def _check_folder(folder: Path, config: EliminationConfig) -> None:
    """Raises ValueError where the folder holds what another configuration left; more seeds may be added."""
    path = folder / CONFIG
    if not path.exists():
        return
    theirs = read_json(path)
    if not isinstance(theirs, dict) or "images_per_map" not in theirs:
        raise ValueError(f"{folder} holds no layer elimination of `ckrm eliminate`, but another run's {path.name}")
    ours = {**as_json(config), "seeds": theirs.get("seeds")}
    check_same(without_places(ours), without_places(theirs), folder)


def _stored_results(file: Path) -> tuple[SeedResult, ...]:
    """What the file holds; raises ValueError, naming it, where it is damaged."""
    if not file.exists():
        return ()
    result: Elimination = typed(Elimination, read_json(file), f"{file} is damaged, delete it to compare anew")
    return result.seeds
