"""The small public data sets from local archives, the digits of the package, and generated pictures."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import zlib

import numpy as np
import pytest

from paddlevit.config import Config, ConfigError, DataConfig
from paddlevit.data import EpochSampler, build_datasets, build_sampler
from paddlevit.data.archives import _download, read_cifar, read_flowers, read_mnist
from paddlevit.data.matlab import read_mat
from paddlevit.data.sources import FakeSource, digits
from paddlevit.preprocessing import Preprocessing
from tests.data.pictures import encoded, pack, picture

RECIPE = Preprocessing(image_size=(8, 8))


def _config(name, root, **keys):
    return DataConfig(dataset=name, root=str(root), **keys)


def _cifar(kind):
    rng = np.random.default_rng(int(kind))

    def batch(count, key):
        values = {b"data": rng.integers(0, 256, (count, 3072), np.uint8), key: rng.integers(0, 3, count).tolist()}
        return pickle.dumps(values, protocol=2)

    if kind == "10":
        members = {f"cifar-10-batches-py/data_batch_{k}": batch(2, b"labels") for k in (2, 1)}
        members["cifar-10-batches-py/test_batch"] = batch(3, b"labels")
        members["cifar-10-batches-py/batches.meta"] = pickle.dumps({b"label_names": [b"a", b"b", b"c"]}, protocol=2)
    else:
        members = {
            "cifar-100-python/train": batch(4, b"fine_labels"),
            "cifar-100-python/test": batch(3, b"fine_labels"),
        }
        members["cifar-100-python/meta"] = pickle.dumps({b"fine_label_names": [b"a", b"b", b"c"]}, protocol=2)
    return members


@pytest.mark.parametrize("kind", ["10", "100"])
def test_cifar(tmp_path, kind):
    members = _cifar(kind)
    pack(tmp_path / f"cifar-{kind}-python.tar.gz", members, "w:gz")
    train, test = read_cifar(_config(f"cifar{kind}", tmp_path), "c.yaml")
    assert (train.images.shape, test.images.shape) == ((4, 32, 32, 3), (3, 32, 32, 3))
    assert train.class_names == ["a", "b", "c"]
    name = "cifar-10-batches-py/data_batch_1" if kind == "10" else "cifar-100-python/train"
    first = pickle.loads(members[name])
    assert np.array_equal(train.images[0], first[b"data"][0].reshape(3, 32, 32).transpose(1, 2, 0))
    assert train.labels[:2].tolist() == first[b"labels" if kind == "10" else b"fine_labels"][:2]
    train_set, _ = build_datasets(Config(data=_config(f"cifar{kind}", tmp_path)), RECIPE)
    assert train_set[0][0].shape == (3, 8, 8)


def _flipped(path, good, places):
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 0x5A
        path.write_bytes(bad)
        yield place


def test_a_damaged_archive_is_one_line(tmp_path):
    """Wherever a byte is wrong: in the stream, whose checksum is at the very end, or in the checksum."""
    cifar = tmp_path / "cifar-10-python.tar.gz"
    pack(cifar, _cifar("10"), "w:gz")
    good = cifar.read_bytes()
    for _ in _flipped(cifar, good, [*range(60, len(good), len(good) // 60), len(good) - 6]):
        with pytest.raises(ConfigError, match="is not the archive of cifar10"):
            read_cifar(_config("cifar10", tmp_path), "c.yaml")
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(_idx(rng.integers(0, 60, (9, 28, 28), np.uint8)))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(_idx(np.zeros(9, np.uint8)))
    images = tmp_path / "train-images-idx3-ubyte.gz"
    good = images.read_bytes()
    for _ in _flipped(images, good, range(20, len(good), len(good) // 60)):
        with pytest.raises(ConfigError, match="cannot be unpacked"):
            read_mnist(_config("mnist", tmp_path), "c.yaml")
    _flowers(tmp_path)
    flowers = tmp_path / "102flowers.tgz"
    good = flowers.read_bytes()
    for _ in _flipped(flowers, good, [*range(60, len(good), len(good) // 30), len(good) - 6]):
        with pytest.raises(ConfigError, match="cannot be unpacked"):
            read_flowers(_config("flowers102", tmp_path), "c.yaml")
    assert not (tmp_path / "jpg").exists()


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ("code ran",)


def test_an_archive_cannot_run_code(tmp_path, capsys):
    members = {**_cifar("10"), "cifar-10-batches-py/test_batch": pickle.dumps(Evil(), protocol=2)}
    pack(tmp_path / "cifar-10-python.tar.gz", members, "w:gz")
    with pytest.raises(
        ConfigError, match=r"is not the archive of cifar10: it holds __builtin__\.print, which CIFAR does"
    ):
        read_cifar(_config("cifar10", tmp_path), "c.yaml")
    assert capsys.readouterr().out == ""


def test_damaged_and_missing_archives(tmp_path):
    with pytest.raises(ConfigError, match=r"There are no data in .*cifar-10-python\.tar\.gz.*\(data\.download: true"):
        read_cifar(_config("cifar10", tmp_path), "c.yaml")
    members = _cifar("10")
    path = tmp_path / "cifar-10-python.tar.gz"
    pack(path, members, "w:gz")
    whole = path.read_bytes()
    for damaged in (whole[:500], b"no archive", b""):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="is not the archive of cifar10"):
            read_cifar(_config("cifar10", tmp_path), "c.yaml")
    members.pop("cifar-10-batches-py/batches.meta")
    pack(path, members, "w:gz")
    with pytest.raises(ConfigError, match=r"is not the archive of cifar10: 'batches\.meta'"):
        read_cifar(_config("cifar10", tmp_path), "c.yaml")


def _idx(array):
    header = struct.pack(">I", 0x800 + array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.mark.parametrize(("name", "class_name"), [("mnist", "3"), ("fashion_mnist", "Dress")])
def test_mnist(tmp_path, name, class_name):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 5), ("t10k", 3)):
        arrays[part] = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(_idx(arrays[part][0]))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(_idx(arrays[part][1]))
    train, test = read_mnist(_config(name, tmp_path), "c.yaml")
    assert np.array_equal(train.images, arrays["train"][0])
    assert np.array_equal(test.labels, arrays["t10k"][1])
    assert train.class_names[3] == class_name
    assert np.array_equal(np.asarray(train.image(2)), arrays["train"][0][2])
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(_idx(np.zeros(4, np.uint8)))
    with pytest.raises(ConfigError, match="do not belong together"):
        read_mnist(_config(name, tmp_path), "c.yaml")
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(_idx(np.zeros(4, np.uint8))[:-9])
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        read_mnist(_config(name, tmp_path), "c.yaml")
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ConfigError, match="is not a file of MNIST's kind"):
        read_mnist(_config(name, tmp_path), "c.yaml")


def _element(kind, body):
    if len(body) <= 4:
        return struct.pack("<HH", kind, len(body)) + body.ljust(4, b"\0")
    return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)


def _mat(compress=True, **arrays):
    """A MATLAB 5 file, from the format's description."""
    file = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    for name, array in arrays.items():
        kind = {"uint8": 2, "uint16": 4, "float64": 9}[array.dtype.name]
        body = _element(6, struct.pack("<II", 9, 0)) + _element(5, struct.pack("<ii", *array.shape))
        body += _element(1, name.encode()) + _element(kind, array.tobytes(order="F"))
        matrix = struct.pack("<II", 14, len(body)) + body
        packed = zlib.compress(matrix)
        file += struct.pack("<II", 15, len(packed)) + packed if compress else matrix
    return file


