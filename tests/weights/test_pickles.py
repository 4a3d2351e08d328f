"""Pickles, bare or in a torch archive: no code is run, nothing declared is believed, and damage is noticed."""

from __future__ import annotations

import collections
import io
import os
import pickle
import sys
import tracemalloc
import types
import zipfile
import zlib

import numpy as np
import pytest

from paddlevit.weights.readers import open_weights
from tests.golden.fill import fill
from tests.weights.files import write_torch
from tests.weights.test_readers import STATE, read, same


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


class TorchVersion(str):
    """Stands in for torch's."""


def test_harmless_objects_beside_the_weights(tmp_path, monkeypatch):
    """What schedulers and training programs keep: read as nothing, and the weights are there."""
    TorchVersion.__module__ = "torch.torch_version"
    module = types.ModuleType("torch.torch_version")
    module.TorchVersion = TorchVersion
    for name in ("torch", "torch.torch_version"):
        monkeypatch.setitem(sys.modules, name, module)
    others = {"milestones": collections.Counter([3, 3, 5]), "names": frozenset("ab"), "torch": TorchVersion("2.7")}
    for protocol in (2, 4):
        (tmp_path / "a").write_bytes(pickle.dumps({**others, "weight": STATE["weight"]}, protocol))
        same(read(tmp_path / "a"), {"weight": STATE["weight"]})


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


def copies(function: bytes, arguments: bytes, state: bytes = b"N") -> bytes:
    """A pickle that holds arguments and a state once, and calls a function with them 3,000 times."""
    calls = b"h\x01h\x00R" + (b"h\x02b" if state != b"N" else b"")
    stored = b"c" + function + b"\nq\x01" + arguments + b"q\x00" + state + b"q\x02"
    return b"\x80\x02}X\x01\x00\x00\x00a(" + stored + calls * 3000 + b"ts."


TEXT = b"X" + (30000).to_bytes(4, "little") + b"a" * 30000
ARRAY = b"(K\x01M\x30\x75\x85cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R\x89" + TEXT + b"t"
COPIES = {
    "list": copies(b"__builtin__\nlist", b"](" + b"N" * 30000 + b"e\x85"),
    "encode": copies(b"_codecs\nencode", TEXT + b"X\x06\x00\x00\x00latin1\x86"),
    "array": copies(b"numpy.core.multiarray\n_reconstruct", b")", ARRAY),
}


@pytest.mark.parametrize("kind", ["pdparams", "pth"])
@pytest.mark.parametrize("case", COPIES)
def test_what_stands_once_is_not_copied_without_end(case, kind, tmp_path):
    """30 kilobytes that would become 90 megabytes, or more with another number."""
    if kind == "pth":
        torch_archive(tmp_path / "a", COPIES[case], {})
    else:
        (tmp_path / "a").write_bytes(COPIES[case])
    tracemalloc.start()
    with pytest.raises(ValueError, match="it unfolds to far more than its size"):
        open_weights(tmp_path / "a")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


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


def test_checksums_of_torch_archives(tmp_path):
    """Of whole storages, also transposed ones; torch can be told to write 0 instead."""
    for name, shape, strides in [("plain", (200, 30), (30, 1)), ("transposed", (200, 30), (1, 200))]:
        content = fill(name, (6000,)).tobytes()
        torch_archive(tmp_path / name, torch_pickle(6000, 0, shape, strides), {"data/0": content})
        whole = (tmp_path / name).read_bytes()
        assert read(tmp_path / name)["a"].shape == shape
        damaged = bytearray(whole)
        damaged[whole.index(content) + 5] ^= 1
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged: the checksum of a tensor is wrong"):
            read(tmp_path / name)
        checksum = zlib.crc32(content).to_bytes(4, "little")
        assert damaged.count(checksum) == 2  # before the data and in the directory
        (tmp_path / name).write_bytes(damaged.replace(checksum, bytes(4)))
        assert read(tmp_path / name)["a"].shape == shape
