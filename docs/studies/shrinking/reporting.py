"""The study's files and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import pandas
from accuracies import WHOLE, Paired, Way, as_frame, differences, of_way
from cells import (
    ARCHITECTURES,
    BATCH_NORM,
    CHOOSERS,
    ERROR,
    FOLD,
    FOLD_BATCH_NORM,
    FURTHER_CHOOSERS,
    MERGED,
    MIDDLE,
    NOTHING,
    PEER,
    SCRATCH,
    SCRATCH_MULTIPLY_ADDS,
    SCRATCH_PARAMETERS,
    SHARES,
    TUNED,
    Result,
)
from figure import drawn

from ckrm_kernels.comparison.statistics import Interval, mean_interval
from ckrm_kernels.presentation.drawing import png_file
from ckrm_kernels.storage.files import write_atomically

LOST = 0.01
"""One point: the most that half of the parameters may cost."""
METHODS = (ERROR, *CHOOSERS, *FURTHER_CHOOSERS, MERGED, PEER, SCRATCH, SCRATCH_PARAMETERS, SCRATCH_MULTIPLY_ADDS)
COMPENSATIONS = (NOTHING, BATCH_NORM, FOLD, FOLD_BATCH_NORM)
GROUPS = (*([name] for name in ARCHITECTURES), list(ARCHITECTURES))


def write_report(results: Sequence[Result], folder: Path) -> None:
    """Writes accuracy.csv and accuracy.png into the folder, and prints the tables as Markdown."""
    frame = as_frame(results)
    write_atomically(folder / "accuracy.csv", summary(frame).to_csv(index=False, float_format="%.5g"))
    write_atomically(folder / "accuracy.png", png_file(drawn(frame), 130))
    for table in (half_table, scratch_table, widths_table, methods_table, sizes_table, tuned_table):
        print(table(frame), end="\n\n")


def summary(frame: pandas.DataFrame) -> pandas.DataFrame:
    """A row a way and architecture: means over seeds, and the accuracy's 95 % interval."""
    rows = []
    keys = ["architecture", "method", "share", "compensation", "epochs"]
    for key, own in frame.groupby(keys, sort=False):
        interval = mean_interval(own.accuracy.tolist())
        means = own[["parameters", "multiply_adds", "accuracy", "lost"]].mean()
        rows.append({**dict(zip(keys, key, strict=True)), "networks": len(own), **means})
        rows[-1] |= {"low": interval.low, "high": interval.high}
    return pandas.DataFrame(rows)


def half_table(frame: pandas.DataFrame) -> str:
    """What half of the parameters cost, without any training."""
    head = ["network", "networks", "full", "half, folded", "less full", "the worst", "within 1.0 point"]
    half, rows = Way(ERROR, FOLD, 0.5), []
    for group in GROUPS:
        lost = differences(frame, half, WHOLE, group)
        if lost:
            small = of_way(frame, half, group).accuracy.mean()
            means = [f"{small - fmean(lost):.4f}", f"{small:.4f}"]  # of the same networks
            within = sum(each >= -LOST for each in lost)
            worst = [f"{100 * min(lost):+.2f}", f"{within} of {len(lost)}"]
            rows.append([_name(group), len(lost), *means, _points(mean_interval(lost)), *worst])
    return markdown(head, rows)


def scratch_table(frame: pandas.DataFrame) -> str:
    """Shrunk and folded less trained from scratch, at the same widths and at uniform ones."""
    head = ["share", "network", "pairs", "folded less scratch, same widths", "not worse by 0.5: p"]
    head += ["the same within 0.5: p", "folded less scratch, uniform widths"]
    rows = []
    for share, group in ((share, group) for share in SHARES for group in GROUPS):
        same, uniform = (
            differences(frame, Way(ERROR, FOLD, share), Way(method, NOTHING, share), group)
            for method in (SCRATCH, SCRATCH_PARAMETERS)
        )
        if same:
            pair = Paired.of(same)
            tests = [_points(pair.difference), _p(pair.not_worse_p), _p(pair.equivalence_p)]
            beside = _points(mean_interval(uniform)) if uniform else ""
            rows.append([f"{share:g}", _name(group), pair.pairs, *tests, beside])
    return markdown(head, rows)


def widths_table(frame: pandas.DataFrame) -> str:
    """Error's widths less uniform ones, all trained from scratch, by the size that the uniform network shares."""
    head = [
        "share",
        "network",
        "pairs",
        "equal parameters",
        "different: p",
        "pairs",
        "equal multiply-adds",
        "different: p",
    ]
    rows = []
    for share, group in ((share, group) for share in SHARES for group in GROUPS):
        cells: list[object] = []
        for method in (SCRATCH_PARAMETERS, SCRATCH_MULTIPLY_ADDS):
            found = differences(frame, Way(SCRATCH, NOTHING, share), Way(method, NOTHING, share), group)
            pair = Paired.of(found) if found else None
            cells += [len(found), _points(pair.difference) if pair else "", _p(pair.different_p) if pair else ""]
        if any(cells):
            rows.append([f"{share:g}", _name(group), *cells])
    return markdown(head, rows)


