"""One round of the search: its widths trained from several seeds, measured, and what the rule makes of that."""

from __future__ import annotations

from collections.abc import Sequence

from ckrm_kernels.comparison.tables import listed
from ckrm_kernels.distributed import team
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.training.forecast import FirstEpoch
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.workers import Job, Workers, finished_places
from ckrm_kernels.width_search.forecast import forecast
from ckrm_kernels.width_search.forecast import in_words as forecast_in_words
from ckrm_kernels.width_search.narrowing import parameters_of
from ckrm_kernels.width_search.networks import Networks
from ckrm_kernels.width_search.search import Round, Search, Trained
from ckrm_kernels.width_search.tables import changes_in_words, never_trained

_WORTH_SAYING = 60.0  # seconds


def run_round(
    networks: Networks,
    workers: Workers,
    search: Search,
    rounds: Sequence[Round],
    widths: dict[str, int],
    side_by_side: int | None = None,
) -> Round:
    """The round after those given, at the widths that the search asks for.

    side_by_side: networks trained at a time; where given, a forecast of the whole search is shown
    """
    place, config, display = len(rounds), networks.config, networks.display
    shape = config.network.with_widths(widths)
    size = f"{parameters_of(shape):,} parameters"
    title = f"the standard network, {size}" if place == 0 else f"widths {listed(widths)}, {size}"
    display.phase(f"Round {place}: training {title}")
    jobs = networks.jobs(round_folder(place), shape)[: config.seeds]
    runs = networks.train(workers, jobs, _forecaster(networks, rounds, jobs, side_by_side) if side_by_side else None)
    models = [job.trained() for job in jobs]
    layers = team().of_first(lambda: networks.measure(models))
    kept = team().of_first(lambda: networks.kept_by_error(models)) if place == 0 else {}
    accuracies = tuple(config.training.kept(run.history).validation_accuracy for run in runs)
    return search.observe(rounds, widths, Trained(accuracies, layers, kept))


def _forecaster(networks: Networks, rounds: Sequence[Round], jobs: Sequence[Job], side_by_side: int) -> FirstEpoch:
    """Shows, after the first epoch of these jobs, how long the search takes, if that is long."""
    config, display = networks.config, networks.display
    finished = len(finished_places(jobs))

    def show(seconds_of_epoch: float) -> None:
        seconds = seconds_of_epoch * config.training.epochs
        standard = seconds_of_standard(networks) if rounds else seconds
        left = forecast(config, len(rounds), finished, seconds, side_by_side, standard or seconds)
        if left.most_seconds >= _WORTH_SAYING:
            display.print_line(forecast_in_words(left, max(seconds, standard), side_by_side))

    return FirstEpoch(show)


def seconds_of_standard(networks: Networks) -> float:
    """What the training of a standard network took, the longest; 0 where none is finished."""
    jobs = networks.jobs(round_folder(0), networks.config.network)
    return max((run.seconds for job in jobs if (run := job.finished()) is not None), default=0.0)


def done_in_words(networks: Networks, search: Search, rounds: Sequence[Round]) -> str:
    """How far a search is that goes on with a round."""
    widths, config = search.next_widths(rounds), networks.config
    assert widths is not None
    jobs = networks.jobs(round_folder(len(rounds)), config.network.with_widths(widths))[: config.seeds]
    return (
        f"{len(rounds)} of at most {counted(search.most_rounds, 'round')} are done, and {len(finished_places(jobs))} "
        f"of {counted(len(jobs), 'network')} of round {len(rounds)}"
    )


def round_folder(place: int) -> str:
    """The name of the folder that holds the runs of a round."""
    return f"round-{place}"


def show_round(search: Search, rounds: Sequence[Round], psi: Similarity, display: Display) -> None:
    """What the last of the rounds measured, and the changes that the rule asks for."""
    done = rounds[-1]
    accuracy = ", ".join(f"{each:.3f}" for each in done.trained.validation_accuracy)
    redundant = f"{len(done.redundant)} of {len(done.observations)} widths redundant at {psi.in_words()}"
    display.print_line(f"validation accuracy {accuracy}; {redundant}")
    if done.changed and search.next_widths(rounds) is None:
        display.print_line(f"{never_trained(search.outcome(rounds))}:")
    for line in changes_in_words(done):
        display.print_line(line)
