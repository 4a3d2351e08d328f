"""Finding pictures in folders and by patterns."""

from __future__ import annotations

import itertools

import pytest
from PIL import Image

from paddlevit.data import find_images
from paddlevit.data.finding import walk
from paddlevit.data.images import EXTENSIONS, FORMATS


@pytest.fixture
def tree(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "sub/c.jpeg", "sub/deep/d.jfif", ".git/e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def _names(root, *patterns):
    return [str(path.relative_to(root)) for path in find_images([root / pattern for pattern in patterns])]


def test_a_folder_is_searched_to_any_depth_in_order(tree):
    assert _names(tree, "") == ["a.JPG", "b.png", "sub/c.jpeg", "sub/deep/d.jfif"]


def test_every_format_that_is_read_is_found(tmp_path):
    endings = [ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS]
    rare = {".apng", ".j2c", ".j2k", ".jpc", ".jpf", ".jpx", ".avifs", ".pfm"}  # more than plain pictures, or raw parts
    assert set(endings) - rare <= set(EXTENSIONS)
    (tmp_path / "a.MPO").touch()
    assert _names(tmp_path, "") == ["a.MPO"]


def test_patterns_and_files(tree):
    assert _names(tree, "*.png") == ["b.png"]
    assert sorted(_names(tree, "**/*")) == sorted([*_names(tree, ""), *_names(tree, "sub"), *_names(tree, "sub/deep")])
    assert sorted(_names(tree, "**/?.*p*g")) == ["b.png", "sub/c.jpeg"]
    assert _names(tree, "notes.txt", "missing.png", "b.png") == ["notes.txt", "missing.png", "b.png"]


def test_a_name_with_brackets_is_a_file_if_there_is_one(tree):
    (tree / "x[1].png").touch()
    assert _names(tree, "x[1].png") == ["x[1].png"]


def test_nothing_found(tree):
    with pytest.raises(
        ValueError, match=r"No pictures in .*\*\.bmp; give files, folders or patterns of pictures \(\.jpg"
    ):
        list(find_images([tree / "*.bmp"]))
    (tree / "empty").mkdir()
    with pytest.raises(ValueError, match="No pictures in .*empty"):
        list(find_images([tree / "empty"]))


def test_links_in_a_circle_end(tree):
    (tree / "sub" / "up").symlink_to(tree)
    assert [path.rsplit("/", 1)[1] for path in walk(tree)] == ["a.JPG", "b.png", "c.jpeg", "d.jfif"]


def test_nothing_is_listed_before_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("paddlevit.data.finding.SORTED_TOGETHER", 10)
    for number in range(35):
        (tmp_path / f"{number:02d}.png").touch()
    stream = find_images([tmp_path])
    first = list(itertools.islice(stream, 10))
    assert first == sorted(first)
    assert len(set(first) | set(stream)) == 35
