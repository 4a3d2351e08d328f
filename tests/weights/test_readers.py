"""Every kind of file is read as its own library reads it, and only what is harmless is read at all."""

from __future__ import annotations

import io
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
from tests.weights.files import GOLDEN, write, write_torch

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
    with pytest.raises(ValueError, match=r"is a folder without model\.safetensors, pytorch_model\.bin"):
        open_weights(tmp_path)
    write(tmp_path / "pytorch_model.bin", STATE)
    assert open_weights(tmp_path).kind == "torch"
    write(tmp_path / "model.safetensors", STATE)
    assert open_weights(tmp_path).kind == "safetensors"


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


class Runs:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile_pickles(marker) -> dict[str, bytes]:
    """Pickles that make `marker` when Python's own unpickler reads them."""
    command = f"touch {marker}"
    payload = {"a": np.arange(3), "b": Runs(os.system, command)}
    made = {f"system {protocol}": pickle.dumps(payload, protocol) for protocol in (2, 3, 4, 5)}
    made["exec"] = pickle.dumps(Runs(exec, f"open({str(marker)!r}, 'w')"), 2)
    made["eval"] = pickle.dumps({"a": [Runs(eval, f"open({str(marker)!r}, 'w')")]}, 4)
    made["getattr"] = b"\x80\x02cbuiltins\ngetattr\n."
    made["instance"] = b"\x80\x02(S'" + command.encode() + b"'\nios\nsystem\n."
    made["object"] = b"\x80\x02(cos\nsystem\nX" + len(command).to_bytes(4, "little") + command.encode() + b"o."
    made["extension"] = b"\x80\x02\x82\x01."
    made["build"] = b"\x80\x02cos\n_wrap_close\n)\x81}b."
    return made


@pytest.mark.parametrize("container", ["paddle", "torch", "legacy"])
def test_no_code_is_run(container, tmp_path):
    marker = tmp_path / "run"
    for name, content in hostile_pickles(marker).items():
        file = tmp_path / "evil"
        if container == "torch":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("archive/data.pkl", content)
        elif container == "legacy":
            write_torch(file, STATE, legacy=True)
            whole = file.read_bytes()
            at = whole.index(b"\x80\x02}q\x00(X\x06\x00\x00\x00weight")
            file.write_bytes(whole[:at] + content)
        else:
            file.write_bytes(content)
        with pytest.raises(ValueError, match="evil cannot be read"):
            open_weights(file)
        assert not marker.exists(), name


def test_what_a_pickle_asks_for_is_named(tmp_path):
    (tmp_path / "evil.pdparams").write_bytes(pickle.dumps({"a": Runs(os.system, "true")}, 2))
    with pytest.raises(
        ValueError, match=r"it asks for (posix|nt)\.system; only plain arrays are read, so save the state"
    ):
        open_weights(tmp_path / "evil.pdparams")


