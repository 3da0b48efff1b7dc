"""The page of the study: its tables, its figures, and the text around them in index.md.jinja."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from networks import RUNS, Trained
from replaced import ALL, STRIDED, Replaced
from rows import KINDS, Row
from scipy.stats import spearmanr
from small import DECAY, STRONG_DECAY

from ckrm_kernels.patterns.figure import figure
from ckrm_kernels.patterns.matching import match_layers
from ckrm_kernels.presentation.drawing import figure_file
from ckrm_kernels.storage.files import write_atomically

DRAWN = ("efficientnet-lite0", "mobilenet-v2", "text detector", "small, strong decay")
SHARES = ("identity", "blur", "edge", "zero", "none", "by_chance")
SMALL, STRONG, UNTRAINED = "small, seed", "small, strong decay", "small, untrained"
STRIDED_KIND, LAST, OTHERS = KINDS[:3]


def write(
    folder: Path,
    networks: Sequence[Trained],
    rows: Sequence[Row],
    results: Sequence[Replaced],
    compared: Sequence[dict[str, Any]],
    random: Sequence[dict[str, Any]],
) -> None:
    """Writes index.md and its figures. compared, random: what `nearness` gives"""
    for network in networks:
        if network.name in DRAWN:
            write_atomically(folder / f"{_file(network.name)}.png", _drawn(network))
    templates = Environment(loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True)
    text = templates.get_template("index.md.jinja").render(
        packages=packages(networks, rows),
        kinds=kinds([row for row in rows if row.package]),
        strided=strided(rows),
        centres=centres([row for row in rows if row.package and row.kind == STRIDED_KIND and row.blur > 0.2]),
        depths=depths(rows),
        replaced=table_of_replaced(results),
        others=others(results),
        found=lambda network, layer: next(each for each in results if (each.network, each.layer) == (network, layer)),
        strided_alone=strided_alone(rows, results),
        strided_together=ranges([each for each in results if each.layer == STRIDED and _is_packaged(rows, each)]),
        all_together=ranges([each for each in results if each.layer == ALL and _is_packaged(rows, each)]),
        layers=len([row for row in rows if row.package]),
        small=small(rows),
        accuracy_of_seeds=accuracies("small-seed-*.pt"),
        accuracy_of_strong=accuracies("small-strong-decay.pt"),
        decay=f"{DECAY:g}",
        strong_decay=f"{STRONG_DECAY:g}",
        similarities=similarities(compared),
        random=random_kernels(random),
        figures={name: f"{_file(name)}.png" for name in DRAWN},
    )
    write_atomically(folder / "index.md", text.rstrip() + "\n")


def packages(networks: Sequence[Trained], rows: Sequence[Row]) -> str:
    """Which networks, and where they come from."""
    lines = []
    for network in networks:
        own = [row for row in rows if row.network == network.name]
        depthwise = sum("depthwise" in row.kind for row in own)
        package = network.package.replace("==", " ") or "trained here"
        lines.append([network.name, package, network.learned, str(len(own)), str(depthwise)])
    return markdown(["network", "package", "learned", "layers", "depthwise"], lines, words=3)


def kinds(rows: Sequence[Row]) -> str:
    """Means of the layers of each kind."""
    head = ["kind", "layers", "lambda", "chance", "beyond chance", "distinct", "dead", *_heads()]
    lines = []
    for kind in KINDS:
        own = [row for row in rows if row.kind == kind]
        filters = [int(row.shape.split("x")[0]) for row in own]
        distinct = fmean(row.distinct / count for row, count in zip(own, filters, strict=True))
        dead = fmean(row.dead / count for row, count in zip(own, filters, strict=True))
        measured = [f"{_mean(own, 'redundancy'):.3f}", f"{_mean(own, 'chance'):.3f}"]
        repeats = str(sum(row.finding == "repeats" for row in own))
        shares = [f"{_mean(own, name):.0%}" for name in SHARES]
        lines.append([kind, str(len(own)), *measured, repeats, f"{distinct:.0%}", f"{dead:.1%}", *shares])
    return markdown(head, lines)


def strided(rows: Sequence[Row]) -> str:
    """Blurs in strided, last and other depthwise layers, network by network."""
    head = ["network", *(f"{kind}{what}" for kind in ("strided", "last", "others") for what in ("", ", by chance"))]
    lines = []
    for network in dict.fromkeys(row.network for row in rows):
        own = [_such(rows, network=network, kind=kind) for kind in (STRIDED_KIND, LAST, OTHERS)]
        if all(own):
            lines.append([network, *(f"{_mean(each, what):.0%}" for each in own for what in ("blur", "by_chance"))])
    return markdown(head, lines)


def centres(rows: Sequence[Row]) -> str:
    """Where the blurs of strided layers are."""
    head = ["network", "layer", "kernel", "in the middle", "off centre", "down", "right"]
    lines = []
    for row in rows:
        shares = [f"{row.centred:.0%}", f"{row.off_centre:.0%}", f"{row.down:+.2f}", f"{row.right:+.2f}"]
        lines.append([row.network, f"`{row.layer}`", "x".join(row.shape.split("x")[2:]), *shares])
    return markdown(head, lines, words=3)


def depths(rows: Sequence[Row]) -> str:
    """Identities, edges and blurs in depthwise layers of stride 1 but the last, by thirds of the network's depth."""
    names = ("identity", "edge", "blur")
    head = ["network", *(f"{name}, {part}" for name in names for part in ("first third", "middle", "last third"))]
    head += [f"{name} by depth" for name in names]
    lines = []
    for network in dict.fromkeys(row.network for row in rows):
        own = _such(rows, network=network, kind=OTHERS)
        if len(own) < 3:
            continue
        thirds = [[row for row in own if min(int(3 * row.depth), 2) == third] for third in range(3)]
        shares = [f"{_mean(third, name):.0%}" if third else "" for name in names for third in thirds]
        lines.append([network, *shares, *(_correlation(own, name) for name in names)])
    return markdown(head, lines)


