"""Pictures inside tar files, read in place: shards as WebDataset writes them, or class folders packed into an archive.

The members are listed once and remembered beside the shards; a picture is then one seek and one read, so that every
sample has a number, an order that depends on the seed alone, and nothing is unpacked.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import posixpath
import secrets
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from paddlevit.config import ConfigError, DataConfig
from paddlevit.data.images import EXTENSIONS, MAX_PIXELS, Picture, load_image
from paddlevit.data.splits import data_root, missing, read_class_names

TAR_LAYOUT = (
    "tar files ROOT/train*.tar and ROOT/val*.tar that hold KEY.jpg beside KEY.cls (or .json with a label), or "
    "CLASS/picture.jpg"
)
LABEL_LIMIT = 1 << 16
RANKS = {".txt": 1, ".json": 2, ".cls": 3}
"""Of several labels beside a picture the highest rank counts; 0 is the folder's name."""
MEANT = RANKS[".json"]
"""From this rank on a label is nothing else; a text may also be a caption, and a folder any folder."""
INDEX = 2
"""Another number makes the lists of earlier versions void."""


class Members(NamedTuple):
    """The pictures of one or more tar files."""

    shards: list[str]
    """The files."""
    shard: np.ndarray
    """[n] int32, file of each picture."""
    offset: np.ndarray
    """[n] int64, where its bytes begin."""
    size: np.ndarray
    """[n] int64, how many there are."""
    name: np.ndarray
    """[n] bytes, its name inside the file."""
    label: np.ndarray
    """[n] bytes, the text of its label; empty if it has none."""
    rank: np.ndarray
    """[n] int8, where the label comes from: see RANKS."""