@pytest.mark.parametrize("compress", [True, False])
def test_matlab_files(tmp_path, compress):
    arrays = {
        "labels": np.array([[1, 2, 3]], np.uint8),
        "trnid": np.array([[1000, 2000]], np.uint16),
        "values": np.arange(6.0).reshape(2, 3),
    }
    (tmp_path / "a.mat").write_bytes(_mat(compress, **arrays))
    read = read_mat(tmp_path / "a.mat")
    assert {name: values.tolist() for name, values in read.items()} == {k: v.tolist() for k, v in arrays.items()}
    for content in (b"text", _mat(compress, **arrays)[:150], b"\0" * 300):
        (tmp_path / "b.mat").write_bytes(content)
        if content[126:128] == b"IM" and not compress:
            continue
        with pytest.raises(ConfigError, match=r"b\.mat cannot be read"):
            read_mat(tmp_path / "b.mat")


def _flowers(tmp_path, extra=None):
    """Ten pictures of three flowers; 1-2 train, 3-4 valid, 5-10 test."""
    pictures = {f"jpg/image_{k:05d}.jpg": encoded(picture(seed=k), "JPEG") for k in range(1, 11)}
    pack(tmp_path / "102flowers.tgz", {**pictures, **(extra or {})}, "w:gz")
    labels = np.array([[1, 2, 3, 1, 2, 3, 1, 2, 3, 1]], np.uint8)
    (tmp_path / "imagelabels.mat").write_bytes(_mat(labels=labels))
    ids = {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6, 7, 8, 9, 10]}
    (tmp_path / "setid.mat").write_bytes(_mat(**{name: np.array([values], np.uint16) for name, values in ids.items()}))


