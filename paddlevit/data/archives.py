"""The small public data sets, read straight from the archives in which they are published.

CIFAR-10 and CIFAR-100 (Krizhevsky 2009), MNIST (LeCun et al. 1998), Fashion-MNIST (Xiao et al. 2017) and Oxford Flowers
102 (Nilsback and Zisserman 2008). Downloads come from Paddle's mirror, with its checksums; reading one runs no code.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import re
import secrets
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from paddlevit.config import ConfigError, DataConfig
from paddlevit.data.matlab import read_mat
from paddlevit.data.sources import ArraySource
from paddlevit.data.splits import Part, data_root, missing

TIMEOUT = 60.0
LIMIT = 1 << 30
IDX_MAGIC = {3: 0x803, 1: 0x801}
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
FLOWER_FILE = re.compile(r"image_\d{5}\.jpg")
FLOWER_PARTS = {"train": ("trnid",), "val": ("valid",), "trainval": ("trnid", "valid"), "test": ("tstid",)}

Files = dict[str, tuple[str, str]]  # file name -> address, MD5


def read_cifar(data: DataConfig, config_path: str) -> tuple[ArraySource, ArraySource]:
    """CIFAR-10 or CIFAR-100.

    Args:
        data: The section of the configuration.
        config_path: For the message when the archive is not there.

    Returns:
        50,000 pictures to train on and 10,000 to evaluate on.

    Raises:
        ConfigError: The archive is missing, or is not what it should be.
    """
    from paddle.vision.datasets import cifar

    kind = data.dataset[len("cifar") :]
    address, checksum = getattr(cifar, f"CIFAR{kind}_URL"), getattr(cifar, f"CIFAR{kind}_MD5")
    name = f"cifar-{kind}-python.tar.gz"
    path = _fetch(data, {name: (address, checksum)}, config_path)[name]
    batches, label_key, names_key = {
        "10": (r"data_batch_\d", b"labels", b"label_names"),
        "100": ("train", b"fine_labels", b"fine_label_names"),
    }[kind]
    try:
        with gzip.open(path) as file:
            content = io.BytesIO(file.read(LIMIT))  # to its end, where its checksum is
        with tarfile.open(fileobj=content, mode="r:") as archive:
            members = {Path(member.name).name: member for member in archive if member.isfile()}
            meta = _unpickle(archive, members["batches.meta" if kind == "10" else "meta"])
            names = [name.decode() for name in meta[names_key]]
            train = sorted(name for name in members if re.fullmatch(batches, name))
            test = "test_batch" if kind == "10" else "test"
            parts = [[_unpickle(archive, members[name]) for name in group] for group in (train, [test])]
        return _cifar_source(parts[0], label_key, names), _cifar_source(parts[1], label_key, names)
    except (
        tarfile.TarError,
        OSError,
        EOFError,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        pickle.UnpicklingError,
        zlib.error,
    ) as e:
        raise ConfigError(f"{path} is not the archive of {data.dataset}: {e or type(e).__name__}.") from e


def read_mnist(data: DataConfig, config_path: str) -> tuple[ArraySource, ArraySource]:
    """MNIST or Fashion-MNIST: 60,000 pictures to train on and 10,000 to evaluate on.

    Arguments and errors as of `read_cifar`.
    """
    from paddle.vision.datasets import MNIST, FashionMNIST

    publisher = MNIST if data.dataset == "mnist" else FashionMNIST
    files: Files = {}
    for part in ("TRAIN", "TEST"):
        for kind in ("IMAGE", "LABEL"):
            address = getattr(publisher, f"{part}_{kind}_URL")
            files[address.rsplit("/", 1)[1]] = (address, getattr(publisher, f"{part}_{kind}_MD5"))
    paths = list(_fetch(data, files, config_path).values())
    names = FASHION if data.dataset == "fashion_mnist" else [str(digit) for digit in range(10)]
    sources = []
    for images, labels in (paths[:2], paths[2:]):
        sources.append(ArraySource(_read_idx(images, 3), _read_idx(labels, 1).astype(np.int64), names))
        if len(sources[-1].images) != len(sources[-1].labels) or sources[-1].labels.max() >= len(names):
            raise ConfigError(f"{images} and {labels} do not belong together.")
    return sources[0], sources[1]


def read_flowers(data: DataConfig, config_path: str) -> tuple[Path, Part, Part, list[str]]:
    """Oxford Flowers 102; its archive is unpacked once, beside itself.

    Paddle's class takes the test part for training and counts labels from 1; here `data.train` and `data.val` name the
    publisher's parts (train, val, trainval, test), by default trainval (2,040 pictures) and test (6,149), and labels
    begin at 0.

    Arguments and errors as of `read_cifar`.

    Returns:
        The root, both parts below it, and the names of the classes, which are numbers as published.
    """
    from paddle.vision.datasets import flowers

    root = data_root(data)
    files = {
        "102flowers.tgz": (flowers.DATA_URL, flowers.DATA_MD5),
        "imagelabels.mat": (flowers.LABEL_URL, flowers.LABEL_MD5),
        "setid.mat": (flowers.SETID_URL, flowers.SETID_MD5),
    }
    unpacked = (root / "jpg").is_dir()
    paths = _fetch(data, dict(list(files.items())[1:]) if unpacked else files, config_path)
    if not unpacked:
        _unpack_flowers(paths["102flowers.tgz"], root / "jpg")
    labels = read_mat(paths["imagelabels.mat"])["labels"].reshape(-1).astype(np.int64) - 1
    ids = {name: values.reshape(-1).astype(np.int64) for name, values in read_mat(paths["setid.mat"]).items()}
    parts = []
    for key, name in (("train", data.train or "trainval"), ("val", data.val or "test")):
        if name not in FLOWER_PARTS:
            raise ConfigError(f"data.{key} is {name!r}; of flowers102 it must be one of {', '.join(FLOWER_PARTS)}.")
        numbers = np.concatenate([ids[part] for part in FLOWER_PARTS[name]])
        parts.append(Part([f"jpg/image_{number:05d}.jpg" for number in numbers], labels[numbers - 1]))
    return root, parts[0], parts[1], [str(number) for number in range(1, labels.max() + 2)]


def _fetch(data: DataConfig, files: Files, config_path: str) -> dict[str, Path]:
    """Paths of the files below the root, downloaded first where they are missing and that is allowed."""
    root = data_root(data)
    paths = {name: root / name for name in files}
    for name, (address, checksum) in files.items():
        if not paths[name].is_file() and data.download:
            _download(address, checksum, paths[name])
        elif not paths[name].is_file():
            raise missing(paths[name], f"the file {name} from {address} (data.download: true fetches it)", config_path)
    return paths


def _download(address: str, checksum: str, path: Path) -> None:
    """Download to a temporary name, verify, rename: a file with the final name is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.md5(usedforsecurity=False)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as file, urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            while block := answer.read(1 << 20):
                file.write(block)
                digest.update(block)
        if digest.hexdigest() != checksum:
            raise OSError("the checksum does not match")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{address} could not be downloaded: {error}. Put the file at {path.absolute()}.") from error


