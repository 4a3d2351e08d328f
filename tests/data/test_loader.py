"""Datasets and loaders: a sample depends on seed and key alone, and every failure is one clear line."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import traceback

import numpy as np
import paddle
import pytest
from PIL import Image

from paddlevit.config import AugmentConfig
from paddlevit.data import EpochSampler, ImageDataset, SampleKey, build_loader, eval_transform, train_transform
from paddlevit.data.sources import ArraySource, FakeSource, FileList, FileSource
from paddlevit.preprocessing import HALF_MEAN, HALF_STD, Preprocessing
from tests.data.pictures import class_folder
from tests.tools import ROOT

RECIPE = Preprocessing(image_size=(8, 8), crop_pct=1.0, mean=HALF_MEAN, std=HALF_STD)
COUNT = 22


class Sleeper:
    """A source that hangs, dies or fails at one picture."""

    def __init__(self, how: str) -> None:
        self.how, self.labels, self.class_names = how, np.zeros(COUNT, np.int64), ["only"]
        self.paths = [f"picture-{k}.png" for k in range(COUNT)]

    def image(self, index, least_side=None):
        if index == 13:
            if self.how == "hang":
                time.sleep(60)
            elif self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.how == "bug":
                raise ZeroDivisionError("a fault in a transform")
            raise ValueError("picture-13.png cannot be read: it is damaged.")
        return Image.new("RGB", (8, 8))


def _fake(seed: int = 0) -> ImageDataset:
    augment = AugmentConfig(auto_augment="rand-m9-mstd0.5-inc1", erase_probability=0.5)
    return ImageDataset(FakeSource(COUNT, 3, (8, 8), 3, 0), train_transform(RECIPE, augment), seed)


def _epoch(dataset: ImageDataset, workers: int, epoch: int = 0, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
    sampler = EpochSampler(len(dataset), 4, shuffle=True, seed=1)
    sampler.set_epoch(epoch)
    sampler.skip = skip
    loader = build_loader(dataset, sampler, workers)
    images, labels = zip(*loader)
    return np.concatenate([i.numpy() for i in images]), np.concatenate([y.numpy() for y in labels])


def test_any_number_of_workers_gives_the_same_epoch():
    expected = _epoch(_fake(), 0)
    assert expected[0].shape == (COUNT, 3, 8, 8)
    assert expected[1].dtype == np.int64
    for workers in (1, 2, 3):
        for value, wanted in zip(_epoch(_fake(), workers), expected):
            assert np.array_equal(value, wanted)


def test_seed_and_epoch_change_the_augmentation_and_a_resumed_epoch_does_not():
    images, labels = _epoch(_fake(), 0)
    for other in (_epoch(_fake(seed=1), 0), _epoch(_fake(), 0, epoch=1)):
        assert not np.array_equal(other[0], images)
    rest = _epoch(_fake(), 2, skip=3)
    assert np.array_equal(rest[0], images[12:])
    assert np.array_equal(rest[1], labels[12:])


def test_repeats_differ():
    dataset = _fake()
    first, second = (dataset[SampleKey(0, 5, repeat)][0] for repeat in (0, 1))
    assert not np.array_equal(first, second)
    assert np.array_equal(dataset[5][0], first)


def test_workers_serve_every_epoch_and_a_broken_off_one():
    dataset = _fake()
    sampler = EpochSampler(COUNT, 4, shuffle=True, seed=1)
    loader = build_loader(dataset, sampler, 2)
    assert isinstance(loader, paddle.io.DataLoader)
    assert len(loader) == 6
    next(iter(loader))
    processes = [process.pid for process in loader.pool.processes]
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        images = np.concatenate([batch[0].numpy() for batch in loader])
        assert np.array_equal(images, _epoch(_fake(), 0, epoch=epoch)[0])
    assert [process.pid for process in loader.pool.processes] == processes
    pool = loader.pool
    loader.close()
    assert not any(process.is_alive() for process in pool.processes)


def test_batches_stay_what_they_were():
    """Shared memory is used again; what was handed out is not."""
    loader = build_loader(_fake(), EpochSampler(COUNT, 4, shuffle=True, seed=1), 1)
    batches = [batch[0] for batch in loader]
    copies = [batch[0].numpy().copy() for batch in loader]
    assert all(np.array_equal(batch.numpy(), copy) for batch, copy in zip(batches, copies))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_ends_the_run_with_its_name(workers):
    dataset = ImageDataset(Sleeper("damage"), eval_transform(RECIPE))
    batches = iter(build_loader(dataset, EpochSampler(COUNT, 4), workers))
    for _ in range(3):  # those before it are served
        next(batches)
    with pytest.raises(ValueError, match=r"^picture-13.png cannot be read: it is damaged\.$"):
        next(batches)


@pytest.mark.parametrize("how", ["damage", "die"])
def test_a_loader_can_be_used_again_after_a_failure(how):
    loader = build_loader(ImageDataset(Sleeper(how), eval_transform(RECIPE)), EpochSampler(COUNT, 4), 2)
    for _ in range(2):
        batches = iter(loader)
        assert next(batches)[0].shape[0] == 4
        with pytest.raises((ValueError, OSError), match="picture-13"):
            list(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_paddles_own_loop_takes_our_loader(workers):
    dataset = _fake()
    network = paddle.nn.Sequential(paddle.nn.Flatten(), paddle.nn.Linear(3 * 64, 3))
    model = paddle.Model(network, paddle.static.InputSpec([None, 3, 8, 8], "float32", "image"))
    optimizer = paddle.optimizer.Adam(1e-2, parameters=network.parameters())
    model.prepare(optimizer, paddle.nn.CrossEntropyLoss(), paddle.metric.Accuracy())
    loader = build_loader(dataset, EpochSampler(COUNT, 4, shuffle=True), workers)
    model.fit(loader, epochs=12, verbose=0)
    sound = ImageDataset(dataset.source, eval_transform(RECIPE))
    assert model.evaluate(build_loader(sound, EpochSampler(COUNT, 5), workers), verbose=0)["acc"] > 0.9


def test_a_fault_in_a_worker_shows_its_traceback():
    dataset = ImageDataset(Sleeper("bug"), eval_transform(RECIPE))
    with pytest.raises(RuntimeError, match="A data worker failed:\n(.|\n)*ZeroDivisionError: a fault in a transform"):
        list(build_loader(dataset, EpochSampler(COUNT, 4), 2))


def test_a_dead_worker_is_reported_with_its_file():
    dataset = ImageDataset(Sleeper("die"), eval_transform(RECIPE))
    with pytest.raises(
        OSError, match=r"A data worker died \(SIGKILL, as when memory runs out\) while reading .*picture-13"
    ):
        list(build_loader(dataset, EpochSampler(COUNT, 4), 2))


def test_a_hung_file_is_named():
    dataset = ImageDataset(Sleeper("hang"), eval_transform(RECIPE))
    start = time.monotonic()
    with pytest.raises(
        TimeoutError, match=r"No data came for 1 seconds while reading picture-13.png\. Is the file system"
    ):
        list(build_loader(dataset, EpochSampler(COUNT, 4), 2, timeout=1.0))
    assert time.monotonic() - start < 10


def _damaged_folder(tmp_path) -> FileSource:
    class_folder(tmp_path, {"cat": 4, "dog": 4})
    (tmp_path / "cat" / "1.png").write_bytes(b"no picture")
    names = [f"{name}/{k}.png" for name in ("cat", "dog") for k in range(4)]
    return FileSource(FileList(tmp_path, names), np.repeat([0, 1], 4), ["cat", "dog"])


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_takes_the_same_class_and_keeps_a_list(tmp_path, workers):
    source = _damaged_folder(tmp_path)
    dataset = ImageDataset(source, eval_transform(RECIPE), bad_image="skip")
    images, labels = next(iter(build_loader(dataset, EpochSampler(8, 8), workers)))
    assert labels.numpy().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert dataset.skipped == [str(tmp_path / "cat" / "1.png")]
    whole = ImageDataset(source, eval_transform(RECIPE), bad_image="skip")
    same_class = [whole[k][0] for k in (0, 2, 3)]
    assert any(np.array_equal(images.numpy()[1], other) for other in same_class)


def test_skipping_ends_where_a_class_has_nothing_left(tmp_path):
    source = _damaged_folder(tmp_path)
    for k in range(4):
        (tmp_path / "cat" / f"{k}.png").write_bytes(b"no picture")
    dataset = ImageDataset(source, eval_transform(RECIPE), bad_image="skip")
    with pytest.raises(ValueError, match=r"cat/0.png cannot be read.* No readable picture with the same label"):
        dataset[0]


def test_file_lists_name_their_files(tmp_path):
    files = FileList(tmp_path, ["a b.png", "ü/c.png"])
    assert list(files) == [str(tmp_path / "a b.png"), str(tmp_path / "ü" / "c.png")]
    assert files[1:] == [str(tmp_path / "ü" / "c.png")]
    assert len(files) == 2


def test_marks_and_values_are_labels_too():
    source = ArraySource(np.zeros((4, 8, 8), np.uint8), np.eye(4, 3, dtype=np.float32), ["a", "b", "c"])
    loader = build_loader(ImageDataset(source, eval_transform(RECIPE)), EpochSampler(4, 4), 0)
    images, labels = next(iter(loader))
    assert list(images.shape) == [4, 3, 8, 8]
    assert np.array_equal(labels.numpy(), np.eye(4, 3, dtype=np.float32))


class Users(paddle.io.Dataset):
    """What somebody else wrote, with global randomness."""

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return np.full((1, 2, 2), index, np.float32) + np.float32(np.random.rand() / 2), index, [random.random()] * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_any_dataset_of_paddle_can_be_fed(workers):
    loader = build_loader(Users(), EpochSampler(COUNT, 4, shuffle=True, seed=2), workers)
    before = random.getstate(), np.random.get_state()[1].tolist()
    for _ in range(2):
        parts = [np.concatenate([batch[k].numpy() for batch in loader]) for k in range(3)]
        assert [part.dtype for part in parts] == [np.float32, np.int64, np.float64]
        assert [part.shape for part in parts] == [(COUNT, 1, 2, 2), (COUNT,), (COUNT, 3)]
        images, labels, marks = parts
        assert sorted(labels) == list(range(COUNT)) != labels.tolist()
        assert np.array_equal(images[:, 0, 1, 1].astype(int), labels)
        assert len(np.unique(images[:, 0, 0, 0] % 1)) == len(np.unique(marks)) == COUNT
        state = np.random.SeedSequence([2, 0, int(labels[0]), 0]).generate_state(2)
        assert images[0, 0, 0, 0] - labels[0] == pytest.approx(np.random.RandomState(state[0]).rand() / 2, abs=1e-5)
        assert marks[0, 0] == random.Random(int(state[1])).random()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


class Tensors(Users):
    """As with paddle.vision.transforms.ToTensor; one sample may be unlike the others."""

    def __init__(self, odd=None):
        super().__init__()
        self.odd = odd

    def __getitem__(self, index):
        return (paddle.full([2, 2], index), index) if index != 13 or self.odd is None else self.odd


def test_tensors_of_a_dataset_are_as_good_as_arrays():
    for images, labels in build_loader(Tensors(), EpochSampler(COUNT, 4), 2):
        assert np.array_equal(images.numpy(), np.tile(labels.numpy()[:, None, None], (1, 2, 2)))


class Faulty(Users):
    """With a mistake in its code."""

    def __getitem__(self, index):
        return np.zeros(3) + np.zeros(3 if index < 13 else 4), index


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_in_a_users_dataset_can_be_found(workers):
    loader = build_loader(Faulty(), EpochSampler(COUNT, 4), workers)
    with pytest.raises(RuntimeError, match="sample 13 of Faulty could not be made: operands could not be") as error:
        list(loader)
    shown = "".join(traceback.format_exception(error.type, error.value, error.tb))
    assert "np.zeros(3 if index < 13 else 4)" in shown


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_leave_the_gpu_to_the_training(monkeypatch, workers):
    """It cannot be used after a fork, and a user's dataset may make tensors."""
    devices: list[str] = []

    class Watching(Users):
        def __getitem__(self, index):
            return index, devices.count("cpu")

    monkeypatch.setattr(paddle, "set_device", devices.append)
    for _, counted in build_loader(Watching(), EpochSampler(COUNT, 4), workers):
        assert (counted.numpy() == workers).all()
    assert devices == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_whose_samples_do_not_go_together(workers):
    loader = build_loader(Tensors((np.zeros((2, 3), np.float32), 1)), EpochSampler(COUNT, 4), workers)
    message = r"sample 13 of Tensors is float32 \[2, 3\], int64 \[\], but sample 0 is float32 \[2, 2\], int64 \[\]"
    with pytest.raises(ValueError, match=message):
        list(loader)


