"""Images beside gaze and predicted saliency: what is drawn, kept and refused."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from ckrm_kernels.comparison.saliency_examples import (
    first_of_each_class,
    load_examples,
    saliency_examples,
    save_examples,
)
from ckrm_kernels.comparison.saliency_figure import plot_saliency, saliency_figure
from ckrm_kernels.data import Part


class Looks(nn.Module):
    """Looks where the image is bright, or where it is dark."""

    def __init__(self, sign: float):
        super().__init__()
        self.sign = nn.Parameter(torch.tensor(sign))

    def forward(self, images, with_saliency=False):
        return images.mean((2, 3))

    def saliency(self, images):
        return (self.sign * images[:, 0]).flatten(1).log_softmax(1).unflatten(1, images.shape[2:])


NETWORKS = {"bright": Looks(1.0), "a dark one": Looks(-1.0)}


def part_of(*shape: int) -> Part:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(9, *shape, generator=generator)
    return Part(images, torch.tensor([2, 0, 0, 1, 4, 4, 3, 5, 1]), images.mean(1).softmax(2) / 2)


def test_the_first_image_of_each_class_of_at_most_four():
    assert first_of_each_class(part_of(1, 4, 4)) == [1, 3, 0, 6]


def test_examples_by_hand():
    part = part_of(2, 4, 6)
    examples = saliency_examples(NETWORKS, part, [3, 0])
    assert examples.labels == (1, 2)
    for place, row in enumerate((3, 0)):
        grey = part.images[row].numpy().mean(0)
        np.testing.assert_allclose(examples.images[place], (grey - grey.min()) / (grey.max() - grey.min()), rtol=1e-5)
        np.testing.assert_allclose(examples.gaze[place], part.gaze[row] / part.gaze[row].max(), rtol=1e-6)
        for name, sign in (("bright", 1), ("a dark one", -1)):
            map_ = np.exp(sign * part.images[row, 0].numpy())
            np.testing.assert_allclose(examples.predicted[name][place], map_ / map_.max(), rtol=1e-5)
            expected = np.corrcoef(map_.ravel(), part.gaze[row].numpy().ravel())[0, 1]
            assert examples.correlations[name][place] == pytest.approx(expected, abs=1e-6)


def test_large_images_are_kept_small():
    examples = saliency_examples(NETWORKS, part_of(1, 320, 256), [0])
    for maps in (examples.images, examples.gaze, *examples.predicted.values()):
        assert maps.shape == (1, 160, 128)
        assert (maps.min() >= 0, maps.max()) == (True, 1)


def test_they_come_back_as_they_were_kept(tmp_path):
    path, examples = tmp_path / "saliency.safetensors", saliency_examples(NETWORKS, part_of(1, 4, 6), [5, 1])
    assert load_examples(path) is None
    save_examples(path, examples)
    found = load_examples(path)
    assert list(found.predicted) == ["bright", "a dark one"]
    assert (found.labels, found.correlations) == (examples.labels, examples.correlations)
    for name, maps in examples.predicted.items():
        assert torch.equal(found.predicted[name], maps)
    assert torch.equal(found.images, examples.images)
    assert torch.equal(found.gaze, examples.gaze)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{path} is damaged .*; delete it to do without its pictures"):
        load_examples(path)


def test_the_figure_has_a_picture_for_each_image_of_each_column():
    examples = saliency_examples(NETWORKS, part_of(1, 4, 6), [0, 4])
    figure = saliency_figure(examples, ("a", "b", "c", "d", "e"))
    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["image", "gaze", "bright", "a dark one"]
    below = [axes.get_xlabel() for axes in figure.axes]
    correlations = [f"CC {value:.2f}" for name in NETWORKS for value in examples.correlations[name]]
    assert below == ["c", "e", "", "", *correlations]
    drawn = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    np.testing.assert_array_equal(drawn[3], examples.gaze[1])
    np.testing.assert_array_equal(drawn[6], examples.predicted["a dark one"][0])


def test_a_picture_file(tmp_path):
    path = plot_saliency(NETWORKS, part_of(1, 4, 6), tmp_path / "saliency.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.height > image.width / 2


@pytest.mark.parametrize(
    ("networks", "part", "rows", "message"),
    [
        ({"plain": nn.Linear(2, 2)}, part_of(1, 4, 4), [0], "networks must predict saliency, .*; plain does not"),
        (NETWORKS, Part(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])), [0], "part must have gaze maps, got none"),
        (NETWORKS, part_of(1, 4, 4), [0, 9], r"rows must be from 0 to 8, one at least, got \[0, 9\]"),
        (NETWORKS, part_of(1, 4, 4), [], r"rows must be from 0 to 8, one at least, got \[\]"),
    ],
)
def test_what_is_refused(networks, part, rows, message):
    with pytest.raises(ValueError, match=message):
        saliency_examples(networks, part, rows)