def small(rows: Sequence[Row]) -> str:
    """The layers of the small networks, mean of the seeds, beside those of the untrained and the decayed one."""
    trained = [row for row in rows if row.network.startswith(SMALL)]
    head = ["layer", "stride"]
    for word in ("untrained", "trained", "strong decay"):
        head += [f"{word}: lambda", "chance", "identity", "blur", "edge"]
    lines = []
    for before in _such(rows, network=UNTRAINED):
        line = [before.shape, str(before.stride)]
        for own in ([before], _such(trained, layer=before.layer), _such(rows, network=STRONG, layer=before.layer)):
            line += [f"{_mean(own, name):.3f}" for name in ("redundancy", "chance")]
            line += [f"{_mean(own, name):.0%}" for name in ("identity", "blur", "edge")]
        lines.append(line)
    return markdown(head, lines)


def accuracies(files: str) -> str:
    """Of small networks on the test images, the lowest and the highest."""
    values = [torch.load(path)["accuracy"] for path in RUNS.glob(files)]
    return " to ".join(f"{value:.3f}" for value in sorted({min(values), max(values)}))


def table_of_replaced(results: Iterable[Replaced]) -> str:
    """The strided layers, and all together."""
    shown = [each for each in results if each.stride > 1]
    head = ["network", "layer", "kept", "repeats", "random", "shuffled", "matched", "patterns", "other patterns"]
    lines = []
    for each in shown:
        kept, matched = f"{each.kept} of {each.kernels}", f"{each.matched / each.kernels:.0%}"
        replaced = (each.repeats, each.random, each.shuffled)
        patterns = (each.patterns, each.other_patterns)
        cosines, of_patterns = ([f"{value:.3f}" for value in values] for values in (replaced, patterns))
        lines.append([each.network, f"`{each.layer}`" if "." in each.layer else each.layer, kept, *cosines, matched])
        lines[-1] += of_patterns
    return markdown(head, lines, words=2)