def test_flowers_have_the_right_parts_and_labels(tmp_path):
    _flowers(tmp_path, extra={"jpg/../../escaped.jpg": b"x", "/absolute.jpg": b"x"})
    _, train, val, names = read_flowers(_config("flowers102", tmp_path), "c.yaml")
    assert train.names == [f"jpg/image_{k:05d}.jpg" for k in (1, 2, 3, 4)]
    assert train.labels.tolist() == [0, 1, 2, 0]
    assert len(val.names) == 6
    assert names == ["1", "2", "3"]
    assert not (tmp_path.parent / "escaped.jpg").exists()
    assert sorted(path.name for path in (tmp_path / "jpg").iterdir()) == [f"image_{k:05d}.jpg" for k in range(1, 11)]
    (tmp_path / "102flowers.tgz").unlink()  # unpacked once
    _, train, val, _ = read_flowers(_config("flowers102", tmp_path, train="train", val="val"), "c.yaml")
    assert (len(train.names), val.labels.tolist()) == (2, [2, 0])
    with pytest.raises(
        ConfigError, match=r"data\.val is 'all'; of flowers102 it must be one of train, val, trainval, test"
    ):
        read_flowers(_config("flowers102", tmp_path, val="all"), "c.yaml")


def test_a_broken_flowers_archive_leaves_nothing_behind(tmp_path):
    _flowers(tmp_path)
    whole = (tmp_path / "102flowers.tgz").read_bytes()
    (tmp_path / "102flowers.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"102flowers\.tgz cannot be unpacked"):
        read_flowers(_config("flowers102", tmp_path), "c.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["102flowers.tgz", "imagelabels.mat", "setid.mat"]


def test_downloads_are_verified_and_whole(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"content")
    target = tmp_path / "new" / "file"
    _download(source.as_uri(), hashlib.md5(b"content").hexdigest(), target)
    assert target.read_bytes() == b"content"
    with pytest.raises(ConfigError, match=r"could not be downloaded: the checksum does not match\. Put the file at"):
        _download(source.as_uri(), "0" * 32, tmp_path / "other")
    with pytest.raises(ConfigError, match="could not be downloaded"):
        _download((tmp_path / "missing").as_uri(), "0" * 32, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "source"]


def test_digits_of_the_package():
    train, test = digits(test=False), digits(test=True)
    assert (len(train.labels), len(test.labels)) == (1433, 364)
    counts = np.bincount(np.concatenate([train.labels, test.labels]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(test.labels).tolist() == [36, 37, 36, 37, 37, 37, 37, 36, 35, 36]
    assert train.images.shape == (1433, 8, 8)
    assert (train.images.max(), train.images.min()) == (255, 0)
    everything = np.concatenate([train.images, test.images])
    assert round(float(everything.mean() * 16 / 255), 2) == 4.88  # the mean ink of the published data


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_fake_pictures_can_be_learnt(channels):
    """The nearest class mean of the training part finds the class of the evaluation part."""
    recipe = Preprocessing(image_size=(12, 20), crop_pct=1.0).adapted(channels=channels)
    train, test = (FakeSource(count, 5, recipe.image_size, channels, seed) for count, seed in ((50, 0), (20, 1)))
    values = [
        np.stack([np.asarray(s.image(k), np.float32).ravel() for k in range(len(s.labels))]) for s in (train, test)
    ]
    means = np.stack([values[0][train.labels == k].mean(axis=0) for k in range(5)])
    nearest = ((values[1][:, None] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert np.array_equal(nearest, test.labels)
    assert not np.array_equal(values[0][0], values[1][0])


def test_fixed_parts_cannot_be_chosen():
    with pytest.raises(ConfigError, match=r"data\.train means nothing to data\.dataset digits, whose parts are fixed"):
        build_datasets(Config(data=DataConfig(dataset="digits", train="a")), RECIPE)


def test_sampler_of_a_configuration():
    config = Config(data=DataConfig(dataset="fake", fake_train=30, fake_val=7, batch_size=4, eval_batch_size=3))
    train, val = build_datasets(config, RECIPE)
    sampler = build_sampler(config, train, training=True)
    assert isinstance(sampler, EpochSampler)
    assert (sampler.shuffle, sampler.drop_last, sampler.batch_size, len(sampler)) == (True, True, 4, 7)
    sampler = build_sampler(config, val, training=False)
    assert (sampler.shuffle, sampler.drop_last, len(sampler)) == (False, False, 3)
