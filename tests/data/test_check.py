"""tools/check_data.py and what stands behind it: every fault is found and named."""

from __future__ import annotations

import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

from paddlevit.config import AugmentConfig, Config, DataConfig
from paddlevit.data import ImageDataset, Mixing, build_datasets, eval_transform, train_transform
from paddlevit.data.check import check_sources, format_report, quick_check
from paddlevit.data.sheet import contact_sheet, pixels_of
from paddlevit.data.sources import ArraySource, FileList, FileSource, digits
from paddlevit.preprocessing import Preprocessing
from tests.data.pictures import class_folder, encoded, picture, pixels
from tests.tools import call, one_line

RECIPE = Preprocessing(image_size=(8, 8))


def _sources(root, **keys):
    train, val = build_datasets(Config(data=DataConfig(dataset="folder", root=str(root), **keys)), RECIPE)
    return train.source, val.source


@pytest.fixture
def sound(tmp_path):
    class_folder(tmp_path / "train", {"cat": 6, "dog": 4})
    class_folder(tmp_path / "val", {"elk": 6, "cat": 2, "dog": 3}, size=(20, 10))  # other seeds, so other pictures
    shutil.rmtree(tmp_path / "val" / "elk")
    return tmp_path


def test_sound_data(sound):
    train, val = _sources(sound)
    report = check_sources(train, val)
    assert report.problems == []
    assert quick_check(train, val) == []
    assert [part.pictures for part in report.parts] == [10, 5]
    assert [part.per_class.tolist() for part in report.parts] == [[6, 4], [2, 3]]
    assert (report.parts[0].smallest, report.parts[1].largest) == ((12, 16), (20, 10))
    values = np.stack([np.asarray(train.image(k)) for k in range(10)]) / 255.0
    assert np.allclose(report.parts[0].mean, values.mean(axis=(0, 1, 2)))
    assert np.allclose(report.parts[0].std, values.std(axis=(0, 1, 2)))
    text = format_report(report)
    assert "train: 10 pictures" in text
    assert ["dog", "4", "3"] in [line.split() for line in text.splitlines()]
    assert text.endswith("no problems found")


def test_every_fault_is_found(sound):
    big = encoded(picture(64, 64), "JPEG")
    faults = {
        "empty": (b"", "empty"),
        "text": (b"just text", "unreadable"),
        "cut": (big[:700], "truncated"),
        "bomb": (encoded(Image.new("1", (300, 300))), "oversized"),
    }
    for name, (content, _) in faults.items():
        (sound / "train" / "cat" / f"{name}.jpg").write_bytes(content)
    train, val = _sources(sound, max_pixels=50_000)
    (sound / "val" / "dog" / "0.png").unlink()
    shutil.copy(sound / "train" / "cat" / "0.png", sound / "val" / "dog" / "1.png")
    shutil.copy(sound / "train" / "cat" / "3.png", sound / "train" / "dog" / "2.png")
    report = check_sources(train, val)
    for name, (_, kind) in faults.items():
        (message,) = report.parts[0].bad[kind]
        assert f"train/cat/{name}.jpg" in message
    assert "val/dog/0.png" in report.parts[1].bad["missing"][0]
    assert [first.endswith("cat/0.png") and second.endswith("dog/1.png") for first, second in report.shared] == [True]
    assert [first.endswith("cat/3.png") and second.endswith("dog/2.png") for first, second in report.contradictory] == [
        True
    ]
    text = format_report(report)
    for line in ("train: 1 empty", "train: 1 truncated", "1 pictures are in both train and val", "val: 1 missing"):
        assert f"problem: {line}" in text
    quick = quick_check(train, val)
    assert any("cut.jpg cannot be read" in line for line in quick)


def test_files_that_are_passed_over_are_counted(sound):
    for name in ("cat/a.heic", "cat/b.HEIC", "dog/notes", "dog/.hidden.txt"):
        (sound / "train" / name).write_bytes(b"x")
    report = check_sources(*_sources(sound))
    assert [part.passed_over for part in report.parts] == [{".heic": 2, "no ending": 1}, {}]
    assert report.problems == []
    assert "not called as pictures are: .heic 2, no ending 1" in format_report(report)


@pytest.mark.parametrize("quick", [quick_check, check_sources])
def test_a_part_without_pictures_is_looked_at(quick):
    empty = ArraySource(np.zeros((0, 4, 4), np.uint8), np.zeros(0, np.int64), ["a"])
    full = ArraySource(np.zeros((3, 4, 4), np.uint8), np.zeros(3, np.int64), ["a"])
    found = quick(full, empty)
    assert "val: 1 of 1 classes have no pictures, such as 'a'" in getattr(found, "problems", found)


