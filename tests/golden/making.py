"""What the makers of golden files share: values for a model, and the file itself; the tests read values here too."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

import numpy as np

from tests.golden.fill import fill, image

HERE = Path(__file__).parent


def maker(doc: str, clone_of: str | None = None) -> argparse.ArgumentParser:
    """The command line of a maker.

    Args:
        doc: Its module's docstring.
        clone_of: The repository whose code it runs, where the command takes the place of a clone.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if clone_of is not None:
        parser.add_argument("clone", type=Path, help=f"where a clone of github.com/{clone_of} lies")
    parser.add_argument("--folder", type=Path, default=HERE, help="where to write; default: here")
    return parser


def import_timm():
    """torch and timm, also where torchvision came without compiled kernels: the two that it asks for are declared."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for kernel in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{kernel}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    import timm

    return torch, timm


def import_from(folder: Path, module: str) -> ModuleType:
    """A module of a clone, which keeps its own ways to import what lies beside it.

    Raises:
        FileNotFoundError: It is not in that folder.
    """
    if not any((folder / name).exists() for name in (f"{module}.py", f"{module}/__init__.py")):
        raise FileNotFoundError(f"{folder} has no module {module!r}; give the top folder of a clone.")
    sys.path.insert(0, str(folder))
    return importlib.import_module(module)


def values(meta: dict) -> dict[str, np.ndarray]:
    """The reference's state, in its own names and layout, from the meta data of a golden file.

    Args:
        meta: `state`, name and shape of each entry; `format`, whose rule is not always `fill`'s own; and `scaled`,
            factors on the entries that have a part in their name.
    """
    made = {name: _value(name, tuple(shape), meta) for name, shape in meta["state"].items()}
    for part, factor in meta.get("scaled", {}).items():
        made.update({name: value * np.float32(factor) for name, value in made.items() if part in name})
    return made


def _value(name: str, shape: tuple[int, ...], meta: dict) -> np.ndarray:
    kind = meta.get("format")
    if kind == "pdparams-paddlevit" and len(shape) == 2 and name.endswith(".weight"):
        return fill(name, shape[::-1]).T
    if kind != "npz-jax":
        return fill(name, shape)
    noise = fill(name, shape) / np.float32(0.2)
    if name.endswith("/scale"):
        return 1 + np.float32(0.1) * noise
    if name.startswith(("embedding", "cls")) or "pos_embedding" in name:
        return np.float32(0.02) * noise
    if name.endswith("/kernel"):
        hidden = "Transformer/encoderblock_0/MlpBlock_3/Dense_0/bias"
        fan = meta["state"][hidden if "Dense_1" in name else "cls"][-1]
        return (1.5 / np.sqrt(fan) * noise).astype(np.float32)
    return np.float32(0.2) * noise


def fill_torch(model, meta: dict, left_out: Collection[str] = ()) -> dict:
    """Give a torch model its golden values.

    Args:
        model: Put into evaluation mode.
        meta: What the golden file says of it so far.
        left_out: Last words of the names of entries that stay as the model made them.

    Returns:
        The meta data, with the number of parameters and with name and shape of all floating-point entries.
    """
    import torch

    entries = {key: value for key, value in model.state_dict().items() if value.is_floating_point()}
    state = {key: list(value.shape) for key, value in entries.items() if key.rsplit(".", 1)[-1] not in left_out}
    meta = {**meta, "params": sum(parameter.numel() for parameter in model.parameters()), "state": state}
    with torch.no_grad():
        for key, value in values(meta).items():
            entries[key].copy_(torch.from_numpy(np.ascontiguousarray(value)))
    model.eval()
    return meta


def trainable(model) -> int:
    """How many parameters of a torch model are not frozen."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def pictures(meta: dict):
    """The input of a golden file as a tensor of torch."""
    import torch

    return torch.from_numpy(image(tuple(meta["input"])))


def write(path: Path, meta: dict, **arrays: np.ndarray) -> Path:
    """Write a golden file: the arrays, and the meta data as a JSON string."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, meta=json.dumps(meta), **arrays)
    print(path)
    return path
