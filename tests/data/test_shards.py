"""Pictures inside tar files."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from paddlevit.config import Config, ConfigError, DataConfig
from paddlevit.data import build_datasets, build_loader, build_sampler
from paddlevit.data.shards import read_shards
from paddlevit.preprocessing import Preprocessing
from tests.data.pictures import encoded, pack, picture

RECIPE = Preprocessing(image_size=(8, 8))


def _config(root, **keys):
    return DataConfig(dataset="tar", root=str(root), **keys)


def _shard(path, first, count, label=lambda k: str(k % 3), kind="cls"):
    members = {}
    for k in range(first, first + count):
        members[f"{k:06d}.png"] = encoded(picture(8, 8, seed=k))
        members[f"{k:06d}.{kind}"] = label(k).encode()
    pack(path, members)


def test_shards(tmp_path):
    for number in range(3):
        _shard(tmp_path / f"train-{number}.tar", 10 * number, 10)
    _shard(tmp_path / "val-0.tar", 100, 4)
    config = Config(data=_config(tmp_path, batch_size=5, shuffle_window=4))
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
    assert len(read_shards(_config(tmp_path), 3, "c.yaml")[0].labels) == 3
    _shard(tmp_path / "train-0.tar", 0, 6)
    assert len(read_shards(_config(tmp_path), 3, "c.yaml")[0].labels) == 6
    for remembered in tmp_path.glob(".paddlevit-*.npz"):
        remembered.write_bytes(b"damaged")
    assert len(read_shards(_config(tmp_path), 3, "c.yaml")[0].labels) == 6


def test_labels_in_json(tmp_path):
    _shard(tmp_path / "train.tar", 0, 3, label=lambda k: json.dumps({"label": k}), kind="json")
    _shard(tmp_path / "val.tar", 1, 2)
    train, val = read_shards(_config(tmp_path), 3, "c.yaml")
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 1, 2], [1, 2])
    (tmp_path / "names.txt").write_text("zero\none\ntwo\n")
    assert read_shards(_config(tmp_path, classes="names.txt"), 3, "c.yaml")[0].class_names == [
        "zero",
        "one",
        "two",
    ]


def test_labels_in_folders(tmp_path):
    pack(tmp_path / "train.tar", {"./x/2/a.png": b"x", "1/b.jfif": b"x", "1/b.json": b"{}", "._c.png": b""})
    pack(tmp_path / "val.tar", {"./2/a.png": b"x"})
    train, val = read_shards(_config(tmp_path), 3, "c.yaml")
    assert (train.labels.tolist(), val.labels.tolist()) == ([2, 1], [2])
    assert [path[len(str(tmp_path)) :] for path in train.paths] == ["/train.tar/x/2/a.png", "/train.tar/1/b.jfif"]


@pytest.mark.parametrize(
    "beside",
    [
        {"txt": b"a cat", "json": b'{"label": 7}', "cls": b"1"},
        {"txt": b"caf\xe9", "json": b"[]", "cls": b"1"},
        {"CLS": b"1\n", "JSON": b'{"label": 7}', "txt": b"a cat"},
        {"txt": b"a cat", "json": b'{"label": 1, "caption": "a cat"}'},
        {"json": b'{"label": null}', "txt": b"1"},
        {"cls": b" ", "txt": b"1"},
    ],
)
def test_the_best_of_several_labels_counts(tmp_path, beside):
    for part in ("train", "val"):
        members = {f"{k}.{kind}": content for k in "ab" for kind, content in beside.items()}
        pack(tmp_path / f"{part}.tar", {"a.png": b"x", "b.PNG": b"x", **members})
    train, _ = read_shards(_config(tmp_path), 3, "c.yaml")
    assert (train.labels.tolist(), train.class_names) == ([1, 1], ["0", "1"])


@pytest.mark.parametrize(
    ("others", "kind"),
    [
        ({"shard/4.cls": b"0"}, "cls"),
        ({"shard/4.json": b'{"label": 0}', "shard/3.txt": b"a cat"}, "cls"),
        ({"shard/4.txt": b"0"}, "txt"),
    ],
)
def test_a_missing_label_is_no_class(tmp_path, others, kind):
    """Neither the folder's name nor a caption takes its place."""
    pack(tmp_path / "train.tar", {"shard/3.png": b"x", "shard/4.png": b"x", **others})
    _shard(tmp_path / "val.tar", 0, 2, kind=kind)
    with pytest.raises(ConfigError, match=r"train\.tar: shard/3\.png has no label \(1 of 2 pictures"):
        read_shards(_config(tmp_path), 3, "c.yaml")


