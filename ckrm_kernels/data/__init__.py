"""Data sets of images, split into training, validation and held-out parts. None is downloaded."""

from ckrm_kernels.data.chest_xrays.egd_cxr import egd_cxr
from ckrm_kernels.data.cifar100 import cifar100
from ckrm_kernels.data.config import DataConfig
from ckrm_kernels.data.dataset import Batch, Dataset, Normalization, Part, Skipped
from ckrm_kernels.data.digits import digits
from ckrm_kernels.data.fashion import fashion_mnist
from ckrm_kernels.data.files import BadFile
from ckrm_kernels.data.folder import image_folder
from ckrm_kernels.data.mnist import mnist
from ckrm_kernels.data.split import split_by_class

__all__ = [
    "BadFile",
    "Batch",
    "DataConfig",
    "Dataset",
    "Normalization",
    "Part",
    "Skipped",
    "cifar100",
    "digits",
    "egd_cxr",
    "fashion_mnist",
    "image_folder",
    "mnist",
    "split_by_class",
]