def test_a_hung_file_system_is_named(sound, monkeypatch):
    free = threading.Event()
    train, val = _sources(sound)
    real = train.content
    monkeypatch.setattr(train, "content", lambda index: free.wait(30) if index == 3 else real(index))
    for check in (quick_check, check_sources):
        with pytest.raises(
            TimeoutError, match=r"No data came for 0.3 seconds while reading .*cat/3\.png\. Is the file"
        ):
            check(train, val, timeout=0.3)
    free.set()


def test_classes_that_are_rare_or_missing(tmp_path):
    labels = np.array([0] * 30 + [1] * 2)
    images = pixels(4, 4, channels=1)[None, :, :, 0].repeat(32, 0)
    source = ArraySource(images, labels, ["many", "few"])
    report = check_sources(source, ArraySource(images[:1], labels[:1], ["many", "few"]))
    assert any("'many' has 30 pictures and 'few' 2; rare classes" in line for line in report.problems)
    assert any("val: 1 of 2 classes have no pictures, such as 'few'" in line for line in report.problems)


def test_files_in_both_parts(sound):
    train, _ = _sources(sound)
    assert "10 files are in both train and val" in quick_check(train, train)


def test_marks_are_counted_and_values_are_not():
    images = np.zeros((4, 4, 4), np.uint8)
    marks = ArraySource(images, np.eye(4, 3, dtype=np.float32), ["a", "b", "c"])
    assert check_sources(marks, marks).parts[0].per_class.tolist() == [1, 1, 1]
    values = ArraySource(images, np.linspace(0, 5, 4, dtype=np.float32)[:, None], ["value"])
    report = check_sources(values, values)
    assert report.parts[0].per_class.size == 0
    assert "class " not in format_report(report)


def test_arrays_of_many_channels(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.random((6, 7, 5)).astype(np.float32) for _ in range(3)]
    for number, array in enumerate(arrays):
        np.save(tmp_path / f"{number}.npy", array)
    source = FileSource(FileList(tmp_path, [f"{k}.npy" for k in range(3)]), np.zeros(3, np.int64), ["only"], channels=5)
    part = check_sources(source, source).parts[0]
    assert np.allclose(part.mean, np.stack(arrays).mean(axis=(0, 1, 2)))
    assert np.allclose(part.std, np.stack(arrays).std(axis=(0, 1, 2)), atol=1e-6)


def test_the_sheet_shows_what_the_network_sees(tmp_path):
    source = digits(test=True)
    recipe = Preprocessing(image_size=(8, 8), crop_pct=1.0, mean=(0.3,), std=(0.5,))
    path = tmp_path / "new" / "sheet.png"
    contact_sheet(ImageDataset(source, eval_transform(recipe)), path, count=12)
    with Image.open(path) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * (112 + 24), 8 * 116, 3)
    tile = sheet[:112:14, :112:14, 0]
    assert any(np.array_equal(tile, image) for image in source.images)
    assert (sheet[112:136, :112] < 128).any()  # the label


def test_the_sheet_shows_mixing_and_augmentation(tmp_path):
    source = digits(test=True)
    recipe = Preprocessing(image_size=(8, 8), crop_pct=1.0, mean=(0.3,), std=(0.5,))
    sheets = []
    for augment, mixing in (
        (AugmentConfig(crop="none", horizontal_flip=0.0), None),
        (AugmentConfig(crop="none", horizontal_flip=0.0, erase_probability=1.0), None),
        (AugmentConfig(crop="none", horizontal_flip=0.0), Mixing(10, mixup=1.0)),
    ):
        contact_sheet(ImageDataset(source, train_transform(recipe, augment)), tmp_path / "a.png", mixing, count=4)
        sheets.append((tmp_path / "a.png").read_bytes())
    assert len(set(sheets)) == 3


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_normalisation_is_undone(channels):
    recipe = Preprocessing(image_size=(12, 16), crop_pct=1.0).adapted(channels=channels)
    source = pixels(channels=channels)
    shown = pixels_of(eval_transform(recipe)(source), recipe)
    expected = source[:, :, :3] if channels != 1 else source.repeat(3, axis=2)
    assert np.abs(shown.astype(int) - expected).max() <= 1


