"""Images that take long to decode: decoded once, on several threads, and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ckrm_kernels.data.dataset import Normalization, Part, Skipped
from ckrm_kernels.data.files import BadFile, Track
from ckrm_kernels.data.split import Indices
from ckrm_kernels.data.stored import PartWriter, open_part, read_record, write_record
from ckrm_kernels.storage.built_once import built_once

T = TypeVar("T")
R = TypeVar("R")
Arrays = dict[str, np.ndarray]

_VERSION = 3  # of what is kept; another one leaves the caches of before alone
_PARTS = ("train", "validation", "held_out")
_THREADS = 8


@dataclass(frozen=True)
class Preprocessing:
    """What to preprocess, and how.

    identity: what decides the result, as JSON, with digests of the files' contents
    roots: the folders that the files lie below
    labels: (N,) of all images; indices: which of them belong to the three parts
    decoder: called once, where the cache holds nothing; gives the function that decodes the image at an index into
        arrays, under the names of `Part`'s fields, or raises `BadFile`, and that is called on several threads
    normalize: measure the normalisation of the training part; its images must be uint8
    """

    identity: dict[str, Any]
    roots: tuple[Path, ...]
    labels: Sequence[int]
    indices: Indices
    decoder: Callable[[], Callable[[int], Arrays]]
    normalize: bool

    def parts(self, cache: Path, skip_bad: bool, track: Track) -> tuple[tuple[Part, Part, Part], tuple[Skipped, ...]]:
        """The three parts, memory-mapped from the cache, and what was left out.

        Raises `BadFile` for the first image that can't be used, unless skip_bad.
        """
        text = json.dumps([_VERSION, self.identity], sort_keys=True)
        name = f"{self.identity['name']}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
        folder = built_once(cache / name, lambda temporary: self._build(temporary, skip_bad, track))
        record = read_record(folder)
        skipped = tuple(Skipped(str(self.roots[root] / path), reason) for root, path, reason in record["skipped"])
        if skipped and not skip_bad:
            raise BadFile(Path(skipped[0].path), skipped[0].reason)
        normalization = None
        if record["normalization"]:
            normalization = Normalization(**{name: tuple(value) for name, value in record["normalization"].items()})
        train, validation, held_out = (open_part(folder, part, record["parts"][part], normalization) for part in _PARTS)
        return (train, validation, held_out), skipped

    def _build(self, folder: Path, skip_bad: bool, track: Track) -> None:
        skipped: list[Skipped] = []
        jobs = [(part, index) for part, indices in zip(_PARTS, self.indices, strict=True) for index in indices.tolist()]
        _check_not_empty(self.indices, len(jobs), 0)
        decode = self.decoder()

        def attempt(job: tuple[str, int]) -> tuple[str, int, Arrays | BadFile]:
            try:
                return *job, decode(job[1])
            except BadFile as error:
                return *job, error

        with ExitStack() as stack:
            writers = {part: stack.enter_context(PartWriter(folder, part)) for part in _PARTS}
            decoded = stack.enter_context(closing(_in_order(attempt, jobs)))
            for part, index, arrays in track(decoded, description="Preprocessing images", total=len(jobs)):
                if isinstance(arrays, BadFile):
                    if not skip_bad:
                        raise arrays
                    skipped.append(arrays.skipped)
                else:
                    writers[part].append({**arrays, "labels": np.asarray(self.labels[index], np.int64)})
        arrays = {part: writer.arrays for part, writer in writers.items()}
        _check_not_empty(arrays.values(), len(jobs), len(skipped))
        images = open_part(folder, "train", arrays["train"], None).images
        normalization = asdict(Normalization.of(images)) if self.normalize else None
        record = {"identity": self.identity, "parts": arrays, "normalization": normalization}
        write_record(folder, {**record, "skipped": [self._within_root(each) for each in skipped]})

    def _within_root(self, skipped: Skipped) -> tuple[int, str, str]:
        """The place of the file's root and the path below it, which hold for a copy of the files too."""
        path = Path(skipped.path)
        for place, root in enumerate(self.roots):
            if path.is_relative_to(root):
                return place, str(path.relative_to(root)), skipped.reason
        return 0, str(path.absolute()), skipped.reason


def _check_not_empty(parts: Iterable[Sized], images: int, left_out: int) -> None:
    for name, part in zip(_PARTS, parts, strict=True):
        if not len(part):
            raise ValueError(f"the {name} part is empty: {images} images, of which {left_out} were left out")


def _in_order(function: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
    """The function's results in the order of the items, computed a few ahead on threads."""
    threads = min(_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    try:
        ahead: deque[Future[R]] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
