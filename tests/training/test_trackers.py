"""The history goes to VisualDL or Weights & Biases when asked."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from paddlevit.config import ConfigError
from paddlevit.training import RunFolder, build_tracker
from tests.training.toy import load_tool, toy_config, write_toy_config

ROW = {"epoch": 2, "update": 10, "lr": 0.1, "train_loss": 1.5, "val_top1": 0.5}


def test_none_is_none(tmp_path):
    assert build_tracker(toy_config(), RunFolder(tmp_path)) is None


def test_visualdl(tmp_path, monkeypatch):
    sent, folders = {}, []

    class LogWriter:
        def __init__(self, logdir):
            folders.append(logdir)

        def add_scalar(self, tag, value, step):
            sent[tag] = (value, step)

    monkeypatch.setitem(sys.modules, "visualdl", SimpleNamespace(LogWriter=LogWriter))
    build_tracker(toy_config(run={"tracker": "visualdl"}), RunFolder(tmp_path))(ROW)
    assert folders == [str(tmp_path / "visualdl")]
    assert sent == {"lr": (0.1, 2), "train/loss": (1.5, 2), "val/top1": (0.5, 2)}


def test_wandb(tmp_path, monkeypatch):
    sent, started = [], {}

    def init(**keys):
        started.update(keys)
        return SimpleNamespace(log=lambda figures, step: sent.append((figures, step)))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    build_tracker(toy_config(run={"tracker": "wandb"}), RunFolder(tmp_path / "my_run"))(ROW)
    assert (started["name"], started["resume"], started["dir"]) == ("my_run", "allow", str(tmp_path / "my_run"))
    assert started["config"]["optimizer"]["lr"] == 5e-3
    assert sent == [({"lr": 0.1, "train_loss": 1.5, "val_top1": 0.5}, 10)]


def test_the_real_visualdl_keeps_every_epoch(tmp_path, monkeypatch):
    visualdl = pytest.importorskip("visualdl")
    whole = train(tmp_path, monkeypatch, "visualdl")
    (log,) = (tmp_path / "run" / "visualdl").glob("vdlrecords.*.log")
    kept = visualdl.LogReader(file_path=str(log)).get_data("scalar", "val/loss")
    assert [record.id for record in kept] == [1, 2, 3]
    assert [record.value for record in kept] == pytest.approx([row["val_loss"] for row in whole], rel=1e-6)


def test_the_real_wandb_keeps_an_offline_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path, monkeypatch, "wandb")
    wandb.teardown()
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-run.wandb")
    assert kept.stat().st_size > 1000


def train(folder, monkeypatch, tracker: str) -> list[dict]:
    """A toy run that is tracked; returns its history."""
    monkeypatch.chdir(folder)
    write_toy_config(folder / "toy.yaml", run={"tracker": tracker})
    load_tool("train").main(["-c", "toy.yaml", "-o", "run.output=run"])
    return [json.loads(line) for line in (folder / "run" / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["visualdl", "wandb"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"run.tracker is {name}, which is not installed: pip install {name}"):
        build_tracker(toy_config(run={"tracker": name}), RunFolder(tmp_path))
