"""Lists of pictures: any delimiter, quotes, one label or several or numbers, and no way out of the root."""

from __future__ import annotations

import numpy as np
import pytest

from paddlevit.config import ConfigError, DataConfig
from paddlevit.data.lists import read_list


def _read(tmp_path, text, val=None, **keys):
    (tmp_path / "train.txt").write_text(text)
    if val is not None:
        (tmp_path / "val.txt").write_text(val)
        keys["val"] = "val.txt"
    return read_list(DataConfig(dataset="list", root=str(tmp_path), train="train.txt", **keys), "c.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a b/1.jpg 0\na b/2.jpg 1\n",
        '"a b/1.jpg" 0\n"a b/2.jpg" 1\n',
        "a b/1.jpg,0\na b/2.jpg,1\n",
        '"a b/1.jpg",0\n"a b/2.jpg",1\n',
        "a b/1.jpg\t0\na b/2.jpg\t1",
        "a b/1.jpg;0\n\na b/2.jpg;1\n",
        "a b/1.jpg | 0\r\na b/2.jpg | 1\r\n",
        "\ufeffpath,label\na b/1.jpg,0\na b/2.jpg,1\n",
        "./a b/1.jpg,0\na b/../a b/2.jpg,1\n",
        "Image Path,Class\na b/1.jpg,0\na b/2.jpg,1\n",
        '"img","label"\na b/1.jpg,0\na b/2.jpg,1\n',
        ",path,label\n0,a b/1.jpg,0\n1,a b/2.jpg,1\n",
        "# of May\na b\\1.jpg,0\na b\\2.jpg,1\n",
    ],
)
def test_any_delimiter_and_quotes(tmp_path, text):
    _, train, val, names = _read(tmp_path, text, val="a b/3.jpg 1")
    assert train.names == ["a b/1.jpg", "a b/2.jpg"]
    assert train.labels.tolist() == [0, 1]
    assert (val.names, val.labels.tolist()) == (["a b/3.jpg"], [1])
    assert names == ["0", "1"]


def test_a_stated_delimiter(tmp_path):
    _, train, _, names = _read(tmp_path, "a,b.jpg:x\nc,d.jpg:y\n", val="e.jpg:x", delimiter=":")
    assert train.names == ["a,b.jpg", "c,d.jpg"]
    assert names == ["x", "y"]


def test_a_first_line_without_a_known_ending_is_a_picture_if_it_is_there(tmp_path):
    (tmp_path / "1").touch()
    assert _read(tmp_path, "1,x\n2,x\n", val="3.jpg,x")[1].names == ["1", "2"]
    assert _read(tmp_path, '"1",x\n2,x\n', val="3.jpg,x")[1].names == ["1", "2"]
    assert _read(tmp_path, "0,x\n2,x\n", val="3.jpg,x")[1].names == ["2"]


@pytest.mark.parametrize(
    "text",
    [
        "a, b.jpg,x\nc.jpg,y|z\n",
        "a, b.jpg x\nc.jpg y|z\n",
        "a, b.jpg\tx\nc.jpg\ty|z\n",
        ",path,label\n0,a, b.jpg,x\n1,c.jpg,y|z\n",
    ],
)
def test_paths_keep_their_spaces_and_single_labels_their_bars(tmp_path, text):
    _, train, _, names = _read(tmp_path, text, val="d.jpg,x")
    assert train.names == ["a, b.jpg", "c.jpg"]
    assert names == ["x", "y|z"]


def test_names_without_endings_have_the_mark_of_most_lines(tmp_path):
    for name in ("a b", "c d"):
        (tmp_path / name).touch()
    assert _read(tmp_path, "a b;x\nc d;y\n", val="d.jpg,x")[3] == ["x", "y"]
    _, train, _, _ = _read(tmp_path, "a b;x;y\nc d;y\nf\n", val="d.jpg,x", task="multi_label")
    assert train.labels.tolist() == [[1, 1], [0, 1], [0, 0]]


def test_words_as_labels(tmp_path):
    _, train, val, names = _read(tmp_path, "1.jpg,dog\n2.jpg,cat\n3.jpg,golden retriever\n", val="4.jpg,dog")
    assert names == ["cat", "dog", "golden retriever"]
    assert train.labels.tolist() == [1, 0, 2]
    assert val.labels.tolist() == [1]


def test_stated_classes_take_words_and_numbers(tmp_path):
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    _, train, _, names = _read(tmp_path, "1.jpg,dog\n2.jpg,1\n", val="3.jpg,cat", classes="names.txt")
    assert names == ["dog", "cat"]
    assert train.labels.tolist() == [0, 1]


def test_without_a_second_list_a_part_is_split_off(tmp_path):
    _, train, val, _ = _read(tmp_path, "".join(f"{k}.jpg {k % 2}\n" for k in range(20)), val_fraction=0.3)
    assert np.bincount(train.labels).tolist() == [7, 7]
    assert np.bincount(val.labels).tolist() == [3, 3]