class TarSource:
    """Pictures inside tar files.

    Args:
        members: Where they are.
        labels: See Source.
        class_names: See Source.
        channels: Of the pictures that are handed out.
        max_pixels: Larger pictures are refused.
    """

    def __init__(
        self,
        members: Members,
        labels: np.ndarray,
        class_names: list[str],
        channels: int = 3,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.members, self.labels, self.class_names = members, labels, class_names
        self.channels, self.max_pixels = channels, max_pixels
        self.paths: Sequence[str] = MemberNames(members)
        self.shards = np.bincount(members.shard, minlength=len(members.shards)).tolist()
        """Pictures in each tar file, for an order that reads them in sequence."""

    def image(self, index: int, least_side: Optional[int] = None) -> Picture:
        """Read one picture; ValueError when it cannot be read. For `least_side` see `load_image`."""
        return load_image(self.content(index), self.channels, self.max_pixels, least_side, name=self.paths[index])

    def content(self, index: int) -> bytes:
        """The bytes of a picture's file; ValueError when they cannot be read."""
        try:
            with open(self.members.shards[self.members.shard[index]], "rb") as file:
                file.seek(self.members.offset[index])
                return file.read(self.members.size[index])
        except OSError as error:
            raise ValueError(f"{self.paths[index]} cannot be read: {error.strerror or error}.") from error


class MemberNames(Sequence[str]):
    """`shard.tar/picture.jpg` for each member."""

    def __init__(self, members: Members) -> None:
        self.members = members

    def __len__(self) -> int:
        return len(self.members.shard)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        shard = self.members.shards[self.members.shard[index]]
        return os.path.join(shard, os.fsdecode(bytes(self.members.name[index])))


def read_shards(data: DataConfig, channels: int, config_path: str) -> tuple[TarSource, TarSource]:
    """Tar files.

    Args:
        data: The section of the configuration; data.train and data.val are patterns such as `train-*.tar`.
        channels: Of the pictures that are handed out.
        config_path: For the message when nothing is there.

    Returns:
        Training and evaluation pictures.

    Raises:
        ConfigError: No tar files, a damaged one, or a label that is not understood.
    """
    root = data_root(data)
    patterns = ([data.train or "train*.tar"], [data.val] if data.val else ["val*.tar", "test*.tar"])
    parts = []
    for choices in patterns:
        found = [sorted(glob.glob(os.path.join(glob.escape(str(root)), pattern))) for pattern in choices]
        shards = next((shards for shards in found if shards), [])
        if not shards:
            raise missing(root / choices[0], TAR_LAYOUT, config_path)
        parts.append(_list_members(root, shards))
    _check_labels(parts)
    stated = read_class_names(data)
    keys, names = stated or (None, None)
    if keys is None or names is None:
        keys = names = _classes(np.unique(np.concatenate([part.label for part in parts])))
    index = {key.encode(): label for label, key in enumerate(keys)}
    index.update({str(label).encode(): label for label in range(len(keys)) if str(label).encode() not in index})
    made = []
    for part in parts:
        unknown = sorted(set(np.unique(part.label).tolist()) - set(index))
        if unknown:
            raise ConfigError(
                f"{part.shards[0]} ...: the label {unknown[0].decode()!r} is none of {len(keys)} classes."
            )
        labels = np.array([index[label] for label in part.label.tolist()], np.int64)
        made.append(TarSource(part, labels, names, channels, data.max_pixels))
    return made[0], made[1]


def _check_labels(parts: list[Members]) -> None:
    """ConfigError if some pictures have labels and others only a caption or a folder, which would become a class."""
    least = min(MEANT, max(int(part.rank.max()) for part in parts))
    for part in parts:
        without = np.flatnonzero((part.rank < least) | (part.label == b""))
        if without.size:
            shard, name = part.shards[part.shard[without[0]]], os.fsdecode(bytes(part.name[without[0]]))
            raise ConfigError(
                f"{shard}: {name} has no label ({without.size} of {len(part.name)} pictures have none); expected are "
                f"{TAR_LAYOUT}."
            )


def _classes(texts: np.ndarray) -> list[str]:
    """Whole numbers stand for themselves, words in alphabetical order."""
    labels = [text.decode() for text in texts.tolist()]
    if all(label.isdecimal() for label in labels):
        return [str(number) for number in range(max(int(label) for label in labels) + 1)]
    return sorted(labels)


def _list_members(root: Path, shards: list[str]) -> Members:
    """The pictures of all shards, from the list of an earlier run if the shards have not changed since."""
    state = [INDEX, *([shard, os.path.getsize(shard), os.stat(shard).st_mtime_ns] for shard in shards)]
    key = hashlib.blake2b(json.dumps(state).encode(), digest_size=8).hexdigest()
    remembered = root / f".paddlevit-{key}.npz"
    if remembered.is_file():
        try:
            with np.load(remembered, allow_pickle=False) as file:
                return Members(shards, *(file[name] for name in Members._fields[1:]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # it is made anew
    columns: list[list] = [[], [], [], [], [], []]
    for number, shard in enumerate(shards):
        for row in _list_shard(shard):
            for column, value in zip(columns, (number, *row)):
                column.append(value)
    if not columns[0]:
        raise ConfigError(f"{shards[0]} ... hold no pictures with labels; expected are {TAR_LAYOUT}.")
    kinds = (np.int32, np.int64, np.int64, bytes, bytes, np.int8)
    members = Members(shards, *(np.array(column, kind) for column, kind in zip(columns, kinds)))
    _remember(remembered, members)
    return members


def _list_shard(shard: str) -> list[tuple[int, int, bytes, bytes, int]]:
    """Offset, size, name, label and its rank of each picture of one tar file."""
    pictures: list[tuple[int, int, str]] = []
    texts: list[tuple[int, str, bytes]] = []
    try:
        with tarfile.open(shard, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or tarfile keeps every header in memory
                name = posixpath.normpath(member.name)
                extension = os.path.splitext(name)[1].lower()
                if not member.isfile() or os.path.basename(name).startswith("."):
                    continue
                if extension in EXTENSIONS:
                    pictures.append((member.offset_data, member.size, name))
                elif extension in RANKS and member.size < LABEL_LIMIT:
                    file = archive.extractfile(member)
                    texts.append((RANKS[extension], name, file.read() if file is not None else b""))
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ConfigError(f"{shard} cannot be read: {error}. Only whole, uncompressed tar files serve.") from error
    labels: dict[str, tuple[int, str]] = {}
    for rank, name, content in sorted(texts, key=lambda text: -text[0]):
        stem = os.path.splitext(name)[0]
        label = _label(shard, name, content) if stem not in labels else ""
        if label:
            labels[stem] = rank, label
    listed = []
    for offset, size, name in pictures:
        folder = posixpath.basename(posixpath.dirname(name))
        rank, label = labels.get(os.path.splitext(name)[0], (0, "" if folder == ".." else folder))
        listed.append((offset, size, os.fsencode(name), label.encode(), rank))
    return listed


def _label(shard: str, name: str, content: bytes) -> str:
    """What a file beside a picture says of its class; nothing if it does not."""
    try:
        if not name.lower().endswith(".json"):
            return content.decode("utf-8").strip()
        values = json.loads(content)
    except ValueError as error:
        raise ConfigError(f"{shard}: {name} is not a label: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{shard}: {name} is not a label: it is no object.")
    found = [values[key] for key in ("label", "cls", "class") if values.get(key) is not None]
    return str(found[0]) if found else ""


def _remember(path: Path, members: Members) -> None:
    """Write the list beside the shards; a folder that cannot be written to goes without."""
    temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:  # with the usual mode: others who share the folder read it too
            np.savez(file, **{name: getattr(members, name) for name in Members._fields[1:]})
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
