"""Every kind of file is read as its own library reads it, and only what is harmless is read at all."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import numpy as np
import paddle
import pytest

from paddlevit.weights.arrays import FileArray, LazyArray, contiguous
from paddlevit.weights.readers import open_weights
from tests.golden.fill import fill
from tests.weights.files import GOLDEN, write

STATE = {"weight": fill("tensor", (6, 4)), "bias": fill("tensor.bias", (4,)), "scalar": np.float32(2.5).reshape(())}


def read(path) -> dict:
    """All tensors of a file."""
    return {name: array.read() for name, array in open_weights(path).tree.items() if isinstance(array, LazyArray)}


def same(ours: dict, expected: dict) -> None:
    assert set(ours) == set(expected)
    for name, array in expected.items():
        assert ours[name].shape == array.shape, name
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.safetensors", "safetensors"),
        ("a.npz", "npz"),
        ("a.pdparams", "paddle"),
        ("a.pth", "torch"),
        ("a.bin", "torch"),
    ],
)
def test_every_kind(name, kind, tmp_path):
    file = write(tmp_path / name, STATE)
    assert open_weights(file).kind == kind
    same(read(file), STATE)


def test_the_name_of_a_file_does_not_matter(tmp_path):
    file = write(tmp_path / "a.npz", STATE)
    file.rename(tmp_path / "a.pth.tar")
    assert open_weights(tmp_path / "a.pth.tar").kind == "npz"


@pytest.mark.parametrize("name", ["torch_zip", "torch_legacy"])
def test_what_torch_saved(name):
    tensor = fill("tensor", (6, 4))
    file = open_weights(GOLDEN / f"{name}.pth")
    assert file.tree["epoch"] == 3
    assert set(file.tree) == {"state_dict", "epoch", "args", "optimizer"}
    ours = {name: array.read() for name, array in file.tree["state_dict"].items()}
    bits = (tensor.view(np.uint32) + 0x7FFF + (tensor.view(np.uint32) >> 16 & 1)) & 0xFFFF0000
    expected = {
        "plain": tensor,
        "parameter": tensor,
        "transposed": tensor.T,
        "rows": tensor[1:5:2],
        "column": tensor[:, 2],
        "bfloat16": bits.astype(np.uint32).view(np.float32),  # rounded to the nearest even
        "float16": tensor.astype(np.float16),
        "float64": tensor.astype(np.float64),
        "int64": (tensor * 100).astype(np.int64),
        "boolean": tensor > 0,
        "scalar": np.float32(2.5).reshape(()),
        "empty": np.zeros((0, 3), np.float32),
    }
    same(ours, expected)
    for name, array in expected.items():
        assert ours[name].dtype == array.dtype, name


def test_what_paddle_saves(tmp_path):
    """Names of both kinds, several protocols, half precision, and dictionaries in dictionaries."""
    layer = paddle.nn.Linear(30, 40)
    expected = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    for protocol in (2, 3, 4):
        paddle.save(layer.state_dict(), str(tmp_path / "a.pdparams"), protocol=protocol)
        same(read(tmp_path / "a.pdparams"), expected)
    halves = {kind: paddle.ones([20, 30]).astype(kind) for kind in ("float16", "bfloat16")}
    paddle.save({"model": halves, "epoch": 3}, str(tmp_path / "b.pdparams"))
    tree = open_weights(tmp_path / "b.pdparams").tree
    assert tree["epoch"] == 3
    assert tree["model"]["bfloat16"].stored == "bfloat16"
    for array in tree["model"].values():
        assert (array.read() == 1).all()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_arrays(protocol, tmp_path):
    state = {"c": fill("c", (20, 30)), "fortran": np.asfortranarray(fill("f", (20, 30))), "small": np.arange(3)}
    with open(tmp_path / "a.pdparams", "wb") as file:
        pickle.dump(state, file, protocol=protocol)
    same(read(tmp_path / "a.pdparams"), state)


def test_npz_compressed_fortran_and_bfloat16(tmp_path):
    state = {"Transformer/a": fill("a", (20, 30)), "fortran": np.asfortranarray(fill("f", (20, 30)))}
    np.savez_compressed(tmp_path / "a.npz", **state)
    same(read(tmp_path / "a.npz"), state)
    np.savez(tmp_path / "b.npz", **state)
    same(read(tmp_path / "b.npz"), state)
    halves = (fill("a", (4, 5)).view(np.uint32) >> 16).astype(np.uint16)
    np.savez(tmp_path / "c.npz", half=halves.view("V2"))
    np.testing.assert_array_equal(read(tmp_path / "c.npz")["half"].view(np.uint32) >> 16, halves)


def test_safetensors_bfloat16_and_metadata(tmp_path):
    halves = (fill("a", (4, 5)).view(np.uint32) >> 16).astype(np.uint16)
    header = {"__metadata__": {"a": "b"}, "half": {"dtype": "BF16", "shape": [4, 5], "data_offsets": [0, 40]}}
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + halves.tobytes())
    file = open_weights(tmp_path / "a.safetensors")
    assert file.metadata == {"a": "b"}
    np.testing.assert_array_equal(file.tree["half"].read().view(np.uint32) >> 16, halves)


def test_a_part_of_a_tensor_reads_only_its_bytes(tmp_path):
    array = fill("stack", (5, 20, 30))
    for writer in (np.savez, np.savez_compressed):
        writer(tmp_path / "a.npz", stack=array, fortran=np.asfortranarray(array))
        for lazy in open_weights(tmp_path / "a.npz").tree.values():
            np.testing.assert_array_equal(lazy.part(3).read(), array[3])
    np.savez(tmp_path / "a.npz", stack=array)
    assert isinstance(open_weights(tmp_path / "a.npz").tree["stack"].part(3), FileArray)


def test_folders(tmp_path):
    with pytest.raises(
        ValueError, match=r"is a folder without model\.safetensors, model\.safetensors\.index\.json, py"
    ):
        open_weights(tmp_path)
    write(tmp_path / "pytorch_model.bin", STATE)
    assert open_weights(tmp_path).kind == "torch"
    write(tmp_path / "model.safetensors", STATE)
    assert open_weights(tmp_path).kind == "safetensors"


@pytest.mark.parametrize(("stem", "suffix"), [("model", ".safetensors"), ("pytorch_model", ".bin")])
def test_files_in_parts(stem, suffix, tmp_path):
    """Large models of Hugging Face: several files, and an index of what is where."""
    names = [f"{stem}-{i}-of-2{suffix}" for i in (1, 2)]
    places = {"weight": names[0], "bias": names[1], "scalar": names[1]}
    for name in names:
        write(tmp_path / name, {tensor: STATE[tensor] for tensor in places if places[tensor] == name})
    index = tmp_path / f"{stem}{suffix}.index.json"

    def refuse(weight_map, match: str) -> None:
        index.write_text(json.dumps(weight_map))
        with pytest.raises(ValueError, match=match):
            open_weights(tmp_path)

    refuse({"weight_map": {**places, "gone": names[0]}}, rf"index\.json cannot be read: gone is not in {stem}-1-of-2")
    refuse({"weight_map": {"weight": "../a"}}, "it is no index of weight files beside it")
    refuse({"weight_map": {"weight": index.name}}, "it is no index of weight files beside it")
    refuse({"weight_map": [names[0]]}, "it is no index of weight files")
    refuse({"weight_map": {**places, "more": "third"}}, "third of its 3 files are missing; download them too")
    index.write_text(json.dumps({"metadata": {"total_size": 116}, "weight_map": places}))
    same(read(tmp_path), STATE)
    same(read(index), STATE)


@pytest.mark.parametrize("shape", [(300, 200), (128, 256), (1000, 130), (5, 4), (7,), ()])
def test_contiguous(shape):
    array = fill("array", shape)
    for view in (array, array.T):
        ours = contiguous(view)
        assert ours.flags.c_contiguous
        assert ours.shape == view.shape
        np.testing.assert_array_equal(ours, view)


# Refusals

REFUSED = {
    "missing": (None, "There is no weight file"),
    "empty": (b"", "it has only 0 bytes"),
    "page": (b"<!DOCTYPE html><html>", "it is a web page; the download went wrong"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "it is a Git LFS pointer"),
    "text": (b"these are no weights", r"it is neither safetensors, torch, \.npz nor \.pdparams"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_weight_file(case, tmp_path):
    content, match = REFUSED[case]
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=match):
        open_weights(tmp_path / "a")


def safetensors(header, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


DAMAGED_SAFETENSORS = {
    "header length": (safetensors({"a": entry()}, bytes(8), 2**60), "its header declares 1152921504606846976 bytes"),
    "header": (safetensors(b'{"a": '), "its header is damaged"),
    "nesting": (safetensors(b'{"a":' + b"[" * 100000), "its header is damaged"),
    "list": (safetensors(b'{"a": 3}', bytes(8)), "the entry of 'a' is damaged"),
    "keys": (safetensors({"a": {**entry(), "more": 1}}, bytes(8)), "the entry of 'a' is damaged"),
    "type": (safetensors({"a": entry("F8_E4M3")}, bytes(8)), "'a' has type 'F8_E4M3'; known are F64, F32"),
    "digits": (safetensors(b'{"a": ' + b"9" * 5000 + b"}"), "its header is damaged"),
    "shape": (safetensors({"a": entry(shape=[2.0])}, bytes(8)), "a shape that is not a list of whole numbers"),
    "negative": (safetensors({"a": entry(shape=[-2])}, bytes(8)), "a shape that is not a list of whole numbers"),
    "huge": (safetensors({"a": entry(shape=[2**40, 2**40])}, bytes(8)), "an impossible shape"),
    "size": (safetensors({"a": entry(shape=[3])}, bytes(8)), r"'a' of shape \[3\] has 8 bytes"),
    "offsets": (safetensors({"a": entry(offsets=[0, 8, 9])}, bytes(8)), "the entry of 'a' is damaged"),
    "beyond": (safetensors({"a": entry()}, bytes(7)), "its tensors need .* bytes and the file has .* cut off"),
    "overlap": (
        safetensors({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
        "its tensors overlap or leave gaps",
    ),
    "gap": (safetensors({"a": entry(offsets=[4, 12])}, bytes(12)), "its tensors overlap or leave gaps"),
    "metadata": (safetensors({"__metadata__": {"a": 1}}), "its header is damaged"),
}


@pytest.mark.parametrize("case", DAMAGED_SAFETENSORS)
def test_damaged_safetensors(case, tmp_path):
    content, match = DAMAGED_SAFETENSORS[case]
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=f"a cannot be read: {match}"):
        open_weights(tmp_path / "a")


def npy(shape: str = "(2,)", descr: str = "<f4", data: bytes = bytes(8)) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


BAD_ARRAYS = {
    "size": (npy("(3,)"), r"'a\.npy' of shape \[3\] has 8 bytes"),
    "huge": (npy("(999999999999999999,)"), "an impossible shape"),
    "code": (npy("__import__('os').system('true')"), r"the header of 'a\.npy' is damaged"),
    "magic": (b"no array" + bytes(80), r"its part 'a\.npy' is no array"),
    "length": (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(80), "declares a header of 2147483647 bytes"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_damaged_npz(case, tmp_path):
    content, match = BAD_ARRAYS[case]
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(ValueError, match=match):
        open_weights(tmp_path / "a")


def test_zip_bombs_and_wrong_checksums(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy("(25000000,)", data=bytes(100_000_000)))
    assert (tmp_path / "a").stat().st_size < 200_000
    with pytest.raises(ValueError, match="it declares far more data than it can hold"):
        open_weights(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("a.npy", npy())
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ValueError, match=r"its part 'notes\.txt' is no array"):
        open_weights(tmp_path / "a")
    weight = fill("large", (200, 30))
    file = write(tmp_path / "b.npz", {"weight": weight})
    content = bytearray(file.read_bytes())
    content[content.index(weight.tobytes())] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="is damaged: the checksum of a tensor is wrong"):
        read(file)


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    file = write(tmp_path / "a.safetensors", STATE)
    lazy = open_weights(file).tree["bias"]
    os.truncate(file, 20)
    with pytest.raises(ValueError, match="ended while its tensors were read"):
        lazy.read()