def strided_alone(rows: Sequence[Row], results: Sequence[Replaced]) -> dict[str, dict[str, str]]:
    """The ranges in the strided layers of the packaged networks whose lambda is above a half, and in the others."""
    redundancy = {(row.network, row.layer): row.redundancy for row in rows if row.package and row.kind == STRIDED_KIND}
    found = [each for each in results if (each.network, each.layer) in redundancy]
    high = [each for each in found if redundancy[each.network, each.layer] > 0.5]
    return {"high": ranges(high), "low": ranges([each for each in found if each not in high])}


def ranges(results: Sequence[Replaced]) -> dict[str, str]:
    """How many there are, the least and the greatest cosine of each kind, and of the matched share in percent."""
    names = ("repeats", "random", "shuffled", "patterns", "other_patterns")
    values = {name: [getattr(each, name) for each in results] for name in names}
    matched = [100 * each.matched / each.kernels for each in results]
    return {
        "count": str(len(results)),
        "matched": f"{min(matched):.0f} to {max(matched):.0f} %",
        **{name: f"{min(each):.2f} to {max(each):.2f}" for name, each in values.items()},
    }


def others(results: Iterable[Replaced]) -> str:
    """Means of the layers, strided and not, by network."""
    single = [each for each in results if each.layer not in (ALL, STRIDED)]
    head = ["network", "layers", "number", "kept", "repeats", "random", "shuffled", "matched", "patterns"]
    lines = []
    for network in dict.fromkeys(each.network for each in single):
        for word, is_strided in (("strided", True), ("others", False)):
            own = [each for each in single if each.network == network and (each.stride > 1) == is_strided]
            kept, matched = (fmean(getattr(each, name) / each.kernels for each in own) for name in ("kept", "matched"))
            cosines = [
                f"{fmean(getattr(each, name) for each in own):.3f}" for name in ("repeats", "random", "shuffled")
            ]
            patterns = f"{fmean(each.patterns for each in own):.3f}"
            lines.append([network, word, str(len(own)), f"{kept:.0%}", *cosines, f"{matched:.0%}", patterns])
    return markdown(head, lines, words=2)


def similarities(compared: Sequence[dict[str, Any]]) -> str:
    """How each similarity tells noisy patterns apart."""
    head = list(compared[0])
    lines = [
        [row["similarity"], f"{row['threshold']:.3f}", *(f"{row[name]:.0%}" for name in head[2:])] for row in compared
    ]
    return markdown(head, lines)


def random_kernels(random: Sequence[dict[str, Any]]) -> str:
    """The shares of random kernels that look like a pattern, of normal and of uniform weights."""
    head = list(random[0])
    lines = [[row["size"], *(" / ".join(f"{share:.2%}" for share in row[name]) for name in head[1:])] for row in random]
    return markdown(head, lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table whose first columns are words and whose others are numbers."""
    rule = ["---" if place < words else "--:" for place in range(len(head))]
    return "\n".join("| " + " | ".join(each) + " |" for each in (head, rule, *lines))


def _is_packaged(rows: Sequence[Row], result: Replaced) -> bool:
    return any(row.network == result.network and row.package for row in rows)


def _heads() -> list[str]:
    return [name.replace("_", " ") for name in SHARES]


def _mean(rows: Sequence[Row], name: str) -> float:
    return fmean(getattr(row, name) for row in rows)


def _such(rows: Sequence[Row], **of: Any) -> list[Row]:
    """Those with these values."""
    return [row for row in rows if all(getattr(row, name) == value for name, value in of.items())]


def _correlation(rows: Sequence[Row], name: str) -> str:
    """Spearman's of a share with the depth."""
    depths, shares = [row.depth for row in rows], [getattr(row, name) for row in rows]
    return f"{spearmanr(depths, shares).statistic:+.2f}" if len(set(shares)) > 1 else ""


def _drawn(network: Trained) -> bytes:
    layers, _ = network.layers()
    spatial = [layer for layer in layers if layer.shape and len(layer.shape) > 2 and max(layer.shape[2:]) > 1]
    return figure_file(figure(match_layers(spatial)), "png")


def _file(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")
