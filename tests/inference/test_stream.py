"""tools/predict.py on many pictures: constant memory, nothing lost at a stop, and no picture that ends the others."""

from __future__ import annotations

import csv
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from paddlevit.data import eval_transform
from paddlevit.inference import export_model
from paddlevit.inference.stream import answered_paths, predict_stream
from paddlevit.preprocessing import HALF_MEAN, HALF_STD, Preprocessing
from tests.data.pictures import picture
from tests.inference.conftest import build
from tests.tools import ROOT, call, one_line


class Classes:
    """A classifier that answers with the mean of the picture's channels."""

    class_names = ["red", "green", "blue"]  # noqa: RUF012
    task = "classes"
    preprocessing = Preprocessing((8, 8), 1.0, mean=HALF_MEAN, std=HALF_STD)

    def preprocess(self, image):
        return eval_transform(self.preprocessing)(image)

    def outputs(self, batch):
        return {"logits": batch.mean(axis=(2, 3))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """1,000 small pictures, all the same."""
    root = tmp_path_factory.mktemp("many")
    picture(20, 30).save(root / "0000.png")
    for number in range(1, 1000):
        os.link(root / "0000.png", root / f"{number:04}.png")
    return root


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A small export."""
    path = tmp_path_factory.mktemp("export")
    export_model(build("vit"), path)
    return path


def _peak(folder, count):
    """Most bytes that Python and NumPy held at once while so many pictures were answered."""
    gc.freeze()  # so that collecting looks at new objects only
    tracemalloc.start()
    paths = (folder / f"{number:04}.png" for number in range(count))
    for number, _ in enumerate(predict_stream(Classes(), paths, batch_size=4), 1):
        if number % 10 == 0:
            gc.collect()  # Pillow leaves cycles, which would count for as long as Python likes
    assert number == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    gc.unfreeze()
    return peak


def test_memory_does_not_grow_with_the_number_of_pictures(folder):
    """Of the 700 further pictures not even a path is kept, which would take 200 KB."""
    _peak(folder, 300)  # fills caches
    few, many = (min(_peak(folder, count) for _ in range(2)) for count in (300, 1000))
    assert many < few + 130_000, (few, many)


def test_pictures_are_read_as_they_are_needed(folder):
    asked = []

    def paths():
        for path in sorted(folder.iterdir()):
            asked.append(path)
            yield path

    answers = predict_stream(Classes(), paths(), batch_size=4)
    next(answers)
    assert len(asked) <= 3 * 4 + 4
    before = threading.active_count()
    answers.close()
    deadline = time.monotonic() + 5
    while threading.active_count() >= before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() < before  # whoever stops early leaves no threads behind


def test_a_hung_file_system_is_named(folder, export, monkeypatch):
    from paddlevit.inference import stream

    free = threading.Event()
    real = stream.load_image
    monkeypatch.setattr(
        stream, "load_image", lambda path, *rest: free.wait(30) if path.stem == "0007" else real(path, *rest)
    )
    answers = predict_stream(Classes(), iter(sorted(folder.iterdir())[:20]), batch_size=2, timeout=0.5)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"No data came for 0.5 seconds while reading .*0007\.png\. Is the file"):
        list(answers)
    error = one_line(call("predict", export, folder / "0006.png", folder / "0007.png", "--timeout", "0.3"))
    assert "No data came for 0.3 seconds while reading" in error
    assert time.monotonic() - start < 20
    free.set()


def test_a_fault_that_is_none_of_a_picture_is_not_hidden(folder, monkeypatch):
    from paddlevit.inference import stream

    def fail(*arguments):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(stream, "load_image", fail)
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        list(predict_stream(Classes(), iter(sorted(folder.iterdir())[:3])))


@pytest.mark.parametrize("style", ["csv", "json"])
def test_whatever_is_cut_off_is_answered_again(export, folder, tmp_path, style):
    some = sorted(folder.iterdir())[:4]
    some.append(tmp_path / 'a "quoted", ü\nname.png')
    picture().save(some[-1])
    file = tmp_path / f"answers.{style}"
    arguments = ("predict", export, *some, "--format", style, "--topk", 3, "--output", file)
    assert call(*arguments).code == 0
    whole = file.read_bytes()
    for length in sorted({*range(0, len(whole), 23), *range(len(whole) - 9, len(whole) + 1), 1, 30}):
        file.write_bytes(whole[:length])
        done = answered_paths(file, style, "classes")
        kept = file.read_bytes()
        assert whole.startswith(kept)
        assert done == {str(path) for path in some[: len(done)]}
        assert kept.count(b",1,") == len(done) if style == "csv" else kept.count(b"\n") == len(done)
    for content in (whole[: len(whole) // 2], whole):
        file.write_bytes(content)
        assert call(*arguments, "--resume").code == 0
        # Another batch may change the last digit of a probability.
        again, expected = (re.sub(rb"0\.\d+", b"", text) for text in (file.read_bytes(), whole))
        assert again == expected


@pytest.mark.parametrize("options", [("softmax",), ("with_preprocess",), ("softmax", "with_preprocess")], ids=str)
def test_exports_of_every_kind_answer_alike(export, folder, tmp_path, options):
    export_model(build("vit"), tmp_path / "other", **dict.fromkeys(options, True))
    picture(50, 41, 3).save(tmp_path / "larger.png")
    (tmp_path / "bad.png").write_text("no picture")
    paths = (folder / "0000.png", tmp_path / "larger.png", tmp_path / "bad.png", folder / "0001.png")
    expected, given = (
        call("predict", source, *paths, "--format", "csv", "--batch-size", 3) for source in (export, tmp_path / "other")
    )
    assert (expected.code, given.err) == (given.code, "1 of 4 pictures could not be classified.\n")
    rows, others = (list(csv.reader(said.out.splitlines())) for said in (expected, given))
    assert len(rows) == 1 + 3 * 5 + 1
    assert [row[:3] + row[4:] for row in rows] == [row[:3] + row[4:] for row in others]
    for row, other in zip(rows[1:], others[1:]):
        assert float(row[3] or 0) == pytest.approx(float(other[3] or 0), abs=1e-4)


def test_other_files_are_not_touched(export, folder, tmp_path):
    file = tmp_path / "notes"
    for style, content in (
        ("csv", b'{"path": "a.png", "top": []}\n'),
        ("json", b"path,rank,class\n"),
        ("json", b"no"),
        ("csv", b"no"),
        ("csv", b"no\x00\n"),
    ):
        file.write_bytes(content)
        arguments = ("predict", export, folder / "0000.png", "--format", style, "--output", file, "--resume")
        assert f"{file} holds no predictions" in one_line(call(*arguments))
        assert file.read_bytes() == content


def test_names_that_are_no_text(export, tmp_path):
    """On Linux a file's name may be any bytes."""
    name = os.fsencode(tmp_path) + b"/\xff.png"
    with open(name, "wb") as file:
        picture().save(file, "PNG")
    out = tmp_path / "out.csv"
    for _ in range(2):
        assert call("predict", export, tmp_path, "--format", "csv", "--topk", 1, "--output", out, "--resume").code == 0
    rows = list(csv.reader(out.read_text("utf-8", "surrogateescape").splitlines()))
    assert [os.fsencode(row[0]) for row in rows[1:]] == [name]


def test_ctrl_c_ends_at_once_and_says_how_to_go_on(export, folder, tmp_path):
    out = tmp_path / "answers.jsonl"
    command = [sys.executable, "tools/predict.py", str(export), *[str(folder)] * 200]  # enough for minutes
    command += ["--format", "json", "--output", str(out), "--batch-size", "2", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # What a shell starts in the background ignores SIGINT, and so would all that it starts.
    listen = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", listen, *command]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size > 2000) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert f"{len(rows)} pictures are answered in {out}; --resume goes on." in said
    assert "Traceback" not in said
    assert answered_paths(out, "json", "classes") == {row["path"] for row in rows}
    assert Path(rows[0]["path"]).parent == folder


def test_answers_are_those_of_the_classifier(folder):
    answers = list(predict_stream(Classes(), iter(sorted(folder.iterdir())[:3]), topk=2, batch_size=2))
    values = np.asarray(picture(20, 30).resize((12, 8), 3), np.float32)[:, 2:10] / 127.5 - 1
    logits = values.mean(axis=(0, 1))
    order = np.argsort(-logits)[:2]
    probabilities = np.exp(logits) / np.exp(logits).sum()
    for answer in answers:
        assert answer.prediction.names == tuple(Classes.class_names[k] for k in order)
        assert answer.prediction.probabilities == pytest.approx(probabilities[order], abs=1e-6)
