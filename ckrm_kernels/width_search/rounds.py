"""One round of the search: its widths trained from several seeds, measured, and what the rule makes of that."""

from __future__ import annotations

from collections.abc import Sequence

from ckrm_kernels.comparison.tables import listed
from ckrm_kernels.distributed import team
from ckrm_kernels.psi_config import PsiConfig
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.workers import Workers
from ckrm_kernels.width_search.narrowing import parameters_of
from ckrm_kernels.width_search.networks import Networks
from ckrm_kernels.width_search.search import Round, Search, Trained
from ckrm_kernels.width_search.tables import changes_in_words, never_trained


def run_round(
    networks: Networks, workers: Workers, search: Search, rounds: Sequence[Round], widths: dict[str, int]
) -> Round:
    """The round after those given, at the widths that the search asks for."""
    place, config, display = len(rounds), networks.config, networks.display
    shape = config.network.with_widths(widths)
    size = f"{parameters_of(shape):,} parameters"
    title = f"the standard network, {size}" if place == 0 else f"widths {listed(widths)}, {size}"
    display.phase(f"Round {place}: training {title}")
    jobs = networks.jobs(round_folder(place), shape)[: config.seeds]
    runs = networks.train(workers, jobs)
    layers = team().of_first(lambda: networks.measure([job.trained() for job in jobs]))
    accuracies = tuple(config.training.kept(run.history).validation_accuracy for run in runs)
    return search.observe(rounds, widths, Trained(accuracies, layers))


def round_folder(place: int) -> str:
    """The name of the folder that holds the runs of a round."""
    return f"round-{place}"


def show_round(search: Search, rounds: Sequence[Round], psi: PsiConfig, display: Display) -> None:
    """What the last of the rounds measured, and the changes that the rule asks for."""
    done = rounds[-1]
    accuracy = ", ".join(f"{each:.3f}" for each in done.trained.validation_accuracy)
    redundant = f"{len(done.redundant)} of {len(done.widths)} widths redundant at {psi.in_words()}"
    display.print_line(f"validation accuracy {accuracy}; {redundant}")
    if done.changed and search.next_widths(rounds) is None:
        display.print_line(f"{never_trained(search.outcome(rounds))}:")
    for line in changes_in_words(done):
        display.print_line(line)
