"""A small depthwise network, trained on Fashion-MNIST in a minute."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from ckrm_kernels.data import Part, fashion_mnist
from ckrm_kernels.storage.files import write_atomically

IMAGES, EPOCHS, BATCH, RATE = 12_000, 4, 64, 0.1
DECAY, STRONG_DECAY = 5e-4, 1e-2
BLOCKS = ((48, 1), (64, 2), (64, 1), (96, 2), (96, 1), (96, 1))
"""The width and the stride of each depthwise layer and the 1x1 layer after it."""


def network() -> nn.Module:
    """Images (N, 1, 28, 28) -> logits (N, 10), newly initialised."""
    layers, width = [nn.Conv2d(1, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()], 24
    for out, stride in BLOCKS:
        for convolution in (
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.Conv2d(width, out, 1, bias=False),
        ):
            layers += [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]
        width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def small_network(path: Path | None, seed: int, decay: float = DECAY) -> nn.Module:
    """The network trained from a seed with a weight decay, kept in the file; without one, as it is initialised."""
    torch.manual_seed(seed)
    model = network()
    if path is None:
        return model.eval()
    if not path.exists():
        accuracy = train(model, seed, decay)
        state = {"state_dict": model.state_dict(), "accuracy": accuracy}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    model.load_state_dict(torch.load(path)["state_dict"])
    return model.eval()


def test_images() -> Tensor:
    """(1000, 1, 28, 28) float32, the first test images."""
    return fashion_mnist().held_out.batch(torch.arange(1000)).images


def train(model: nn.Module, seed: int, decay: float) -> float:
    """SGD with one cycle; gives the accuracy on the test images."""
    data = fashion_mnist()
    steps = EPOCHS * (IMAGES // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=decay, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        order = torch.randperm(len(data.train), generator=generator)[:IMAGES]
        for indices in order[: IMAGES // BATCH * BATCH].split(BATCH):
            batch = data.train.batch(indices)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
            optimizer.step()
            schedule.step()
    return accuracy(model, data.held_out)


@torch.no_grad()
def accuracy(model: nn.Module, part: Part) -> float:
    """The share of the part's images that the model puts in their class."""
    model.eval()
    right: list[Tensor] = []
    for indices in torch.arange(len(part)).split(1000):
        batch = part.batch(indices)
        right.append(model(batch.images).argmax(1) == batch.labels)
    return torch.cat(right).double().mean().item()