def _yaml(tmp_path, root):
    path = tmp_path / "my.yaml"
    path.write_text(
        "model: {name: vit_tiny_patch16_224, image_size: 32}\n"
        f"data: {{dataset: folder, root: '{root}'}}\naugment: {{mixup: 0.8, cutmix: 1.0}}\n"
    )
    return path


def test_the_tool(sound, tmp_path):
    sheet = tmp_path / "sheet.png"
    done = call("check_data", "-c", _yaml(tmp_path, sound), "--sheet", sheet)
    assert (done.code, done.err) == (0, "")
    assert "train: 10 pictures" in done.out
    assert f"contact sheet: {sheet}" in done.out
    with Image.open(sheet) as drawn:
        assert drawn.size == (8 * 100, 2 * (96 + 24))  # 10 pictures of 32 pixels, three times enlarged
    (sound / "train" / "dog" / "0.png").write_bytes(b"damaged")
    for arguments in ((), ("--quick",)):
        done = call("check_data", "-c", _yaml(tmp_path, sound), "--sheet", sheet, *arguments)
        assert done.code == 1
        assert "train/dog/0.png cannot be read" in done.out
        assert f"contact sheet: {sheet}" in done.out


def test_every_training_begins_with_a_look_at_its_data(sound, tmp_path):
    """Nothing is trained, or written, on data that would end the run later; other problems are said."""
    run = tmp_path / "run"
    small = ("model.options.depth=1", "data.batch_size=2", "data.num_workers=0", "schedule.epochs=1",
             "schedule.warmup_epochs=0", "run.report=false", f"run.output={run}")  # fmt: skip
    arguments = [word for override in small for word in ("-o", override)]
    (sound / "val" / "dog" / "1.png").write_bytes(b"damaged")
    error = one_line(call("train", "-c", _yaml(tmp_path, sound), *arguments))
    assert "val: " in error
    assert "dog/1.png cannot be read: it is not a picture" in error
    assert "data.bad_image: skip trains without them" in error
    assert not run.exists()
    done = call("train", "-c", _yaml(tmp_path, sound), *arguments, "-o", "data.bad_image=skip")
    assert done.code == 0, done
    assert "Data: val: " in done.out
    (sound / "val" / "dog" / "1.png").unlink()
    both = call("train", "-c", _yaml(tmp_path, sound), *arguments, "-o", "data.val=train", "-o", f"run.output={run}-2")
    assert "Data: 10 files are in both train and val" in both.out


def test_the_tool_draws_what_can_be_read(sound, tmp_path):
    """Although a class has no readable picture that could stand in for others."""
    for path in (sound / "train" / "dog").iterdir():
        path.write_bytes(b"damaged")
    sheet = tmp_path / "sheet.png"
    done = call("check_data", "-c", _yaml(tmp_path, sound), "--sheet", sheet, "-o", "augment.mixup=0", "-o",
                "augment.cutmix=0")  # fmt: skip
    assert (done.code, done.err) == (1, "")
    assert f"contact sheet: {sheet}" in done.out
    with Image.open(sheet) as drawn:
        tiles = np.asarray(drawn)[:240, :800].reshape(2, 120, 8, 100, 3)[:, :96, :, :96]  # rows and columns of tiles
    empty = [bool((tiles[place // 8, :, place % 8].std(axis=(0, 1)) < 1).all()) for place in range(10)]
    assert sum(empty) == 4


def test_the_tool_without_data(tmp_path):
    done = call("check_data", "-c", _yaml(tmp_path, tmp_path / "nowhere"))
    assert done.code == 2
    assert done.err.startswith("error: There are no data in")
    assert done.err.count("\n") == 1
    assert f"-c {tmp_path / 'my.yaml'} --fast-dev-run" in done.err


def test_ten_thousand_files_in_a_minute(tmp_path):
    """500 x 375 JPEGs as in ImageNet; 500 of them must cost less than a twentieth of a minute of two cores."""
    rows, columns = np.mgrid[:375, :500]
    (tmp_path / "a").mkdir()
    for number in range(20):
        values = np.stack([rows * (number % 7), columns, rows + columns + number], axis=2) % 256
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / "a" / f"{number}.jpg", quality=80)
    names = [f"a/{k % 20}.jpg" for k in range(500)]
    source = FileSource(FileList(tmp_path, names), np.zeros(500, np.int64), ["a"])
    start = time.process_time()  # of all threads, so that other work on the machine does not count
    check_sources(source, FileSource(FileList(tmp_path, names[:1]), np.zeros(1, np.int64), ["a"]))
    assert time.process_time() - start < 6
