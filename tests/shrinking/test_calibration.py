from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ckrm_kernels.shrinking.calibration import Calibration

IMAGES = torch.randn(10, 3, 4, 4)
LABELS = torch.arange(10)
EXAMPLE = torch.zeros(2, 3, 4, 4)


def seen(calibration):
    """What the forward passes get, put together."""
    return torch.cat([args[0] for args, _ in calibration])


class Singles:
    """Such a data set as torch's, without __iter__ and without an end."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return IMAGES[index], int(LABELS[index])


@pytest.mark.parametrize(
    "data",
    [
        IMAGES,
        list(IMAGES.split(4)),
        list(IMAGES),
        list(zip(IMAGES.split(3), LABELS.split(3), strict=True)),
        [[IMAGES, LABELS]],
        [(IMAGES, {"boxes": LABELS})],
        DataLoader(TensorDataset(IMAGES, LABELS), batch_size=7),
        DataLoader(TensorDataset(IMAGES), batch_size=1),
        TensorDataset(IMAGES, LABELS),
        Singles(),
        (batch for batch in IMAGES.split(4)),
    ],
)
def test_every_form_of_images_gives_the_same_ones_twice(data):
    calibration = Calibration(data, EXAMPLE, batch=4)
    assert calibration.images == 10
    assert torch.equal(seen(calibration), IMAGES)
    assert torch.equal(seen(calibration), IMAGES)
    assert max(len(args[0]) for args, _ in calibration) <= 4
    assert calibration.memory == 10 * 48 * 4


def test_no_more_are_read_than_are_used():
    read = []

    def endless():
        while True:
            read.append(1)
            yield IMAGES[:4]

    assert Calibration(endless(), EXAMPLE, images=6).images == 6
    assert len(read) == 2


def test_several_arguments():
    mask = torch.ones(10, 4, dtype=torch.bool)
    for data in ([(IMAGES, mask)], [((IMAGES, mask), LABELS)], [(IMAGES, mask, LABELS)]):
        [(args, kwargs)] = Calibration(data, (EXAMPLE, torch.ones(2, 4, dtype=torch.bool)))
        assert torch.equal(args[0], IMAGES)
        assert torch.equal(args[1], mask)
        assert kwargs == {}


def test_keywords_and_what_is_no_tensor():
    example = {"pixels": EXAMPLE, "scale": 2.0, "inner": {"mask": torch.ones(2, 4)}}
    given = {"label": LABELS, "inner": {"mask": torch.zeros(10, 4)}, "scale": 3.0, "pixels": IMAGES}
    for data in ([given], [(given, LABELS)]):
        [(args, kwargs)] = Calibration(data, example)
        assert args == ()
        assert torch.equal(kwargs["pixels"], IMAGES)
        assert torch.equal(kwargs["inner"]["mask"], torch.zeros(10, 4))
        assert kwargs["scale"] == 2.0
    [(args, kwargs)] = Calibration([((IMAGES,), {"scale": 3.0})], ((EXAMPLE,), {"scale": 2.0}))
    assert torch.equal(args[0], IMAGES)
    assert kwargs == {"scale": 2.0}


def test_floating_inputs_are_given_in_the_dtype_of_the_example():
    calibration = Calibration(IMAGES.double(), EXAMPLE.half())
    assert seen(calibration).dtype == torch.float16
    assert torch.equal(seen(Calibration(LABELS.view(10, 1), torch.zeros(1, 1, dtype=torch.int64))), LABELS.view(10, 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (IMAGES[:0], "calibration has no inputs; accepted are 2 or more"),
        ([], "calibration has no inputs"),
        (IMAGES[:1], "calibration has one input; accepted"),
        (IMAGES * torch.nan, "NaN or Inf"),
        (IMAGES.to("meta"), "on the meta device, without values"),
        (IMAGES.to_sparse(), "of the layout torch.sparse_coo; accepted are dense ones"),
        ([IMAGES, IMAGES / 0], "NaN or Inf"),
        (torch.zeros(4, 3, 5, 4), r"shape \(3, 5, 4\), example_inputs of \(3, 4, 4\)"),
        (torch.zeros(4, 4), r"shape \(4,\), example_inputs of \(3, 4, 4\)"),
        (torch.zeros(4, 3, 4, 4, dtype=torch.uint8), r"dtype torch.uint8, example_inputs have torch.float32; scale"),
    ],
)
def test_bad_values(data, message):
    with pytest.raises(ValueError, match=message):
        Calibration(data, EXAMPLE)


@pytest.mark.parametrize(
    "data", [None, 3, "folder", {"images": IMAGES}, [{"images": IMAGES}], ["a"], [()], IMAGES.numpy()]
)
def test_what_is_no_inputs(data):
    with pytest.raises(TypeError, match=r"calibration .*; accepted is a tensor"):
        Calibration(data, EXAMPLE)


def test_one_tensor_for_two_arguments():
    with pytest.raises(TypeError, match="calibration is one tensor, while example_inputs are 2"):
        Calibration(IMAGES, (EXAMPLE, EXAMPLE))


def test_arguments_of_different_numbers():
    with pytest.raises(ValueError, match=r"tensors of \[10, 9\] inputs"):
        Calibration([(IMAGES, IMAGES[:9])], (EXAMPLE, EXAMPLE))


@pytest.mark.parametrize("options", [{"images": 1}, {"images": 2.5}, {"batch": 0}])
def test_bad_options(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a whole number"):
        Calibration(IMAGES, EXAMPLE, **options)
