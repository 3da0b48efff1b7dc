"""Whole numbers among arguments, of every type that has them."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from ckrm_kernels.data import DataConfig
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.models.ggcam import CAMHead
from ckrm_kernels.training import Runtime
from ckrm_kernels.training.runs import RunsConfig
from ckrm_kernels.training.workers import Workers, processes_for
from ckrm_kernels.whole_numbers import whole_number
from ckrm_kernels.width_search.narrowing import narrowed_alike

NO_WHOLE_NUMBERS = [True, np.True_, 3.0, "3", None, np.float64(3), np.array([3, 4])]


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_every_kind_of_whole_number(value):
    assert whole_number("x", value) == 3
    assert type(whole_number("x", value)) is int


@pytest.mark.parametrize("value", NO_WHOLE_NUMBERS)
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match="x must be a whole number >= 1, got "):
        whole_number("x", value)


@pytest.mark.parametrize("number", [np.int64, np.uint8])
def test_settings_of_numpy_are_those_of_python(number):
    def made(number):
        return (
            ResNetShape(number(8), ((number(8),), (number(9),)), (number(8), number(9)), number(3), number(5)),
            DataConfig("folder", "x", image_size=(number(8), number(9)), split_seed=number(2)),
            Runtime(threads=number(2), data_workers=number(1)),
        )

    for ours, expected in zip(made(number), made(int), strict=True):
        assert json.dumps(asdict(ours)) == json.dumps(asdict(expected))
    assert DataConfig(fraction=np.float32(0.5)) == DataConfig(fraction=0.5)
    assert processes_for(5, number(2), Runtime()) == 2
    Workers(number(2))
    assert CAMHead(number(4), number(2)).weight.shape == (2, 4)
    assert narrowed_alike(ResNetShape(), number(200)) == narrowed_alike(ResNetShape(), 200)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda value: ResNetShape(stem=value), "conv1"),
        (lambda value: ResNetShape(classes=value), "classes"),
        (lambda value: DataConfig(split_seed=value), "split_seed"),
        (lambda value: DataConfig("folder", "x", image_size=(value, 8)), "image_size"),
        (lambda value: DataConfig(fraction=value), "fraction"),
        (lambda value: Runtime(threads=value), "threads"),
        (lambda value: Runtime(data_workers=value), "data_workers"),
        (lambda value: RunsConfig(seeds=(value,)), "seeds"),
        (lambda value: processes_for(5, value, Runtime()), "processes"),
        (Workers, "count"),
        (lambda value: CAMHead(value, 2), "channels"),
        (lambda value: narrowed_alike(ResNetShape(), value), "size"),
    ],
)
@pytest.mark.parametrize("value", [True, np.True_, "3"])
def test_truth_values_and_texts_are_refused_by_name(made, name, value):
    with pytest.raises(ValueError, match=rf"{name}( \(--.*\))? must "):
        made(value)
