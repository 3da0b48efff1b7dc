"""A data set that is learnt in seconds, a network for it, and trainings that are killed or interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from ckrm_kernels.data import Dataset, Part
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.training import Epoch, Runtime, TrainingConfig, UnfinishedRun, train
from ckrm_kernels.training.progress import TrainingBars
from ckrm_kernels.training.workers import Job

SHAPE = ResNetShape(stem=4, inner=((4,),), out=(6,), classes=3)
AT_ONCE = Runtime(checkpoint_seconds=0)
CONFIG = TrainingConfig(epochs=3, batch_size=16, weight_decay=1e-3)


def stripes(seed: int = 0) -> Dataset:
    """Three classes of noisy 6x6 images: flat, with one bright row, with one bright column."""
    generator = torch.Generator().manual_seed(seed)

    def part(size: int) -> Part:
        labels = torch.randint(3, (size,), generator=generator)
        images = torch.randn(size, 1, 6, 6, generator=generator) / 4
        for image, label in zip(images, labels, strict=True):
            image[0, 2 if label == 1 else slice(0)] += 2
            image[0, :, 3 if label == 2 else slice(0)] += 2
        return Part(images, labels)

    return Dataset("stripes", 3, part(96), part(30), part(60))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return SHAPE.build()


def job(folder, seed: int = 0, config: TrainingConfig = CONFIG, load_data=stripes) -> Job:
    return Job(SHAPE, load_data, {"name": "stripes"}, config, seed, folder / f"seed-{seed}")


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


class Killed(BaseException):
    pass


def killed_after(saves: int, monkeypatch, *arguments, **options) -> None:
    """A training that ends without notice right after so many checkpoints."""
    original, seen = UnfinishedRun.save, []

    def save(self, state):
        if len(seen) == saves:
            raise Killed
        original(self, state)
        seen.append(1)

    with monkeypatch.context() as patched:
        patched.setattr(UnfinishedRun, "save", save)
        with pytest.raises(Killed):
            train(*arguments, **options, runtime=AT_ONCE)


@contextmanager
def interrupted_after(epochs: int, monkeypatch) -> Iterator[None]:
    """A statement that Ctrl-C ends when so many epochs, of all its trainings, have been shown."""
    seen, original = [], TrainingBars.on_event

    def interrupt(self, place, event):
        seen.extend([event] if isinstance(event, Epoch) else [])
        if len(seen) == epochs:
            raise KeyboardInterrupt
        original(self, place, event)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingBars, "on_event", interrupt)
        with pytest.raises(KeyboardInterrupt):
            yield