def test_arrays_of_objects_are_refused(tmp_path):
    objects = np.array([{}], dtype=object)
    (tmp_path / "a").write_bytes(pickle.dumps({"a": objects}, 4))
    with pytest.raises(ValueError, match="it holds an array of 'O8', and only arrays of plain numbers are read"):
        open_weights(tmp_path / "a")
    np.savez(tmp_path / "b.npz", a=objects)
    with pytest.raises(ValueError, match=r"'a\.npy' is an array of '\|O', and only arrays of plain numbers"):
        open_weights(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", a=np.zeros(3, dtype=[("x", "<f4"), ("y", "O")]))
    with pytest.raises(ValueError, match=r"the header of 'a\.npy' is damaged, or it is no plain array"):
        open_weights(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", a=np.zeros(3, dtype=">f4"))
    with pytest.raises(ValueError, match="is an array of '>f4'"):
        open_weights(tmp_path / "d.npz")


BOMBS = {
    "bytes": (b"\x80\x04\x8e" + (2**60).to_bytes(8, "little"), "declares 1152921504606846976 bytes, more than"),
    "number": (b"\x80\x04\x8b\xff\xff\x00\x00" + bytes(70000), "an impossibly large number"),
    "line": (b"\x80\x02c" + b"a" * 5000 + b"\n", "it ends early"),
    "stack": (b"\x80\x02t.", "do not fit together"),
    "memo": (b"\x80\x02h\x05.", "do not fit together"),
    # A tuple of a tuple of ... as a key: hashing it would take 2 ** 60 steps.
    "key": (b"\x80\x02}))" + b"\x86q\x00h\x00" * 60 + b"\x86K\x01s.", r"do not fit together \(TypeError\)"),
    "depth": (b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 40 + b"N" + b"s" * 40 + b".", "nested too deep"),
    # Eight levels of a dictionary that holds the level below a thousand times: 10 ** 24 entries in 30 kilobytes.
    "shared": (
        b"\x80\x02}q\x00"
        + b"".join(
            b"}("
            + b"".join(b"X\x03\x00\x00\x00%03dh" % i + bytes([level]) for i in range(1000))
            + b"uq"
            + bytes([level + 1])
            for level in range(7)
        )
        + b".",
        "nested too deep",
    ),
    "no dictionary": (pickle.dumps([np.arange(3)], 4), "it does not hold a dictionary of tensors"),
    "truncated": (pickle.dumps({"a": np.arange(3)}, 4)[:-20], "it ends early|fit together|declares"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_pickles_that_would_exhaust_the_machine(case, tmp_path):
    content, match = BOMBS[case]
    (tmp_path / "a").write_bytes(content + bytes(16))
    with pytest.raises(ValueError, match=match):
        open_weights(tmp_path / "a")


def torch_archive(path, pickled: bytes, members: dict[str, bytes], compress=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)


def torch_pickle(count: int, offset: int, shape: tuple, strides: tuple) -> bytes:
    """One tensor `a`, a view of a storage of `count` numbers."""
    stream = io.BytesIO()

    def number(value: int) -> bytes:
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)

    def numbers(values: tuple) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    stream.write(b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((")
    stream.write(b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu")
    stream.write(number(count) + b"tQ" + number(offset) + numbers(shape) + numbers(strides) + b"\x89NtRs.")
    return stream.getvalue()


BAD_VIEWS = {
    "count": ((2**40, 0, (2,), (1,)), "a tensor declares 1099511627776 elements and has 24 bytes"),
    "offset": ((6, 5, (2,), (1,)), "reaches outside its data"),
    "negative": ((6, -1, (2,), (1,)), "do not fit together"),
    "strides": ((6, 0, (2, 2), (5, 1)), "reaches outside its data"),
    "repeated": ((6, 0, (2**40,), (0,)), "reaches outside its data"),
    "dimensions": ((6, 0, (2, 3), (1,)), "do not fit together"),
    "negative shape": ((6, 0, (-2,), (1,)), "a shape that is not a list of whole numbers"),
}


@pytest.mark.parametrize("case", BAD_VIEWS)
def test_tensors_outside_of_their_data(case, tmp_path):
    arguments, match = BAD_VIEWS[case]
    torch_archive(tmp_path / "a", torch_pickle(*arguments), {"data/0": bytes(24)})
    with pytest.raises(ValueError, match=match):
        open_weights(tmp_path / "a")


def test_torch_archives(tmp_path):
    good = torch_pickle(6, 0, (2, 3), (3, 1))
    torch_archive(tmp_path / "a", good, {"data/0": bytes(24)})
    assert read(tmp_path / "a")["a"].shape == (2, 3)
    torch_archive(tmp_path / "a", good, {})
    with pytest.raises(ValueError, match="the data of one of its tensors, '0', is missing"):
        open_weights(tmp_path / "a")
    torch_archive(tmp_path / "a", good, {"data/0": bytes(24), "byteorder": b"big"})
    with pytest.raises(ValueError, match="saved on a big-endian machine"):
        open_weights(tmp_path / "a")
    torch_archive(tmp_path / "a", good, {"data/0": bytes(24)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"its part 'archive/data\.pkl' is compressed"):
        open_weights(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("readme.txt", "no weights here")
    with pytest.raises(ValueError, match=r"a zip archive, but not one that torch\.save or numpy\.savez writes"):
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
