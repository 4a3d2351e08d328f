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

from paddlevit.config import load_config
from paddlevit.training import RunFolder, open_log
from paddlevit.training.run_folder import LOGGER
from paddlevit.weights.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tests.tools import call, one_line
from tests.training.toy import ROOT, load_tool, toy_config, write_toy_config

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