def test_several_labels(tmp_path):
    text = "1.jpg,cat|dog\n2.jpg,\n3.jpg,emu\n"
    _, train, val, names = _read(tmp_path, text, val="4.jpg,dog,emu", task="multi_label")
    assert names == ["cat", "dog", "emu"]
    assert train.labels.dtype == np.float32
    assert train.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert val.labels.tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(
    "text",
    [
        "1.jpg cat|dog\n2.jpg emu|dog\n",
        "1.jpg|cat|dog\n2.jpg|emu|dog\n",
        "1.jpg cat,dog\n2.jpg emu,dog\n",
        "1.jpg\tcat,dog\n2.jpg\temu|dog\n",
        '1.jpg,"cat,dog"\n2.jpg,"emu,dog"\n',
        "1.jpg cat dog\n2.jpg emu dog\n3.jpg\n",
        "1.jpg\tcat\tdog\n2.jpg\temu, dog\n3.jpg\n",
        "1.JPG;cat|dog\n2.jpg ; emu;dog\n",
    ],
)
def test_several_labels_in_any_form(tmp_path, text):
    _, train, _, names = _read(tmp_path, text, val="1.jpg,dog", task="multi_label")
    assert names == ["cat", "dog", "emu"]
    assert [name.lower() for name in train.names] == ["1.jpg", "2.jpg", "3.jpg"][: len(train.names)]
    assert train.labels.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]][: text.count("\n")]


def test_stated_classes_may_hold_a_comma(tmp_path):
    (tmp_path / "names.txt").write_text("cat, big\ndog\n")
    text = "1.jpg\tcat, big|dog\n2.jpg\tdog\n"
    assert _read(tmp_path, text, val="1.jpg\tdog", task="multi_label", classes="names.txt")[1].labels.tolist() == [
        [1, 1],
        [0, 1],
    ]


def test_numbers_to_predict(tmp_path):
    _, train, _, names = _read(tmp_path, "1.jpg 1.5\n2.jpg -3e2\n", val="3.jpg 0", task="regression")
    assert train.labels.tolist() == [[1.5], [-300.0]]
    assert names == ["value"]
    _, train, _, names = _read(tmp_path, "1.jpg,1,2\n2.jpg,3,4\n", val="3.jpg,0,0", task="regression")
    assert train.labels.shape == (2, 2)
    assert names == ["value 0", "value 1"]


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "."])
def test_no_path_leaves_the_root_unless_allowed(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(
        ConfigError, match=r"train\.txt line 2: '.*' leads out of data\.root .*allow_outside_root: true"
    ):
        _read(root, f"1.jpg 0\n{path} 1\n")
    _, train, _, _ = _read(root, f"1.jpg 0\n{path} 1\n", val="2.jpg 0", allow_outside_root=True)
    assert len(train.names) == 2


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("", {}, r"train\.txt is empty"),
        ("path,label\n", {}, r"train\.txt names no pictures"),
        ("1.jpg,0\n2.jpg\n", {"delimiter": ","}, r"train\.txt line 2: '2\.jpg' has no label"),
        ("1.jpg,0\n2.jpg,\n", {}, r"train\.txt line 2: '2\.jpg,' has no label"),
        ("1.jpg\tx\n2.jpg\n3.jpg\ty", {}, r"train\.txt line 2: '2\.jpg' has no label"),
        ('"1.jpg,0\n' + "x" * 140_000, {}, r"train\.txt line 2 cannot be read: field larger than field limit"),
        ("1.jpg 0\n2.jpg one\n", {"task": "regression"}, r"train\.txt line 2: 'one' is not a number to predict"),
        ("1.jpg,0,1\n2.jpg,3\n", {"task": "regression"}, "line 2: it has 1 numbers; each line needs 2 finite ones"),
        ("1.jpg nan\n", {"task": "regression"}, "line 1: it has 1 numbers; each line needs 1 finite ones"),
    ],
)
def test_lines_that_are_not_understood(tmp_path, text, keys, message):
    with pytest.raises(ConfigError, match=message):
        _read(tmp_path, text, **keys)


def test_labels_out_of_range(tmp_path):
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    for label in ("2", "cow", "-1"):
        with pytest.raises(ConfigError, match=rf"val\.txt line 1: the label '{label}' is neither one of the 2 classes"):
            _read(tmp_path, "1.jpg,dog\n", val=f"3.jpg,{label}", classes="names.txt")


def test_missing_and_unreadable_lists(tmp_path):
    with pytest.raises(ConfigError, match=r"There are no data in .*Expected is a list \(data\.train: train\.txt\)"):
        read_list(DataConfig(dataset="list", root=str(tmp_path)), "c.yaml")
    with pytest.raises(ConfigError, match=r"data\.train is 'no\.txt'; there is no such file in"):
        read_list(DataConfig(dataset="list", root=str(tmp_path), train="no.txt"), "c.yaml")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bytes\.txt is not text in UTF-8"):
        read_list(DataConfig(dataset="list", root=str(tmp_path), train="bytes.txt"), "c.yaml")
