"""The images of an epoch, batch by batch, in an order that can be taken up again anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ckrm_kernels.data import Batch, Part


def shuffled(size: int, batch_size: int, smallest: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """The indices of an epoch in random order, in batches; a last one below `smallest` joins the one before."""
    batches = torch.randperm(size, generator=generator).split(batch_size)
    if len(batches) > 1 and len(batches[-1]) < smallest:
        return (*batches[:-2], torch.cat(batches[-2:]))
    return batches


def load(part: Part, batches: Sequence[Tensor], workers: int, pinned: bool) -> Iterator[Batch]:
    """The images of the batches, loaded ahead by so many worker processes."""
    if workers == 0:
        return (part.batch(indices) for indices in batches)
    loader: DataLoader[Batch] = DataLoader(
        part,  # type: ignore[arg-type]
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=pinned,
        generator=torch.Generator(),  # the default one decides the training and is left alone
    )
    return iter(loader)


def _as_is(batch: Any) -> Any:
    return batch
