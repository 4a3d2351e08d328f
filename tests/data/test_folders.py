"""Class folders, ImageNet's layouts, and the part that is split off."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from paddlevit.config import Config, ConfigError, DataConfig, ModelConfig
from paddlevit.data import build_datasets
from paddlevit.data.folders import _words, read_folder, read_imagenet
from paddlevit.data.splits import Part, split_off
from paddlevit.preprocessing import Preprocessing
from tests.data.pictures import class_folder, picture

RECIPE = Preprocessing(image_size=(8, 8))
COUNTS = {"cat": 10, "dog": 5, "emu": 1}


def _read(root, **keys):
    return read_folder(DataConfig(dataset="folder", root=str(root), **keys), "my.yaml")


def _save(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(root / name)


def test_found_parts(tmp_path):
    class_folder(tmp_path / "train", {"dog": 3, "cat": 2})
    class_folder(tmp_path / "valid", {"cat": 1})
    (tmp_path / "train" / ".thumbnails").mkdir()
    (tmp_path / "train" / "readme.txt").touch()
    root, train, val, names = _read(tmp_path)
    assert names == ["cat", "dog"]
    assert train.names == [f"train/cat/{k}.png" for k in range(2)] + [f"train/dog/{k}.png" for k in range(3)]
    assert train.labels.tolist() == [0, 0, 1, 1, 1]
    assert (val.names, val.labels.tolist()) == (["valid/cat/0.png"], [0])
    assert root == tmp_path


def test_stated_parts_and_classes(tmp_path):
    class_folder(tmp_path / "a", {"dog": 1, "cat": 1})
    class_folder(tmp_path / "b", {"dog": 1})
    (tmp_path / "names.txt").write_text("\ufeffdog\ncat\nemu\n")
    _, train, val, names = _read(tmp_path, train="a", val="b", classes="names.txt")
    assert names == ["dog", "cat", "emu"]
    assert train.labels.tolist() == [0, 1]
    assert val.labels.tolist() == [0]


def test_split_is_stratified_fixed_and_hardly_moved_by_new_files(tmp_path):
    class_folder(tmp_path, COUNTS)
    _, train, val, names = _read(tmp_path, val_fraction=0.3)
    assert names == list(COUNTS)
    assert np.bincount(val.labels, minlength=3).tolist() == [3, 2, 0]
    assert not set(train.names) & set(val.names)
    assert len(train.names) + len(val.names) == 16
    assert _read(tmp_path, val_fraction=0.3)[2].names == val.names
    assert _read(tmp_path, val_fraction=0.3, split_seed=1)[2].names != val.names
    _save(tmp_path, "cat/new.png")
    assert len(set(_read(tmp_path, val_fraction=0.3)[2].names) & set(val.names)) >= len(val.names) - 1


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_both_parts_get_something_of_each_class(fraction):
    part = Part([f"{k}" for k in range(30)], np.repeat([0, 1, 2], 10))
    train, val = split_off(part, fraction, 0)
    assert np.unique(train.labels).tolist() == np.unique(val.labels).tolist() == [0, 1, 2]


def test_split_of_marks_is_a_plain_one():
    train, val = split_off(Part([f"{k}" for k in range(20)], np.ones((20, 3), np.float32)), 0.25, 0)
    assert (len(train.names), len(val.names)) == (15, 5)
    assert val.labels.shape == (5, 3)


def test_a_class_called_train_is_no_part(tmp_path):
    class_folder(tmp_path, {"car": 4, "plane": 4, "train": 4})
    _, train, val, names = _read(tmp_path)
    assert names == ["car", "plane", "train"]
    assert np.bincount(train.labels).tolist() == [3, 3, 3]
    assert len(val.names) == 3


@pytest.mark.parametrize("beside", ["annotations", "docs/a"])
def test_other_folders_beside_the_parts_are_no_classes(tmp_path, beside):
    class_folder(tmp_path / "train", {"cat": 1})
    class_folder(tmp_path / "val", {"cat": 1})
    _save(tmp_path, f"{beside}/figure.png")
    assert _read(tmp_path)[3] == ["cat"]


@pytest.mark.parametrize("labels", [np.arange(3), np.ones((1, 2), np.float32)])
def test_a_split_that_would_be_empty(labels):
    with pytest.raises(ConfigError, match=r"No class has two pictures, .* \(\d in all\); add pictures, or name some"):
        split_off(Part([f"{k}" for k in range(len(labels))], labels), 0.2, 0)


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_part_is_one_line(tmp_path, part):
    for name in ("train", "val"):
        _save(tmp_path, *([f"{name}/n01440764/a.png"] if name != part else []))
    (tmp_path / part / "n01440764").mkdir(parents=True)
    (tmp_path / "names.txt").write_text("n01440764\n")
    config = Config(data=DataConfig(root=str(tmp_path), classes="names.txt"))
    with pytest.raises(ConfigError, match=rf"The {part} part of {tmp_path} has no pictures; .* another in data.{part}"):
        build_datasets(config, RECIPE)


def test_missing_data_is_one_line_with_a_command_that_works(tmp_path):
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ConfigError) as caught:
            _read(root)
        message = str(caught.value)
        assert "\n" not in message
        assert str(root) in message
        assert "ROOT/train/CLASS/picture.jpg" in message
        assert message.endswith("python tools/train.py -c my.yaml --fast-dev-run")


def test_the_default_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"There are no data in {tmp_path}/data/imagenet\. .*n01440764"):
        read_imagenet(DataConfig(), "c.yaml")


def test_errors(tmp_path):
    class_folder(tmp_path / "train", {"cat": 1})
    class_folder(tmp_path / "val", {"cat": 1, "cow": 1})
    with pytest.raises(ConfigError, match="val has the class 'cow', which is not among the 1 classes to learn"):
        _read(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.val is 'vla'; there is no such folder in"):
        _read(tmp_path, val="vla")
    (tmp_path / "train" / "ant").mkdir()
    with pytest.raises(
        ConfigError, match=r"train/ant has no pictures; fill it, remove it, or list the classes in data"
    ):
        _read(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.classes is 'names\.txt'; there is no such file in"):
        _read(tmp_path, classes="names.txt")
    (tmp_path / "names.txt").write_text("cat\ncat\n")
    with pytest.raises(ConfigError, match="must hold one class per line, each once"):
        _read(tmp_path, classes="names.txt")


def _imagenet(tmp_path, **keys):
    return read_imagenet(DataConfig(root=str(tmp_path), **keys), "c.yaml")


def test_imagenet_by_class_with_the_words_of_the_package(tmp_path):
    _save(
        tmp_path, "train/n01440764/a.JPEG", "train/n02012849/b.JPEG", "train/n03126707/c.JPEG", "val/n01440764/d.JPEG"
    )
    _, train, val, names = _imagenet(tmp_path)
    assert names == ["tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)"]
    assert train.labels.tolist() == [0, 1, 2]
    assert val.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("list_name", "lines"),
    [
        ("LOC_val_solution.csv", ["ImageId,PredictionString", "v_02,n01443537 1 2 3 4", "v_01,n01440764 9 9 9 9"]),
        ("val.txt", ["\ufeffv_02.JPEG 1", "v_01.JPEG 0"]),
        ("ILSVRC/Data/CLS-LOC/val_map.txt", ["v_02.JPEG n01443537", "v_01.JPEG n01440764"]),
    ],
)
def test_imagenet_as_kaggle_packs_it(tmp_path, list_name, lines):
    base = "ILSVRC/Data/CLS-LOC"
    _save(tmp_path, f"{base}/train/n01440764/a.JPEG", f"{base}/train/n01443537/b.JPEG")
    _save(tmp_path, f"{base}/val/v_01.JPEG", f"{base}/val/v_02.JPEG")
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 fish one\nn01443537 fish two\n")
    (tmp_path / list_name).write_text("\n".join(lines))
    _, train, val, names = _imagenet(tmp_path)
    assert names == ["fish one", "fish two"]
    assert train.labels.tolist() == [0, 1]
    assert val.names == [f"{base}/val/v_02.JPEG", f"{base}/val/v_01.JPEG"]
    assert val.labels.tolist() == [1, 0]


def test_imagenet_errors(tmp_path):
    _save(tmp_path, "train/n01440764/a.JPEG", "val/v_01.JPEG")
    with pytest.raises(
        ConfigError, match=r"There are no data in .*val\. .*LOC_val_solution\.csv or val_list\.txt or val\.txt"
    ):
        _imagenet(tmp_path)
    for line in ("v_01 n00000000", "v_02 0", "v_01", "v_01 1"):
        (tmp_path / "val.txt").write_text(line)
        with pytest.raises(ConfigError, match=r"val\.txt line 1: 'v_0.*' is not a picture and class here"):
            _imagenet(tmp_path)


def test_words_of_all_classes():
    words = _words(Path("nowhere"))
    assert len(words) == 1000
    assert words["n02123045"] == "tabby, tabby cat"


def test_datasets_know_their_classes_and_the_head_must_fit(tmp_path):
    class_folder(tmp_path, {"cat": 4, "dog": 4})
    config = Config(data=DataConfig(dataset="folder", root=str(tmp_path)))
    train, val = build_datasets(config, RECIPE)
    assert (train.num_classes, train.class_names) == (2, ["cat", "dog"])
    assert (len(train), len(val)) == (6, 2)
    assert train[0][0].shape == (3, 8, 8)
    assert train.paths[0].startswith(str(tmp_path))
    assert sorted(train.labels.tolist() + val.labels.tolist()) == [0] * 4 + [1] * 4
    wrong = dataclasses.replace(config, model=ModelConfig(num_classes=1000))
    with pytest.raises(ConfigError, match=r"model\.num_classes is 1000, but the data have 2 classes; leave"):
        build_datasets(wrong, RECIPE)
