"""Real weight files for the tests, of every kind, made without torch."""

from __future__ import annotations

import collections
import io
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import paddle
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parents[1] / "golden"
_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def golden(name: str):
    """Meta data and logits of a golden file."""
    file = np.load(GOLDEN / f"{name}.npz")
    return json.loads(str(file["meta"])), file["logits"]


def write(path: Path, state: dict) -> Path:
    """A file of the kind that the suffix says; torch's and Paddle's may hold dictionaries in dictionaries."""
    if path.suffix == ".safetensors":
        save_file({name: np.asarray(array, order="C") for name, array in state.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **state)
    elif path.suffix == ".pdparams":
        paddle.save(_as_tensors(state), str(path))
    else:
        write_torch(path, state)
    return path


def _as_tensors(state: dict) -> dict:
    return {
        name: _as_tensors(value) if isinstance(value, dict) else paddle.to_tensor(np.asarray(value, order="C"))
        for name, value in state.items()
    }


# torch


def _fake_torch() -> dict[str, types.ModuleType]:
    """Modules that lend their names to what is pickled; nothing in them works."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}

    def named(module: str, name: str, base: type = object) -> type:
        made = type(name, (base,), {"__module__": module})
        setattr(modules[module], name, made)
        return made

    for storage in _STORAGES.values():
        named("torch", storage)
    named("torch._utils", "_rebuild_tensor_v2")
    return modules


class _Storage:
    def __init__(self, kind: type, key: str, array: np.ndarray) -> None:
        self.kind, self.key, self.array = kind, key, array


class _TorchPickler(pickle.Pickler):
    """Pickles arrays as torch pickles tensors: each a view of a storage of its own."""

    def __init__(self, file, modules: dict[str, types.ModuleType], legacy: bool) -> None:
        super().__init__(file, protocol=2)
        self.modules, self.legacy = modules, legacy
        self.storages: list[_Storage] = []

    def persistent_id(self, value):
        if not isinstance(value, _Storage):
            return None
        key = ("storage", value.kind, value.key, "cpu", value.array.size)
        return (*key, None) if self.legacy else key

    def reducer_override(self, value):
        if not isinstance(value, np.ndarray):
            return NotImplemented
        kind = getattr(self.modules["torch"], _STORAGES[value.dtype.name])
        array = np.asarray(value, order="C")
        storage = _Storage(kind, str(len(self.storages)), array)
        self.storages.append(storage)
        strides = tuple(step // array.itemsize for step in array.strides)
        arguments = (storage, 0, array.shape, strides, False, collections.OrderedDict())
        return self.modules["torch._utils"]._rebuild_tensor_v2, arguments


def write_torch(path: Path, value, legacy: bool = False) -> None:
    """What `torch.save(value, path)` writes for dictionaries of tensors; `legacy` as before torch 1.6."""
    modules, known = _fake_torch(), {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update(modules)
    try:
        stream = io.BytesIO()
        pickler = _TorchPickler(stream, modules, legacy)
        if legacy:
            little = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
            for part in (0x1950A86A20F9469CFC6C, 1001, little):
                pickle.dump(part, stream, protocol=2)
        pickler.dump(value)
    finally:
        for name, module in known.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    if legacy:
        pickle.dump([storage.key for storage in pickler.storages], stream, protocol=2)
        for storage in pickler.storages:
            stream.write(np.int64(storage.array.size).tobytes() + storage.array.tobytes())
        path.write_bytes(stream.getvalue())
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", b"little")
        for storage in pickler.storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
        archive.writestr("archive/version", b"3\n")