class _ArraysOnly(pickle.Unpickler):
    """Reads the arrays of CIFAR's pickles and refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype", "encode"}
        if name in allowed and module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy", "_codecs"):
            return super().find_class(module.replace("numpy.core", "numpy._core") if _HAS_CORE else module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which CIFAR does not")


_HAS_CORE = hasattr(np, "_core")


def _unpickle(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[bytes, Any]:
    file = archive.extractfile(member)
    if file is None or member.size > LIMIT:
        raise ValueError(f"{member.name} cannot be read")
    return _ArraysOnly(io.BytesIO(file.read()), encoding="bytes").load()


def _cifar_source(batches: list[dict[bytes, Any]], label_key: bytes, names: list[str]) -> ArraySource:
    images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.concatenate([np.asarray(batch[label_key], np.int64) for batch in batches])
    if images.dtype != np.uint8 or len(images) != len(labels) or labels.max() >= len(names):
        raise ValueError("pictures and labels do not fit")
    return ArraySource(np.ascontiguousarray(images), labels, names)  # [n, 32, 32, 3]


def _read_idx(path: Path, axes: int) -> np.ndarray:
    try:
        with gzip.open(path) as file:
            content = file.read(LIMIT)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} cannot be unpacked: {error}.") from error
    header = np.frombuffer(content[: 4 + 4 * axes], ">u4").astype(np.int64)
    if len(header) != 1 + axes or header[0] != IDX_MAGIC[axes] or len(content) != 4 + 4 * axes + np.prod(header[1:]):
        raise ConfigError(f"{path} is not a file of MNIST's kind.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(header[1:])


def _unpack_flowers(archive_path: Path, folder: Path) -> None:
    """Write the archive's pictures, and nothing else, into `folder`; a folder with that name is whole."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".jpg."))
    try:
        with gzip.open(archive_path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                name = Path(member.name).name
                file = archive.extractfile(member) if member.isfile() and FLOWER_FILE.fullmatch(name) else None
                if file is not None:
                    with open(temporary / name, "wb") as target:
                        shutil.copyfileobj(file, target)
            while stream.read(1 << 20):  # to its end, where its checksum is
                pass
        temporary.chmod(0o755)
        temporary.rename(folder)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        shutil.rmtree(temporary)
        raise ConfigError(f"{archive_path} cannot be unpacked: {error}.") from error