def test_every_user_of_a_folder_reads_the_list_of_its_shards(tmp_path, monkeypatch):
    for part in ("train", "val"):
        _shard(tmp_path / f"{part}.tar", 0, 2)
    mask = os.umask(0o022)
    try:
        read_shards(_config(tmp_path), 3, "c.yaml")
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob(".paddlevit-*")} == {0o644}

    def refuse(*arguments, **keys):
        raise PermissionError(13, "Permission denied")

    for module, name in ((np, "load"), (os, "replace"), (Path, "unlink")):
        monkeypatch.setattr(module, name, refuse)  # another user's list in another user's folder
    assert len(read_shards(_config(tmp_path), 3, "c.yaml")[0].labels) == 2


def test_shards_below_a_folder_with_brackets(tmp_path):
    root = tmp_path / "data [1]"
    root.mkdir()
    for part in ("train", "val"):
        _shard(root / f"{part}.tar", 0, 2)
    assert len(read_shards(_config(root), 3, "c.yaml")[0].labels) == 2


def test_shard_errors(tmp_path):
    with pytest.raises(ConfigError, match=r"There are no data in .*train\*\.tar\. Expected is tar files"):
        read_shards(_config(tmp_path), 3, "c.yaml")
    (tmp_path / "train.tar").write_bytes(gzip.compress(b"x" * 2000))
    _shard(tmp_path / "val.tar", 0, 1)
    with pytest.raises(ConfigError, match=r"train\.tar cannot be read: .* Only whole, uncompressed tar files serve"):
        read_shards(_config(tmp_path), 3, "c.yaml")
    for name in ("a.png", "./a.png", "../a.png"):
        pack(tmp_path / "train.tar", {name: b"x"})
        pack(tmp_path / "val.tar", {name: b"x"})
        with pytest.raises(ConfigError, match=r"train\.tar: (\.\./)?a\.png has no label"):
            read_shards(_config(tmp_path), 3, "c.yaml")
    for name, content, reason in (
        ("a.json", b"5", "it is no object"),
        ("a.json", b"{oops", "Expecting property name"),
        ("a.cls", b"\xff\xfe", "'utf-8' codec can't decode"),
    ):
        pack(tmp_path / "train.tar", {"a.png": b"x", name: content})
        with pytest.raises(ConfigError, match=rf"train\.tar: {name} is not a label: {reason}[^.]*\.$"):
            read_shards(_config(tmp_path), 3, "c.yaml")
    _shard(tmp_path / "val.tar", 0, 1)
    pack(tmp_path / "train.tar", {"a.txt": b"1"})
    with pytest.raises(ConfigError, match=r"train\.tar \.\.\. hold no pictures with labels"):
        read_shards(_config(tmp_path), 3, "c.yaml")
    _shard(tmp_path / "train.tar", 0, 2, label=lambda k: "cow")
    (tmp_path / "names.txt").write_text("cat\n")
    with pytest.raises(ConfigError, match=r"the label '0' is none of 1 classes|the label 'cow' is none of 1 classes"):
        read_shards(_config(tmp_path, classes="names.txt"), 3, "c.yaml")


def test_pictures_in_shards_have_the_stated_limit(tmp_path):
    for name in ("train", "val"):
        _shard(tmp_path / f"{name}.tar", 0, 1)
    assert read_shards(_config(tmp_path, max_pixels=64), 3, "c.yaml")[0].image(0).size == (8, 8)
    small, _ = read_shards(_config(tmp_path, max_pixels=63), 3, "c.yaml")
    with pytest.raises(ValueError, match="it has 8 x 8 pixels, and the limit is 63"):
        small.image(0)


def test_shards_write_nothing_but_their_list(tmp_path):
    """A member's name is never a path on this machine."""
    root = tmp_path / "root"
    root.mkdir()
    for part in ("train", "val"):
        pack(root / f"{part}.tar", {"../../cat/escaped.png": encoded(picture()), "/dog/absolute.png": b"x"})
    before = {path.name for path in tmp_path.iterdir()}
    train, _ = read_shards(_config(root), 3, "c.yaml")
    assert train.image(0).size == (16, 12)
    assert train.class_names == ["cat", "dog"]
    assert {path.name for path in tmp_path.iterdir()} == before
    assert not Path("/dog").exists()
    assert {path.suffix for path in root.iterdir()} == {".tar", ".npz"}


def test_a_damaged_picture_in_a_shard_is_named(tmp_path):
    pack(tmp_path / "train.tar", {"a.png": b"damaged", "a.cls": b"0"})
    _shard(tmp_path / "val.tar", 0, 1)
    train, _ = read_shards(_config(tmp_path), 3, "c.yaml")
    with pytest.raises(ValueError, match=r"train\.tar/a\.png cannot be read: it is not a picture"):
        train.image(0)