def methods_table(frame: pandas.DataFrame) -> str:
    """Every way at the two middle sizes: means over all networks, and the best of it less error's fold.

    The best is the fold where there is one, else batch norm re-estimated, else, of what is trained, the network itself.
    """
    head = ["share", "method", "networks", "multiply-adds", *COMPENSATIONS, "best, less error's fold"]
    rows = []
    for share, method in ((share, method) for share in MIDDLE for method in METHODS):
        own = [of_way(frame, Way(method, each, share), ARCHITECTURES) for each in COMPENSATIONS]
        if len(own[0]):
            means = [f"{each.accuracy.mean():.4f}" if len(each) else "" for each in own]
            best = next(each for each in (FOLD, BATCH_NORM, NOTHING) if len(own[COMPENSATIONS.index(each)]))
            less = _less_error(frame, Way(method, best, share))
            rows.append([f"{share:g}", method, len(own[0]), f"{100 * own[0].multiply_adds.mean():.0f} %", *means, less])
    return markdown(head, rows)


def sizes_table(frame: pandas.DataFrame) -> str:
    """Every way at every size, by the best of it, less error's fold there, of the networks that have both."""
    rows = []
    for method in METHODS[1:]:
        cells = []
        for share in SHARES:
            tried = (Way(method, each, share) for each in (FOLD, BATCH_NORM, NOTHING))
            way = next((each for each in tried if len(of_way(frame, each, ARCHITECTURES))), None)
            found = differences(frame, way, Way(ERROR, FOLD, share), ARCHITECTURES) if way else []
            few = f" ({len(found)})" if found and len(found) < _networks(frame) else ""
            cells.append(_points(mean_interval(found)) + few if found else "")
        if any(cells):
            rows.append([method, *cells])
    folds = [of_way(frame, Way(ERROR, FOLD, share), ARCHITECTURES).accuracy.mean() for share in SHARES]
    return markdown(
        ["less error's fold", *map("{:g}".format, SHARES)], [["error, accuracy", *map("{:.4f}".format, folds)], *rows]
    )


def _networks(frame: pandas.DataFrame) -> int:
    """How many networks error has shrunk to each size."""
    return int(min(len(of_way(frame, Way(ERROR, FOLD, share), ARCHITECTURES)) for share in SHARES))


def tuned_table(frame: pandas.DataFrame) -> str:
    """After tuning, at half of the parameters: means over all networks, and the rest less error's fold."""
    head = [
        "start",
        "epochs",
        "networks",
        "before",
        "after",
        "less error's fold, tuned",
        "less scratch, error's widths",
    ]
    rows = []
    for epochs, (method, start) in ((epochs, each) for epochs in (1, 5) for each in TUNED):
        before, way = Way(method, start, 0.5), Way(method, start, 0.5, epochs)
        gained = differences(frame, way, before, ARCHITECTURES)
        if gained:
            after = of_way(frame, way, ARCHITECTURES).accuracy.mean()
            scratch = differences(frame, way, Way(SCRATCH, NOTHING, 0.5), ARCHITECTURES)
            means = [f"{after - fmean(gained):.4f}", f"{after:.4f}"]
            beside = [_less_error(frame, way), _points(mean_interval(scratch)) if scratch else ""]
            rows.append([f"{method}, {start}", epochs, len(gained), *means, *beside])
    return markdown(head, rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; columns of numbers are those whose first cell begins with a digit or a sign."""

    def lines() -> Iterator[str]:
        yield f"| {' | '.join(head)} |"
        first = [str(cell)[:1] for cell in rows[0]] if rows else []
        yield "|" + "|".join("--:" if each in "0123456789+-" else "---" for each in first) + "|"
        for row in rows:
            yield f"| {' | '.join(map(str, row))} |"

    return "\n".join(lines())


def _less_error(frame: pandas.DataFrame, way: Way) -> str:
    if way.method == ERROR:
        return ""
    less = differences(frame, way, Way(ERROR, FOLD, way.share, way.epochs), ARCHITECTURES)
    return _points(mean_interval(less)) if less else ""


def _name(group: Sequence[str]) -> str:
    return group[0] if len(group) == 1 else "all"


def _points(interval: Interval) -> str:
    """In hundredths."""
    if interval.low is None or interval.high is None:
        return f"{100 * interval.mean:+.2f}"
    return f"{100 * interval.mean:+.2f} [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
