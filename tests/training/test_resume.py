"""A run that ends early goes on as if nothing had happened."""

from __future__ import annotations

import builtins
import errno
import io
import json
import logging.config
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlevit.config import load_config
from paddlevit.training import NonFiniteLoss, RunFolder, Trainer, open_log
from paddlevit.training.run_folder import LOGGER
from paddlevit.training.schedule import learning_rate_schedule
from paddlevit.weights.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tests.tools import call, one_line
from tests.training.toy import ROOT, load_tool, toy_config, toy_run, write_toy_config

RESULTS = ("last.safetensors", "best.safetensors", "history.jsonl", "history.csv")


@pytest.fixture
def train(tmp_path, monkeypatch):
    """The training tool on the toy configuration, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    write_toy_config(tmp_path / "toy.yaml")
    main = load_tool("train").main

    def run(*arguments: str) -> int:
        return main(list(arguments) or ["-c", "toy.yaml", "-o", "run.output=run"])

    return run


@pytest.mark.parametrize("runs", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_anywhere_and_resumed_ends_bit_for_bit_the_same(tmp_path, runs):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a fork would wait for threads that it does not have
    command = [sys.executable, "-m", "tests.training.kill_runs", str(tmp_path), str(runs)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]  # Paddle speaks, too
    assert len(rows) == runs
    for row in rows:
        assert row["damage"] == [], row
        assert row["resumed"] == 0, row
        assert row["different"] == [], row
        if row["how"].startswith("full") and row["ended"]:
            assert row["ended"] == 2, row
            assert row["said"].count("\n") == 1, row
            assert "could not be written: No space left on device." in row["said"], row
            way = "--resume run" if row["from"] == "last" else "start the run again"
            assert way in row["said"], row
    assert {row["ended"] for row in rows} >= {-9, 130, 2}
    assert sum(row["ended"] != 0 for row in rows) >= runs * 3 // 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Files of a toy run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    write_toy_config(folder / "toy.yaml")
    assert call("train", "-c", folder / "toy.yaml", "-o", f"run.output={folder / 'run'}").code == 0
    return {name: (folder / "run" / name).read_bytes() for name in RESULTS}


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("config.yaml", False),
        ("history.jsonl", False),
        ("log.txt", True),
        ("best.safetensors", True),
        ("epoch_0002.safetensors", True),
        ("curves.png", True),
        ("report.html", True),
    ],
)
def test_whatever_does_not_fit_on_the_disk_is_named_with_the_way_on(tmp_path, monkeypatch, whole, name, saved):
    monkeypatch.chdir(tmp_path)
    write_toy_config(tmp_path / "toy.yaml")
    command = ["-c", "toy.yaml", "-o", "run.output=run", "-o", "run.keep=2", "-o", "run.report=true"]
    Path("run").mkdir()

    def refuse(path, *rest):
        if Path(path).name in (name, f".{name}.tmp"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return builtins.open(path, *rest)

    def no_second_names(*names):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(names[1]))

    with monkeypatch.context() as patch:
        if name == "log.txt":
            Path("run/log.txt").symlink_to("/dev/full")  # the real thing
        patch.setattr("paddlevit.weights.files.open", refuse, raising=False)
        patch.setattr("os.link", no_second_names)
        said = one_line(call("train", *command))
    if name == "log.txt":
        Path("run/log.txt").unlink()
    assert said.startswith(f"error: {Path('run', name)} could not be written: No space left on device. ")
    assert said.endswith("--resume run\n" if saved else "start the run again.\n")
    assert not [file for file in Path("run").iterdir() if file.name.startswith(".")]
    assert call("train", *(["--resume", "run"] if saved else command)).code == 0
    for result, content in whole.items():
        assert Path("run", result).read_bytes() == content


def test_a_damaged_last_falls_back_to_the_one_before_and_says_so(train, tmp_path, capsys):
    assert train() == 0
    folder = tmp_path / "run"
    expected = {name: (folder / name).read_bytes() for name in ("last.safetensors", "history.jsonl")}
    content = bytearray(expected["last.safetensors"])
    content[-5] ^= 1
    (folder / "last.safetensors").write_bytes(content)
    assert train("--resume", "run") == 0
    assert "last.safetensors is damaged" in capsys.readouterr().out
    assert (folder / "damaged.safetensors").read_bytes() == content
    for name, whole in expected.items():
        assert (folder / name).read_bytes() == whole
    assert read_checkpoint(folder / "previous.safetensors").meta["progress"]["epoch"] < 3


def test_nothing_whole_to_resume_from(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="cannot be resumed: There is no checkpoint"):
        folder.load_last()
    folder.checkpoint("last").write_bytes(b"x" * 100)
    folder.checkpoint("previous").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="previous.safetensors is not a whole checkpoint"):
        folder.load_last()


def test_a_run_is_never_started_over_another(train):
    assert train() == 0
    with pytest.raises(ValueError, match=r"run holds a run already: go on with it \(--resume run\)"):
        train()


def test_a_finished_run_is_left_alone(train, tmp_path, capsys):
    assert train() == 0
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    assert train("--resume", "run") == 0
    assert "All 3 epochs are done." in capsys.readouterr().out
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


@pytest.mark.parametrize(("every", "update"), [(2, 8), (5, 6), (None, 6)])
def test_save_every_says_how_much_a_kill_costs(train, tmp_path, monkeypatch, every, update):
    class Killed(BaseException):
        """Stands in for SIGKILL."""

    from paddlevit.training import Trainer

    plain = Trainer.train_batch

    def killed(self, *args, **options):
        if self.progress.update == 8 and self.progress.batch == 5:
            raise Killed
        return plain(self, *args, **options)

    monkeypatch.setattr(Trainer, "train_batch", killed)
    with pytest.raises(Killed):
        train("-c", "toy.yaml", "-o", "run.output=run", "-o", f"run.save_every={every}".replace("None", "null"))
    assert RunFolder(tmp_path / "run").load_last().meta["progress"]["update"] == update


def test_keep_keeps_the_newest_epochs(train, tmp_path):
    assert train("-c", "toy.yaml", "-o", "run.output=run", "-o", "run.keep=2") == 0
    kept = sorted(file.name for file in (tmp_path / "run").glob("epoch_*"))
    assert kept == ["epoch_0002.safetensors", "epoch_0003.safetensors"]
    epochs = [read_checkpoint(tmp_path / "run" / name).meta["progress"]["epoch"] for name in kept]
    assert epochs == [2, 3]


def test_resuming_with_another_optimizer_or_network_is_refused(train):
    assert train() == 0
    with pytest.raises(ValueError, match="optimizer state does not fit this run: .* is on one side only"):
        train("--resume", "run", "-o", "optimizer.name=lion")
    with pytest.raises(ValueError, match="belongs to another network: the network has no encoder.layers.1"):
        train("--resume", "run", "-o", "model.options.depth=1")
    folder = RunFolder("run")
    whole = folder.load_last()
    write_checkpoint(folder.checkpoint("last"), Checkpoint(whole.model, whole.meta, {}, whole.optimizer))
    with pytest.raises(ValueError, match="no running average"):
        train("--resume", "run")


def test_in_mid_epoch_another_number_of_processes_is_refused(train):
    assert train() == 0
    folder = RunFolder("run")
    last = folder.load_last()
    last.meta["shares"] *= 2
    write_checkpoint(folder.checkpoint("last"), last)
    assert train("--resume", "run") == 0
    last.meta["progress"].update(epoch=2, batch=2)
    write_checkpoint(folder.checkpoint("last"), last)
    with pytest.raises(ValueError, match="stopped in mid-epoch with 2 processes, .* go on with as many, not 1"):
        train("--resume", "run")


@pytest.mark.parametrize("override", ["data.batch_size=8", "train.accumulate=1", "data.fake_train=25"])
def test_another_division_of_the_epoch_is_refused_within_it_and_heeded_after_it(train, override):
    assert train() == 0
    folder, command = RunFolder("run"), ["--resume", "run", "-o", "schedule.epochs=4", "-o", override]
    last = folder.load_last()
    within = Checkpoint(last.model, {**last.meta, "progress": {**last.meta["progress"], "epoch": 2, "batch": 2}})
    within.ema, within.optimizer = last.ema, last.optimizer
    write_checkpoint(folder.checkpoint("last"), within)
    with pytest.raises(ValueError, match="mid-epoch with pictures 24, data.batch_size 4, train.accumulate 2; go on"):
        train(*command)
    del last.meta["epoch_layout"]  # as an older version wrote it
    write_checkpoint(folder.checkpoint("last"), last)
    assert train(*command) == 0
    config, row = load_config("run/config.yaml"), json.loads(Path("run/history.jsonl").read_text().splitlines()[-1])
    updates = {"data.batch_size=8": 2, "train.accumulate=1": 6, "data.fake_train=25": 3}[override]
    rate = learning_rate_schedule(config.schedule, config.optimizer.lr, updates)
    assert (row["update"], row["lr"]) == (9 + updates, rate(4 * updates - 1))


def test_a_resumed_run_cannot_move(train, tmp_path):
    assert train() == 0
    with pytest.raises(ValueError, match="--resume goes on in run; leave out -o run.output"):
        train("--resume", "run", "-o", "run.output=other")
    assert load_config("run/config.yaml").run.output == "run"


def test_a_run_that_stopped_early_says_so_again(train, capsys):
    stop = ["-o", "optimizer.lr=0.0", "-o", "train.early_stop=1", "-o", "schedule.epochs=9"]
    assert train("-c", "toy.yaml", "-o", "run.output=run", *stop) == 0
    capsys.readouterr()
    assert train("--resume", "run") == 0
    assert "Stopped early, after epoch 2: 1 evaluations without a better top1." in capsys.readouterr().out


def test_a_run_that_ends_before_its_first_evaluation_says_what_to_do(train):
    assert train() == 0
    folder = RunFolder("run")
    last = folder.load_last()
    last.meta["history"] = [{key: row[key] for key in row if "_" not in key} for row in last.meta["history"]]
    write_checkpoint(folder.checkpoint("last"), last)
    with pytest.raises(ValueError, match="run has trained 3 epochs and evaluated none of them; go on beyond them"):
        train("--resume", "run", "-o", "schedule.epochs=2")


@pytest.mark.parametrize(
    ("every", "message", "update"),
    [
        (2, "classifier.bias holds numbers that are not finite after update 6. The last good checkpoint is .*last", 4),
        (None, "The val loss is nan after epoch 2. The last good checkpoint is .*last.safetensors; a lower", 3),
    ],
)
def test_weights_that_are_no_numbers_are_never_saved(tmp_path, monkeypatch, every, message, update):
    plain = Trainer._update

    def poisoned(self):
        plain(self)
        if self.progress.update == 6:
            self.network.classifier.bias.set_value(self.network.classifier.bias * float("nan"))

    monkeypatch.setattr(Trainer, "_update", poisoned)
    with pytest.raises(NonFiniteLoss, match=message) as error:
        toy_run(tmp_path, run={"save_every": every})
    assert "pictures" not in str(error.value)
    assert RunFolder(tmp_path).load_last().meta["progress"]["update"] == update
    assert np.isfinite(RunFolder(tmp_path).load_last().model["classifier.bias"]).all()
    assert "NaN" not in (tmp_path / "history.jsonl").read_text()


def test_the_factor_on_the_loss_starts_where_half_precision_does(tmp_path):
    trainer, recorder = toy_run(tmp_path)
    for saved, own, resumed in ((None, 2.0**16, 2.0**16), (8.0, None, None), (8.0, 2.0**16, 8.0)):
        trainer.progress.loss_scale = saved
        recorder.save()
        trainer.progress.loss_scale = own
        recorder.resume(trainer)
        assert trainer.progress.loss_scale == resumed


def test_pictures_that_could_not_be_read_are_named_and_remembered(train, tmp_path, capsys):
    for part, number in ((part, number) for part in ("train", "val") for number in range(8)):
        path = tmp_path / "pictures" / part / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 30 * number, np.uint8)).save(path)
    broken, second = (tmp_path / "pictures" / "train" / name for name in ("a/4.png", "b/5.png"))
    sound = broken.read_bytes(), second.read_bytes()
    broken.write_bytes(sound[0][:40])
    data = ["data.dataset=folder", f"data.root={tmp_path}/pictures", "data.bad_image=skip", "model.num_classes=2"]
    overrides = [word for value in [*data, "run.output=run", "run.report=true"] for word in ("-o", value)]
    assert train("-c", "toy.yaml", *overrides) == 0
    assert capsys.readouterr().out.count(f"Could not be read, others were taken: {broken}.") == 1
    broken.write_bytes(sound[0])
    second.write_bytes(sound[1][:40])
    assert train("--resume", "run", "-o", "schedule.epochs=4") == 0
    assert capsys.readouterr().out.count(f"Could not be read, others were taken: {second}.") == 1
    assert RunFolder("run").load_last().meta["skipped"] == [str(broken), str(second)]
    assert "2 pictures could not be read" in Path("run/report.html").read_text()


def test_overrides_of_a_resumed_run_are_written_down(train):
    assert train() == 0
    assert train("--resume", "run", "-o", "schedule.epochs=4") == 0
    assert load_config("run/config.yaml").schedule.epochs == 4
    assert RunFolder("run").load_last().meta["progress"]["epoch"] == 4


def test_equal_checkpoints_are_equal_files(tmp_path):
    arrays = {"b": np.arange(3, dtype=np.int64), "a": np.ones((2, 2), np.float32), "n": np.float32(3).reshape([])}
    for name in ("one", "two"):
        write_checkpoint(tmp_path / name, Checkpoint(dict(arrays), {"x": 1}))
        arrays = dict(reversed(arrays.items()))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read = read_checkpoint(tmp_path / "one").model
    assert {name: (array.dtype, array.shape) for name, array in read.items()} == {
        name: (array.dtype, array.shape) for name, array in arrays.items()
    }


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, Checkpoint({"a": np.zeros(3, np.float32)}, {}))
    before = path.read_bytes()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*last.safetensors'"):
        write_checkpoint(path, Checkpoint({"a": np.ones(3, np.float32)}, {}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_log_goes_on_when_another_library_closes_all_handlers(tmp_path, monkeypatch):
    """As logging.config does, which web servers call."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # the console's handler outlives the test
    run = RunFolder(tmp_path / "run")
    run.start(toy_config())
    run.log_to_file()
    LOGGER.info("before")
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    LOGGER.info("after")
    open_log()
    assert [line.split(" ", 2)[2] for line in (run.path / "log.txt").read_text().splitlines()] == ["before", "after"]
