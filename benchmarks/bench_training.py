"""An epoch of training beside a plain loop over the same network, which must end in the same bits."""

import dataclasses

import pytest
import race
import torch
from torch import Tensor, nn

from ckrm_kernels.data import Dataset, Normalization, Part
from ckrm_kernels.models import network_shape
from ckrm_kernels.training import TrainingConfig, train

SHAPE, CONFIG = dataclasses.replace(network_shape("resnet-digits"), in_channels=1), TrainingConfig(epochs=1)
RACE: dict[str, race.Entry] = {}


def data() -> Dataset:
    """Noise in the form of Fashion-MNIST at half its size."""
    generator = torch.Generator().manual_seed(0)

    def part(size: int) -> Part:
        images = torch.randint(256, (size, 1, 14, 14), dtype=torch.uint8, generator=generator)
        labels = torch.randint(10, (size,), generator=generator)
        return Part(images, labels, normalization=Normalization((72.9,), (90.0,)))

    return Dataset("noise", 10, part(1024), part(128), part(2))


def ours(data: Dataset) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = SHAPE.build()
    train(model, data, CONFIG, seed=0)
    return model.state_dict()


def plain(data: Dataset) -> dict[str, Tensor]:
    """What one would write by hand, with the images standardised beforehand."""
    torch.manual_seed(0)
    model, labels = SHAPE.build(), data.train.labels
    images, watched = (part.batch(torch.arange(len(part))).images for part in (data.train, data.validation))
    batches = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).split(CONFIG.batch_size)
    optimizer = torch.optim.SGD(model.parameters(), CONFIG.learning_rate, CONFIG.momentum, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, CONFIG.learning_rate, total_steps=len(batches), cycle_momentum=False
    )
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        (model(watched).argmax(1) == data.validation.labels).float().mean().item()
    return model.state_dict()


LOOPS = {"training.train": ours, "a plain loop": plain}


@pytest.mark.parametrize("loop", LOOPS)
def test_training(report_times, loop):
    if not RACE:
        noise = data()
        expected = plain(noise)

        def check(trained: dict[str, Tensor]) -> None:
            assert all(torch.equal(value, expected[name]) for name, value in trained.items())

        RACE.update({name: race.enter({"": lambda run=run: run(noise)}, check) for name, run in LOOPS.items()})
        race.run(list(RACE.values()))
    report_times("an epoch", "1,024 images of 14x14", loop, RACE[loop].seconds, form="", slice_pairs=0)
