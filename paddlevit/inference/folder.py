"""The folder of an export: what stands in it, how it is written whole, and how it is read with care.

No Paddle here: an export also runs on engines that need none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import yaml

from paddlevit.preprocessing import Preprocessing

INFO_FILE = "inference.yml"
FORMAT = "paddlevit-export-1"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, a thousand names take 3 ms, not 25


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of the exported graph."""

    name: str
    """How the graph calls it."""
    shape: tuple[Optional[int], ...]
    """Its shape; None where any size fits."""
    dtype: str = "float32"
    """float32, or uint8 for pictures as they are."""


@dataclass(frozen=True)
class ExportInfo:
    """What `inference.yml` says: all that a program needs to run the export."""

    model_name: str
    """One of paddlevit.list_models()."""
    model_options: dict[str, Any]
    """Keywords that made the model differ from its name's own."""
    class_names: list[str]
    """Names of the outputs; empty when the outputs are features."""
    preprocessing: Preprocessing
    """What is done to a picture before the graph, or in it when its input is uint8."""
    input: TensorInfo
    """The one input."""
    outputs: dict[str, TensorInfo]
    """Outputs by what they mean: logits or probabilities, and if wanted features and attention."""
    files: dict[str, int]
    """Size in bytes of every file of the export."""
    task: str = "classes"
    """What the outputs are: classes (one a picture), multi_label (each by itself) or regression (numbers)."""
    precision: str = "fp32"
    """What it is meant to be computed in: fp32, bf16, fp16 or int8."""
    size_multiple: Optional[tuple[int, int]] = None
    """What height and width must be multiples of, where any size fits."""
    parity: dict[str, Any] = field(default_factory=dict)
    """How far it is from the network in Python, and how that was measured: see `ExportReport`."""
    versions: dict[str, str] = field(default_factory=dict)
    """What made the export."""

    @property
    def predicts(self) -> bool:
        """Whether there is anything to predict: numbers, labels, or two classes and more."""
        return len(self.class_names) > (self.task == "classes")


def is_export(path: str | Path) -> bool:
    """Whether `path` is the folder of an export."""
    return (Path(path) / INFO_FILE).is_file()


def file_sizes(folder: Path) -> dict[str, int]:
    """Size of every file in an export's folder but `inference.yml`."""
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name != INFO_FILE}


def write_info(folder: Path, info: ExportInfo) -> None:
    """Write `inference.yml`."""
    plain = {
        "format": FORMAT,
        "model_name": info.model_name,
        "model_options": _plain(info.model_options),
        "preprocessing": info.preprocessing.to_dict(),
        "input": _plain(dataclasses.asdict(info.input)),
        "task": info.task,
        "outputs": {name: _plain(dataclasses.asdict(tensor)) for name, tensor in info.outputs.items()},
        "precision": info.precision,
        "size_multiple": _plain(info.size_multiple),
        "parity": _plain(info.parity),
        "versions": info.versions,
        "files": info.files,
        "class_names": list(info.class_names),
    }
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None)
    (folder / INFO_FILE).write_text(text, encoding="utf-8")


def read_info(folder: str | Path) -> ExportInfo:
    """Read `inference.yml` and see that the export is complete.

    Paddle itself runs a graph whose weights are missing, and answers NaN.

    Raises:
        ValueError: No export, one of another format, or a file that is missing or not as long as it was.
    """
    folder = Path(folder)
    path = folder / INFO_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not an export: it has no {INFO_FILE}. tools/export.py makes one.")
    try:
        plain = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}. Export again.") from error
    if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is not of the format {FORMAT}. Export again with this version of paddlevit.")
    for name, size in plain["files"].items():
        there = (folder / name).stat().st_size if (folder / name).is_file() else None
        if there != size:
            state = "is missing" if there is None else f"has {there} bytes, not {size}"
            raise ValueError(f"{folder / name} {state}. Copy the whole folder again, or export again.")
    multiple = plain.pop("size_multiple")
    return ExportInfo(
        input=_tensor(plain.pop("input")),
        size_multiple=None if multiple is None else tuple(multiple),
        outputs={name: _tensor(tensor) for name, tensor in plain.pop("outputs").items()},
        preprocessing=Preprocessing.from_dict(plain.pop("preprocessing")),
        **plain,
    )


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML can write."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _tensor(plain: dict[str, Any]) -> TensorInfo:
    return TensorInfo(plain["name"], tuple(plain["shape"]), plain["dtype"])


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder that takes the final name when the block ends without an error, and vanishes otherwise.

    Args:
        folder: The final name; an earlier export there is replaced.

    Yields:
        The temporary folder, beside the final one.

    Raises:
        ValueError: The final name is taken by something that is not an export.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not is_export(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an earlier export; give the name of a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    """The process's mask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
