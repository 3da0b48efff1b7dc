"""Saliency as pictures: each image, where people looked on it, and where each network predicts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ckrm_kernels.comparison.saliency_examples import SaliencyExamples, first_of_each_class, saliency_examples
from ckrm_kernels.data import Part
from ckrm_kernels.presentation.drawing import MARGIN, TYPE, WIDTH, new_figure, shortened
from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.storage.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP, _HEAD, _FOOT = 0.08, 0.42, 0.24  # inches: between pictures, above the first row, below each
_LONGEST_NAME = 16
_LETTER = 0.62  # the mean width of a letter, in its size
_MAPS = "magma"


def plot_saliency(
    networks: Mapping[str, nn.Module],
    part: Part,
    path: str | Path,
    *,
    rows: Sequence[int] | None = None,
    classes: Sequence[str] = (),
) -> Path:
    """Draws images of the part beside the gaze on them and the saliency that each network predicts, into a PNG file.

    networks: by name, see `models.SaliencyMaps`; part: with gaze maps
    rows: which images; by default the first of each class, of at most four
    classes: their names, by label; by default the labels
    out: the path. Raises ValueError as `saliency_examples`.
    """
    from ckrm_kernels.presentation.drawing import png_file

    examples = saliency_examples(networks, part, first_of_each_class(part) if rows is None else rows)
    write_atomically(Path(path), png_file(saliency_figure(examples, classes)))
    return Path(path)


def saliency_figure(examples: SaliencyExamples, classes: Sequence[str] = ()) -> Figure:
    """A row for each image: itself, the gaze, and each network's map with its correlation. classes: by label"""
    columns: dict[str, tuple[Tensor, str]] = {"image": (examples.images, "gray"), "gaze": (examples.gaze, _MAPS)}
    columns |= {name: (maps, _MAPS) for name, maps in examples.predicted.items()}
    count, (height, width) = len(examples.labels), examples.images.shape[1:]
    wide = (WIDTH - 2 * MARGIN - (len(columns) - 1) * _GAP) / len(columns)
    high = min(wide * height / width, 2 * wide)
    total = _HEAD + count * (high + _FOOT)
    titles = {name: shortened(name, _LONGEST_NAME).replace("-", "-\n") for name in columns}
    longest = max(len(line) for title in titles.values() for line in title.split("\n"))
    size = min(TYPE, 72 * wide / (_LETTER * longest))
    figure = new_figure(total)
    for column, (name, (maps, colours)) in enumerate(columns.items()):
        left = MARGIN + column * (wide + _GAP)
        for row in range(count):
            bottom = total - _HEAD - row * (high + _FOOT) - high
            axes = figure.add_axes((left / WIDTH, bottom / total, wide / WIDTH, high / total))
            _picture(axes, maps[row], colours)
            below, small = _below(examples, name, row, classes), TYPE - 2
            axes.set_xlabel(below, fontsize=small, color=LIGHT["soft"], labelpad=2, parse_math=False)
            if row == 0:
                axes.set_title(titles[name], fontsize=size, color=LIGHT["text"], pad=5, parse_math=False)
    return figure


def _picture(axes: Axes, values: Tensor, colours: str) -> None:
    axes.imshow(values.numpy(), cmap=colours, vmin=0, vmax=1, interpolation="none", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(LIGHT["line"])


def _below(examples: SaliencyExamples, column: str, row: int, classes: Sequence[str]) -> str:
    """The class below an image, the correlation below a prediction."""
    if column in examples.predicted:
        return f"CC {examples.correlations[column][row]:.2f}"
    label = examples.labels[row]
    return shortened(classes[label] if classes else f"class {label}", _LONGEST_NAME) if column == "image" else ""
