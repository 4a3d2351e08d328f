"""Pictures: finding, reading, transforming, ordering, feeding, mixing and checking them."""

from paddlevit.data.build import build_datasets, build_sampler
from paddlevit.data.dataset import ImageDataset
from paddlevit.data.finding import find_images
from paddlevit.data.images import load_image
from paddlevit.data.loader import build_loader
from paddlevit.data.mixing import Mixing, build_mixing
from paddlevit.data.sampler import EpochSampler, SampleKey
from paddlevit.data.transforms import eval_transform, train_transform

__all__ = [
    "EpochSampler",
    "ImageDataset",
    "Mixing",
    "SampleKey",
    "build_datasets",
    "build_loader",
    "build_mixing",
    "build_sampler",
    "eval_transform",
    "find_images",
    "load_image",
    "train_transform",
]
