"""The page of a layer elimination: its numbers, its pictures, and how it looks in a browser."""

import base64
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from browser import needs_browser, opened
from PIL import Image

from ckrm_kernels.data import Dataset, Part
from ckrm_kernels.layer_elimination import Elimination, EliminationConfig, SeedResult, Selection
from ckrm_kernels.layer_elimination.page import page
from ckrm_kernels.layer_elimination.picked_images import sheet

NASTY = '<script>alert("x")</script>&'
# layer 1 chose 0 and 1, layer 2 chose 1 and 2 and, for its second map, none; layer 3 chose 3
SELECTION = Selection((((0, 1), (0,)), ((2, 1), ()), ((3,), (3,))))
RESULT = SeedResult(
    seed=0,
    found=(2, 2, 1),
    won=(1, 2, 1),
    confusion=((5, 1, 0), (2, 6, 1), (0, 0, 9)),
    chosen={"cnn-1": 1.0, "cnn-3-by-label": 0.91, "cnn-3-predicted": 0.82, "cnn-3-full": 0.73, "no-skipping": 0.64},
    held_out={"cnn-1": 0.985, "cnn-3-predicted": 0.555, "cnn-3-full": 0.465, "no-skipping": 0.375},
    depths=(25, 50, 25),
    multiply_adds={"cnn-1": 1000.0, "cnn-2": 100.0, "cnn-3": 412.5, "cnn-3-predicted": 512.5},
    seconds={"cnn-1": 2e-4, "cnn-2": 3e-5, "cnn-3": 9e-5, "cnn-3-predicted": 1.3e-4},
)
SEEDS = tuple(
    replace(RESULT, seed=seed, held_out={**RESULT.held_out, "cnn-3-predicted": accuracy})
    for seed, accuracy in enumerate((0.5, 0.55, 0.6))
)


def dataset(images: torch.Tensor) -> Dataset:
    part = Part(images, torch.arange(len(images)) % 2)
    return Dataset(NASTY, 2, part, part, part)


def grey(value: int) -> torch.Tensor:
    """One image, whose first pixel is black and whose second is white, so that the others keep their values."""
    return torch.tensor([0, 255, value, value], dtype=torch.uint8).view(1, 2, 2)


IMAGES = torch.stack([grey(10 * row) for row in range(4)])


def of(result: Elimination) -> str:
    return page(result, EliminationConfig(), dataset(IMAGES), {each.seed: SELECTION for each in result.seeds})


def cells(text: str) -> dict[str, list[str]]:
    """The cells of each row of the tables by the row's name."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text)
    return {name: re.findall(r"<td[^>]*>(.*?)</td>", rest) for name, rest in rows}


def test_its_numbers():
    text = of(Elimination(100, (RESULT,)))
    found = cells(text)
    assert found["CNN 1, all layers"] == ["1.0000", "0.9850"]
    assert found["CNN 3, layers known"] == ["0.9100", ""]
    assert found["CNN 3, layers predicted by CNN 2"] == ["0.8200", "0.5550"]
    assert found["both, as a user runs them"] == ["512", "51.2%", "130 µs", "65.0%"]
    assert found["layer 2"] == ["2", "6", "1", "9"]
    assert "CNN 2 names the layer of 83.3% of the chosen images" in text
    assert "the most frequent layer has 37.5% of them" in text
    assert "chosen images (24)" in text
    assert "\N{MINUS SIGN}0.4300" in text


def test_several_seeds_have_means_and_intervals():
    found = cells(of(Elimination(100, SEEDS)))
    # Student's t of three values: 4.302653 * 0.05 / sqrt(3)
    assert found["CNN 3, layers predicted by CNN 2"][1] == "0.5500 [0.4258, 0.6742]"
    assert found["layer 3"] == ["0", "0", "27", "27"]
    assert found["2"] == ["25.0%", "50.0%", "25.0%"]  # the last table of seeds: depths


def test_names_of_data_are_escaped():
    text = of(Elimination(100, (RESULT,)))
    assert NASTY not in text
    assert "&lt;script&gt;" in text


def test_a_sheet_has_a_row_for_each_map_and_faint_images_that_went_higher():
    drawn = np.asarray(Image.open(BytesIO(sheet(dataset(IMAGES).train, SELECTION, 0))))
    assert drawn.shape == (6, 6, 4)  # two by two images of 2x2, each with a gap of 1
    assert (drawn[0:2, 0:2, 0].flatten().tolist(), drawn[0:2, 0:2, 3].min()) == ([0, 255, 0, 0], 255)
    assert drawn[0:2, 3:5, 0].flatten().tolist() == [0, 255, 10, 10]
    assert 0 < drawn[0:2, 3:5, 3].max() < 255  # 1 went to layer 2
    assert drawn[3:5, 3:5, 3].max() == 0  # the second map chose one image alone
    assert drawn[2].max() == 0


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 128, 255])])
def test_channels(channels, shown):
    images = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(4, 3, 1, 1)[:, :channels]
    drawn = np.asarray(Image.open(BytesIO(sheet(dataset(images.contiguous()).train, SELECTION, 2))))
    assert drawn[0, 0, :3].tolist() == shown


def test_a_layer_that_chose_none_and_large_images():
    images = torch.zeros(4, 1, 300, 200)
    none = Selection((((), ()), *SELECTION.chosen[1:]))
    assert Image.open(BytesIO(sheet(dataset(images).train, none, 0))).size == (1, 2 * (48 + 6))
    assert Image.open(BytesIO(sheet(dataset(images).train, none, 2))).size == (32 + 6, 2 * (48 + 6))


@needs_browser
@pytest.mark.parametrize("width", [360, pytest.param(1200, marks=pytest.mark.exhaustive)])
def test_in_a_browser_nothing_is_wider_than_the_page(tmp_path, width):
    script = (
        "const result = [document.documentElement.scrollWidth, document.querySelectorAll('img').length, "
        "[...document.images].every(each => each.complete && each.naturalWidth > 0)];"
    )
    found, images, loaded = opened(of(Elimination(100, SEEDS)), script, tmp_path, width)
    assert found <= width
    assert (images, loaded) == (3, True)


def test_it_needs_no_other_file():
    text = of(Elimination(100, (RESULT,)))
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert all(base64.b64decode(each) for each in re.findall(r"base64,([^\"]*)", text))
