"""2,000 damaged files of each kind: each is read, or ends in one ValueError, in little memory and without running code.

A flipped bit inside a tensor's values cannot be seen in kinds without a checksum; everything else has to be noticed.
"""

from __future__ import annotations

import os
import pickle
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

from paddlevit.models.vit import VisualTransformer
from paddlevit.weights import load_weights
from paddlevit.weights.arrays import LazyArray
from paddlevit.weights.checkpoint import Checkpoint, write_checkpoint
from paddlevit.weights.readers import open_weights
from tests.golden.fill import fill
from tests.weights.files import GOLDEN, write, write_torch

COUNT = 2000
STATE = {f"layer.{i}.weight": fill(f"weight.{i}", (5, 16 * i + 1)) for i in range(4)}
LIMIT = 64 << 20  # bytes; the files have a few kilobytes


def _checkpoint(path: Path) -> None:
    write_checkpoint(path, Checkpoint(STATE, {"preprocessing": {"image_size": [32, 32]}}, ema=STATE))


def _compressed(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **STATE)


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": STATE, "epoch": 3}, protocol=2))


WRITERS = {
    "safetensors": lambda path: write(path.with_suffix(".safetensors"), STATE).rename(path),
    "checkpoint": _checkpoint,
    "npz": lambda path: write(path.with_suffix(".npz"), STATE).rename(path),
    "npz compressed": _compressed,
    "pdparams": lambda path: write(path.with_suffix(".pdparams"), STATE).rename(path),
    "pickle of arrays": _pickled,
    "torch": lambda path: path.write_bytes((GOLDEN / "torch_zip.pth").read_bytes()),
    "torch legacy": lambda path: write_torch(path, {"model": STATE, "epoch": 3}, legacy=True),
}


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """The content cut off, with bits flipped, with bytes overwritten, removed, repeated, or made large numbers."""
    kind, at = rng.integers(6), int(rng.integers(len(content)))
    # Headers are what readers trust, so half of all damage is near the beginning.
    at = at if rng.random() < 0.5 else at % min(len(content), 400)
    length = int(rng.integers(1, 40))
    changed = bytearray(content)
    if kind == 0:
        return content[:at]
    if kind == 1:
        for _ in range(rng.integers(1, 9)):
            position = int(rng.integers(max(0, at - 50), min(len(content), at + 50)))
            changed[position] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        changed[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    elif kind == 3:
        del changed[at : at + length]
    elif kind == 4:
        changed[at:at] = changed[at : at + length]
    else:
        changed[at : at + 8] = bytes([0xFF] * int(rng.integers(1, 8))) + bytes(int(rng.integers(0, 3)))
    return bytes(changed)


def read_all(tree: dict) -> None:
    for value in tree.values():
        if isinstance(value, LazyArray):
            value.read()
        elif isinstance(value, dict):
            read_all(value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files(kind, tmp_path, monkeypatch):
    for name in ("system", "popen", "execv"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("code was run"))
    WRITERS[kind](tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    read_all(open_weights(tmp_path / "whole").tree)
    rng = np.random.default_rng(sum(map(ord, kind)))
    messages, file = [], tmp_path / "damaged"
    tracemalloc.start()
    for _ in range(COUNT):
        damaged = damage(content, rng)
        file.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read_all(open_weights(file).tree)
        except ValueError as error:
            messages.append(str(error))
        else:
            assert len(damaged) >= len(content) - 40, "a file cut off was read"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < LIMIT
    assert len(messages) > COUNT // 3
    for message in messages:
        assert str(file) in message
        assert "\n" not in message
        assert len(message) < 1000


@pytest.mark.parametrize("kind", ["safetensors", "torch legacy"])
def test_files_cut_off_anywhere(kind, tmp_path):
    """The kinds that are read from the front: every shorter file is refused, whatever its length."""
    WRITERS[kind](tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(ValueError, match="cut cannot be read"):
            read_all(open_weights(tmp_path / "cut").tree)


def test_tensors_of_wrong_shapes():
    """500 states with one tensor of another shape: refused by name, and the model stays as it was."""
    model = VisualTransformer(image_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=3)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    rng = np.random.default_rng(0)
    names = [name for name in state if not name.startswith("classifier")]
    for _ in range(500):
        name = names[int(rng.integers(len(names)))]
        shape = tuple(int(n) for n in rng.integers(0, 12, size=rng.integers(0, 6)))
        if shape == state[name].shape:
            continue
        message = ""
        try:
            report = load_weights(model, {**state, name: np.ones(shape, np.float32)})
        except ValueError as error:
            message = str(error)
        if message:
            assert name in message or "mixes layouts" in message
            for key, tensor in model.state_dict().items():
                assert (tensor.numpy() == state[key]).all(), key
        else:  # another size of picture or patch is adapted
            assert name in report.adapted
            load_weights(model, state)
