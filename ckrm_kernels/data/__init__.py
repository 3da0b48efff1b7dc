"""Data sets of images, split into training, validation and held-out parts."""

from ckrm_kernels.data.config import DataConfig
from ckrm_kernels.data.dataset import Batch, Dataset, Part, split_by_class
from ckrm_kernels.data.digits import digits

__all__ = ["Batch", "DataConfig", "Dataset", "Part", "digits", "split_by_class"]