@pytest.mark.parametrize("sample", [{"image": 1}, ("a.png", 1), (), 7.0])
def test_a_dataset_whose_samples_are_no_arrays(sample):
    with pytest.raises(ValueError, match=r"sample 13 of Tensors is \w+ and cannot be put in a batch; the dataset must"):
        list(build_loader(Tensors(sample), EpochSampler(COUNT, 4)))


SMALL_SHARED_MEMORY = """
from paddlevit import runtime
runtime.prepare(1)
import shutil
import numpy as np
import paddle
from paddlevit.data import EpochSampler, ImageDataset, build_loader, eval_transform
from paddlevit.data.sources import FakeSource
from paddlevit.preprocessing import Preprocessing

class Users(paddle.io.Dataset):
    def __len__(self):
        return 32
    def __getitem__(self, index):
        return np.full((3, 256, 256), index, np.float32), np.int64(index)

assert shutil.disk_usage("/dev/shm").total < 3 << 20
ours = ImageDataset(FakeSource(32, 3, (256, 256), 3, 0), eval_transform(Preprocessing(image_size=(256, 256))))
for dataset in (ours, Users()):
    batches = list(build_loader(dataset, EpochSampler(32, 8), 2))
    print([int(labels.numpy()[-1]) for _, labels in batches], list(batches[-1][0].shape))
"""


def test_a_small_dev_shm_is_enough():
    """With 2 MB of it, where a batch takes 6 MB, as in a container."""
    mounted = "mount -t tmpfs -o size=2m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount")
    command = ["unshare", "-m", "sh", "-c", f'{mounted} && exec "$0" -c "$1"', sys.executable, SMALL_SHARED_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    shape = "[8, 3, 256, 256]"
    assert done.stdout.splitlines() == [f"[1, 0, 2, 1] {shape}", f"[7, 15, 23, 31] {shape}"]
