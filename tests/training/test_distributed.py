"""Two processes on the CPU do what one does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddlevit.weights.checkpoint import read_checkpoint
from tests.training.toy import MODEL, ROOT, write_toy_config

WORKER = ROOT / "tests" / "training" / "worker.py"
# 8 batches of 4 for one process; 11 pictures to evaluate do not divide by 2.
DATA = {"fake_train": 32, "fake_val": 11, "eval_batch_size": 3}
# Adam would make steps of rounding errors: the gradient of the keys' bias is zero.
OPTIMIZER = {"name": "sgd", "lr": 0.5, "clip_norm": 0.5}

PATIENCE = 300  # seconds; a hang is a failure

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(folder: Path, processes: int, arguments: list[str], hit: tuple[str, int, int] = ("none", 0, 0), **sections):
    """worker.py in one or more processes."""
    write_toy_config(folder / "toy.yaml", **{"data": DATA, "optimizer": OPTIMIZER, **sections})
    launch = []
    if processes > 1:
        launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--log_dir", "log"]
        launch += ["--start_port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launch, str(WORKER), *map(str, hit), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A folder with a run of two processes."""
    folder = tmp_path_factory.mktemp("two")
    done = train(folder, 2, ["-c", "toy.yaml", "-o", "run.output=run", "-o", "train.accumulate=2"])
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_two_processes_equal_one_with_the_same_global_batch(two, tmp_path):
    done = train(tmp_path, 1, ["-c", "toy.yaml", "-o", "run.output=run", "-o", "train.accumulate=4"])
    assert done.returncode == 0, done.stderr
    ours, alone = (read_checkpoint(folder / "run" / "last.safetensors") for folder in (two, tmp_path))
    for part in ("model", "ema"):
        for name, values in getattr(alone, part).items():
            np.testing.assert_allclose(getattr(ours, part)[name], values, atol=1e-6, err_msg=name)
    for row, expected in zip(ours.meta["history"], alone.meta["history"]):
        assert row == pytest.approx(expected, abs=1e-6)
    assert ours.meta["history"][0]["val_top1"] * 11 == pytest.approx(round(ours.meta["history"][0]["val_top1"] * 11))


def test_a_step_of_two_processes_is_a_step_of_twice_the_batch(tmp_path):
    """Without dropout and mixing, which are drawn for each process's part, no accumulation is needed to compare."""
    model = {**MODEL, "num_classes": 5, "options": {**MODEL["options"], "dropout": 0.0, "drop_path": 0.0}}
    sections = dict(model=model, augment={"mixup": 0.0, "cutmix": 0.0}, schedule={"epochs": 1, "warmup_epochs": 0})
    weights = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        data = {**DATA, "fake_train": 8, "batch_size": 8 // processes}
        arguments = ["-c", "toy.yaml", "-o", "run.output=run", "-o", "train.accumulate=1"]
        done = train(folder, processes, arguments, **sections, data=data)
        assert done.returncode == 0, done.stdout + done.stderr
        weights.append(read_checkpoint(folder / "run" / "last.safetensors"))
    assert weights[0].meta["progress"]["update"] == weights[1].meta["progress"]["update"] == 1
    for part in ("model", "ema"):
        for name, values in getattr(weights[0], part).items():
            np.testing.assert_allclose(getattr(weights[1], part)[name], values, atol=1e-6, err_msg=name)
    assert weights[0].meta["history"][0] == pytest.approx(weights[1].meta["history"][0], abs=1e-6)


def test_only_the_first_process_writes_and_speaks(two):
    assert "epoch 3/3  train loss" in (two / "log" / "workerlog.0").read_text()
    assert "epoch" not in (two / "log" / "workerlog.1").read_text()
    assert (two / "run" / "log.txt").read_text().count("epoch 3/3") == 1
    assert len((two / "run" / "history.jsonl").read_text().splitlines()) == 3


def test_a_signal_to_one_process_stops_all_and_resuming_is_exact(two, tmp_path):
    arguments = ["-c", "toy.yaml", "-o", "run.output=run", "-o", "train.accumulate=2"]
    stopped = train(tmp_path, 2, arguments, hit=("SIGTERM", 1, 6))
    assert stopped.returncode != 0
    progress = read_checkpoint(tmp_path / "run" / "last.safetensors").meta["progress"]
    assert (progress["epoch"], progress["batch"]) == (1, 2)
    assert "SIGTERM: saved at epoch 2, batch 2." in (tmp_path / "log" / "workerlog.0").read_text()
    done = train(tmp_path, 2, ["--resume", "run"])
    assert done.returncode == 0, done.stdout + done.stderr
    ours, whole = (read_checkpoint(folder / "run" / "last.safetensors") for folder in (tmp_path, two))
    for part in ("model", "ema", "optimizer"):
        for name, values in getattr(whole, part).items():
            assert (getattr(ours, part)[name] == values).all(), name
    assert ours.meta["history"] == whole.meta["history"]
    assert (tmp_path / "run" / "history.csv").read_bytes() == (two / "run" / "history.csv").read_bytes()


def test_a_process_that_dies_ends_the_run_and_its_error_is_shown(tmp_path):
    done = train(tmp_path, 2, ["-c", "toy.yaml", "-o", "run.output=run"], hit=("die", 1, 3))
    assert done.returncode != 0
    assert "a cosmic ray hit this process" in done.stdout + done.stderr


def test_a_process_that_is_killed_ends_the_run(tmp_path):
    done = train(tmp_path, 2, ["-c", "toy.yaml", "-o", "run.output=run"], hit=("SIGKILL", 1, 9))
    assert done.returncode != 0
    assert read_checkpoint(tmp_path / "run" / "last.safetensors").meta["progress"]["epoch"] == 2
