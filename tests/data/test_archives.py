"""The small public data sets from local archives, and pictures inside tar files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from paddlevit.config import Config, ConfigError, DataConfig
from paddlevit.data import EpochSampler, build_datasets, build_loader, build_sampler
from paddlevit.data.archives import _download, read_cifar, read_flowers, read_mnist
from paddlevit.data.matlab import read_mat
from paddlevit.data.shards import read_shards
from paddlevit.data.sources import FakeSource, digits
from paddlevit.preprocessing import Preprocessing
from tests.data.pictures import encoded, picture

RECIPE = Preprocessing(image_size=(8, 8))


def _tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


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
    _tar(tmp_path / f"cifar-{kind}-python.tar.gz", members, "w:gz")
    train, test = read_cifar(_config(f"cifar{kind}", tmp_path), "c.yaml")
    assert (train.images.shape, test.images.shape) == ((4, 32, 32, 3), (3, 32, 32, 3))
    assert train.class_names == ["a", "b", "c"]
    name = "cifar-10-batches-py/data_batch_1" if kind == "10" else "cifar-100-python/train"
    first = pickle.loads(members[name])
    assert np.array_equal(train.images[0], first[b"data"][0].reshape(3, 32, 32).transpose(1, 2, 0))
    assert train.labels[:2].tolist() == first[b"labels" if kind == "10" else b"fine_labels"][:2]
    train_set, _ = build_datasets(Config(data=_config(f"cifar{kind}", tmp_path)), RECIPE)
    assert train_set[0][0].shape == (3, 8, 8)


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ("code ran",)


def test_an_archive_cannot_run_code(tmp_path, capsys):
    members = {**_cifar("10"), "cifar-10-batches-py/test_batch": pickle.dumps(Evil(), protocol=2)}
    _tar(tmp_path / "cifar-10-python.tar.gz", members, "w:gz")
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
    _tar(path, members, "w:gz")
    whole = path.read_bytes()
    for damaged in (whole[:500], b"no archive", b""):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="is not the archive of cifar10"):
            read_cifar(_config("cifar10", tmp_path), "c.yaml")
    members.pop("cifar-10-batches-py/batches.meta")
    _tar(path, members, "w:gz")
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
    _tar(tmp_path / "102flowers.tgz", {**pictures, **(extra or {})}, "w:gz")
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


def _shard(path, first, count, label=lambda k: str(k % 3), kind="cls"):
    members = {}
    for k in range(first, first + count):
        members[f"{k:06d}.png"] = encoded(picture(8, 8, seed=k))
        members[f"{k:06d}.{kind}"] = label(k).encode()
    _tar(path, members)


def test_shards(tmp_path):
    for number in range(3):
        _shard(tmp_path / f"train-{number}.tar", 10 * number, 10)
    _shard(tmp_path / "val-0.tar", 100, 4)
    config = Config(data=_config("tar", tmp_path, batch_size=5, shuffle_window=4))
    for _ in range(2):  # the second time from the remembered list
        train, val = build_datasets(config, RECIPE)
        assert (len(train), len(val), train.class_names) == (30, 4, ["0", "1", "2"])
        assert train.labels.tolist() == [k % 3 for k in range(30)]
        assert train.paths[11] == str(tmp_path / "train-1.tar" / "000011.png")
        assert np.array_equal(np.asarray(train.source.image(17)), np.asarray(picture(8, 8, seed=17)))
        assert len(list(tmp_path.glob(".paddlevit-*.npz"))) == 2
    sampler = build_sampler(config, train, training=True)
    order = [key.index for batch in sampler for key in batch]
    assert sorted(order) == list(range(30))
    assert len({index // 10 for index in order[:8]}) == 1  # one file after the other
    images = [np.concatenate([b[0].numpy() for b in build_loader(train, sampler, workers)]) for workers in (0, 2)]
    assert np.array_equal(*images)


def test_a_changed_shard_is_listed_again(tmp_path):
    _shard(tmp_path / "train-0.tar", 0, 3)
    _shard(tmp_path / "val-0.tar", 0, 3)
    assert len(read_shards(_config("tar", tmp_path), 3, "c.yaml")[0].labels) == 3
    _shard(tmp_path / "train-0.tar", 0, 6)
    assert len(read_shards(_config("tar", tmp_path), 3, "c.yaml")[0].labels) == 6
    for remembered in tmp_path.glob(".paddlevit-*.npz"):
        remembered.write_bytes(b"damaged")
    assert len(read_shards(_config("tar", tmp_path), 3, "c.yaml")[0].labels) == 6


def test_labels_in_json_and_in_folders(tmp_path):
    _shard(tmp_path / "train.tar", 0, 3, label=lambda k: json.dumps({"label": k}), kind="json")
    _tar(tmp_path / "val.tar", {"2/a.png": encoded(picture()), "1/b.png": encoded(picture()), "._c.png": b""})
    train, val = read_shards(_config("tar", tmp_path), 3, "c.yaml")
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 1, 2], [2, 1])
    (tmp_path / "names.txt").write_text("zero\none\ntwo\n")
    assert read_shards(_config("tar", tmp_path, classes="names.txt"), 3, "c.yaml")[0].class_names == [
        "zero",
        "one",
        "two",
    ]


def test_shard_errors(tmp_path):
    with pytest.raises(ConfigError, match=r"There are no data in .*train\*\.tar\. Expected is tar files"):
        read_shards(_config("tar", tmp_path), 3, "c.yaml")
    (tmp_path / "train.tar").write_bytes(gzip.compress(b"x" * 2000))
    _shard(tmp_path / "val.tar", 0, 1)
    with pytest.raises(ConfigError, match=r"train\.tar cannot be read: .* Only plain, uncompressed tar files serve"):
        read_shards(_config("tar", tmp_path), 3, "c.yaml")
    _tar(tmp_path / "train.tar", {"a.png": b"x"})
    with pytest.raises(ConfigError, match=r"train\.tar: a\.png has no label"):
        read_shards(_config("tar", tmp_path), 3, "c.yaml")
    _tar(tmp_path / "train.tar", {"a.png": b"x", "a.json": b"5"})
    with pytest.raises(ConfigError, match=r"train\.tar cannot be read: a \.json beside a picture is no object"):
        read_shards(_config("tar", tmp_path), 3, "c.yaml")
    _tar(tmp_path / "train.tar", {"a.txt": b"1"})
    with pytest.raises(ConfigError, match=r"train\.tar \.\.\. hold no pictures with labels"):
        read_shards(_config("tar", tmp_path), 3, "c.yaml")
    _shard(tmp_path / "train.tar", 0, 2, label=lambda k: "cow")
    (tmp_path / "names.txt").write_text("cat\n")
    with pytest.raises(ConfigError, match=r"the label '0' is none of 1 classes|the label 'cow' is none of 1 classes"):
        read_shards(_config("tar", tmp_path, classes="names.txt"), 3, "c.yaml")


def test_pictures_in_shards_have_the_stated_limit(tmp_path):
    for name in ("train", "val"):
        _shard(tmp_path / f"{name}.tar", 0, 1)
    assert read_shards(_config("tar", tmp_path, max_pixels=64), 3, "c.yaml")[0].image(0).size == (8, 8)
    small, _ = read_shards(_config("tar", tmp_path, max_pixels=63), 3, "c.yaml")
    with pytest.raises(ValueError, match="it has 8 x 8 pixels, and the limit is 63"):
        small.image(0)


def test_shards_write_nothing_but_their_list(tmp_path):
    """A member's name is never a path on this machine."""
    root = tmp_path / "root"
    root.mkdir()
    for part in ("train", "val"):
        _tar(root / f"{part}.tar", {"../../cat/escaped.png": encoded(picture()), "/dog/absolute.png": b"x"})
    before = {path.name for path in tmp_path.iterdir()}
    train, _ = read_shards(_config("tar", root), 3, "c.yaml")
    assert train.image(0).size == (16, 12)
    assert train.class_names == ["cat", "dog"]
    assert {path.name for path in tmp_path.iterdir()} == before
    assert not Path("/dog").exists()
    assert {path.suffix for path in root.iterdir()} == {".tar", ".npz"}


def test_a_damaged_picture_in_a_shard_is_named(tmp_path):
    _tar(tmp_path / "train.tar", {"a.png": b"damaged", "a.cls": b"0"})
    _shard(tmp_path / "val.tar", 0, 1)
    train, _ = read_shards(_config("tar", tmp_path), 3, "c.yaml")
    with pytest.raises(ValueError, match=r"train\.tar/a\.png cannot be read: it is not a picture"):
        train.image(0)


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
