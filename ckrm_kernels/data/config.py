"""Which data set, as typed settings that a file or a command can give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from ckrm_kernels.choices import DataName
from ckrm_kernels.data.chest_xrays.egd_cxr import FRAMES, STEP, check_gaze_step, egd_cxr
from ckrm_kernels.data.cifar100 import cifar100
from ckrm_kernels.data.dataset import Dataset
from ckrm_kernels.data.digits import digits
from ckrm_kernels.data.fashion import fashion_mnist
from ckrm_kernels.data.files import Track, untracked
from ckrm_kernels.data.folder import image_folder
from ckrm_kernels.data.fraction import with_fraction
from ckrm_kernels.data.mnist import mnist
from ckrm_kernels.whole_numbers import as_whole

Gaze = Literal["gaze", "fixations"]


@dataclass(frozen=True)
class DataConfig:
    """Settings of a data set. JSON can hold them all: a list serves as image_size.

    name: which one
    folder: where its files are; None for digits, which come with scikit-learn, and for fashion-mnist where Debian's
        package is installed
    image_folder: egd-cxr only: MIMIC-CXR's DICOM files, with files/p10 and so on
    image_size: (H, W); for folder, any; for egd-cxr, (640, 512) by default or (1536, 1280); None for others
    gaze: egd-cxr only: gaze maps from every "gaze" point, or from "fixations" by their duration
    gaze_step: egd-cxr only: pixels of the image for one cell of its gaze map, each way; 1 for networks that predict it
    split_seed: which random split, >= 0
    fraction: how much of the training part is trained on, in (0, 1], of every class alike; chosen by split_seed
    skip_bad: leave out and list images that can't be used (folder, egd-cxr); a damaged file of another data set, which
        holds all its images, is always an error
    cache: folder of preprocessed images (folder, egd-cxr); None: the environment's CKRM_CACHE, or ~/.cache/ckrm_kernels
    Raises ValueError, naming it, for a setting that is not as above.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    name: DataName = "digits"
    folder: str | None = None
    image_folder: str | None = None
    image_size: tuple[int, int] | None = None
    gaze: Gaze = "gaze"
    gaze_step: int = STEP
    split_seed: int = 0
    fraction: float = 1.0
    skip_bad: bool = False
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(DataName):
            raise ValueError(f"name must be one of {', '.join(get_args(DataName))}, got {self.name!r}")
        if self.name != "fashion-mnist" or self.folder is not None:
            self._check_given("folder", self.folder, self.name != "digits")
        self._check_given("image_folder", self.image_folder, self.name == "egd-cxr")
        self._check_image_size()
        if self.gaze not in get_args(Gaze):
            raise ValueError(f"gaze must be one of {', '.join(get_args(Gaze))}, got {self.gaze!r}")
        if self.image_size is not None and self.name == "egd-cxr":
            check_gaze_step(self.gaze_step, self.image_size)
        seed, fraction = as_whole(self.split_seed), self.fraction
        if seed is None or seed < 0 or seed >= 2**63:
            raise ValueError(f"split_seed must be a whole number from 0 to 2^63 - 1, got {self.split_seed!r}")
        object.__setattr__(self, "split_seed", seed)
        if not isinstance(fraction, Real) or isinstance(fraction, bool) or not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie above 0 and be at most 1, got {fraction!r}")
        object.__setattr__(self, "fraction", float(fraction))
        if not isinstance(self.skip_bad, bool):
            raise ValueError(f"skip_bad must be true or false, got {self.skip_bad!r}")
        if self.cache is not None and not isinstance(self.cache, str):
            raise ValueError(f"cache must be a folder or None, got {self.cache!r}")

    def _check_given(self, argument: str, folder: str | None, needed: bool) -> None:
        if folder is None and needed:
            option = {"folder": "--data-folder", "image_folder": "--image-folder"}[argument]
            raise ValueError(f"{self.name} needs {argument} ({option}): the folder with its files")
        if folder is not None and not (needed and isinstance(folder, str) and folder):
            accepted = "a folder" if needed else f"None for {self.name}"
            cure = ""
            if self.name == "digits" and argument == "folder":
                others = ", ".join(name for name in get_args(DataName) if name != "digits")
                cure = f"; the digits have no files: say which data set is there (--data): {others}"
            raise ValueError(f"{argument} must be {accepted}, got {folder!r}{cure}")

    def _check_image_size(self) -> None:
        size: Any = self.image_size
        if isinstance(size, (list, tuple)):
            size = tuple(map(as_whole, size))
        if self.name == "egd-cxr" and size is None:
            size = (640, 512)
        if self.name == "egd-cxr":
            accepted, right = " or ".join(map(str, FRAMES)), size in [*FRAMES]
        elif self.name == "folder":
            accepted = "two whole numbers >= 1, height and width,"
            right = isinstance(size, tuple) and len(size) == 2 and all(n is not None and n >= 1 for n in size)
        else:
            accepted, right = "None", size is None
        if not right:
            raise ValueError(f"image_size (--image-size) must be {accepted} for {self.name}, got {self.image_size!r}")
        object.__setattr__(self, "image_size", size)

    def load(self, track: Track = untracked) -> Dataset:
        """The data set; read only once in a process for equal settings.

        track: shows progress where images have to be decoded, called as `rich.progress.track` is
        """
        if self not in _loaded:
            _loaded[self] = with_fraction(self._read(track), self.fraction, self.split_seed)
        return _loaded[self]

    def reload(self, track: Track = untracked) -> Dataset:
        """As `load`, of the files as they are now."""
        _loaded.pop(self, None)
        return self.load(track)

    @property
    def place(self) -> str:
        """Where the files are, or what needs none."""
        return self.folder or self.name

    def _read(self, track: Track) -> Dataset:
        folder, size, seed = self.folder or "", self.image_size or (0, 0), self.split_seed
        match self.name:
            case "digits":
                return digits(seed)
            case "mnist":
                return mnist(folder, seed)
            case "fashion-mnist":
                return fashion_mnist(self.folder, seed)
            case "cifar100":
                return cifar100(folder, seed)
            case "folder":
                return image_folder(folder, size, seed, skip_bad=self.skip_bad, cache=self.cache, track=track)
            case "egd-cxr":
                return egd_cxr(
                    folder,
                    self.image_folder or "",
                    size,
                    seed,
                    gaze=self.gaze,
                    gaze_step=self.gaze_step,
                    skip_bad=self.skip_bad,
                    cache=self.cache,
                    track=track,
                )


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON, without what in its `data` says only where files are: that decides no result."""
    data = config.get("data")
    if not isinstance(data, dict):
        return dict(config)
    return {**config, "data": {name: value for name, value in data.items() if name not in _PLACES}}


_PLACES = ("folder", "image_folder", "cache")
_loaded: dict[DataConfig, Dataset] = {}
