"""The two steps of --fast-dev-run: what they would cost at full length, and what to lower where memory is short."""

from __future__ import annotations

import logging
import resource
import sys

import numpy as np
import pytest

from paddlevit import dev_run
from paddlevit.training.run_folder import LOGGER
from tests.training.toy import toy_config


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"dataset": "imagenet"}, "3 epochs on 1,281,167 pictures of ImageNet-1k would take about 22 days 5:49:10"),
        ({"dataset": "cifar100"}, "3 epochs on 50,000 pictures of CIFAR-100 would take about 20:50:00"),
        ({"dataset": "digits"}, "3 epochs on 1,433 pictures of the digits would take about 35:50"),
        ({"dataset": "folder"}, "3 epochs on 1,000 pictures of data like these would take about 25:00"),
        ({"dataset": "fake", "fake_train": 24}, "3 epochs on 24 pictures of generated data would take about 0:36"),
    ],
    ids=lambda value: value["dataset"] if isinstance(value, dict) else "",
)
def test_the_estimate_is_for_the_configurations_own_data(data, expected, caplog, monkeypatch):
    monkeypatch.setattr(dev_run, "_run", lambda short: 2.0)
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level(logging.INFO, "paddlevit"):
        dev_run.fast_dev_run(toy_config(data=data))
    assert "One step takes 2.0 s." in caplog.text
    assert expected in caplog.text


RUNS = {
    "regression": (
        {"dataset": "list", "task": "regression", "train": "a.csv", "val": "b.csv"},
        {"loss": "mse", "label_smoothing": 0.0},
        1,
    ),
    "multi_label": ({"dataset": "list", "task": "multi_label"}, {"loss": "bce"}, 1000),
    "weights": ({"dataset": "list"}, {"class_weights": [1, 2, 3]}, 3),
    "classes": ({"dataset": "folder", "classes": "names.txt"}, {}, 4),
    "no file": ({"dataset": "folder", "classes": "absent.txt"}, {}, 1000),
    "digits": ({"dataset": "digits"}, {"class_weights": [1] * 10}, 10),
    "flowers102": ({"dataset": "flowers102", "train": "trnid"}, {}, 102),
}


@pytest.mark.parametrize("name", RUNS)
def test_whatever_the_data_would_be_generated_ones_take_their_place(name, tmp_path):
    data, train, classes = RUNS[name]
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    values = {"model": {"num_classes": None}, "data": {**data, "root": str(tmp_path)}, "train": train}
    config = toy_config(**values, augment={"mixup": 0.0})
    short = dev_run.shortened(config)
    assert short.model.num_classes == classes
    assert dev_run._run(short) > 0


def test_generated_pictures_fit_the_task():
    from paddlevit.data.sources import FakeSource

    classes, marks, values = (
        FakeSource(20, 5, (8, 8), 1, 0, task) for task in ("classes", "multi_label", "regression")
    )
    assert marks.labels.sum(axis=1).tolist() == [1.0] * 20
    assert marks.labels.argmax(axis=1).tolist() == classes.labels.tolist()
    assert values.labels.shape == (20, 5)
    assert values.labels[:10, 2] == pytest.approx(np.linspace(0, 1, 10))
    assert np.array_equal(np.asarray(values.image(3)), np.asarray(classes.image(3)))


def test_the_digits_are_as_many_as_it_says():
    from paddlevit.data.sources import digits

    assert len(digits(test=False).labels) == dev_run.TRAINING_DATA["digits"][1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is free, and would kill the process")
@pytest.mark.parametrize(("batch_size", "smaller"), [(4, True), (1, False)])
def test_where_memory_is_short_it_says_what_to_lower(monkeypatch, batch_size, smaller):
    monkeypatch.setattr(dev_run, "_free_memory", lambda: 64 << 20)
    monkeypatch.setattr(dev_run, "_run", lambda short: np.ones(1 << 28).sum())
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(ValueError, match=r"The 0.1 GiB of free memory do not suffice for vit_tiny") as error:
        dev_run.fast_dev_run(toy_config(data={"batch_size": batch_size}))
    assert ("(-o data.batch_size=2 -o train.accumulate=4)" in str(error.value)) == smaller
    assert "-o model.options.use_checkpoint=true" in str(error.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert np.ones(1 << 20).sum() == 1 << 20
