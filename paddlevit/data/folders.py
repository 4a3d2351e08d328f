"""Pictures in class folders, and ImageNet as it is unpacked by class, by Kaggle or with ILSVRC's development kit."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Optional

import numpy as np

from paddlevit.config import ConfigError, DataConfig
from paddlevit.data.devkit import find_truth, read_truth
from paddlevit.data.finding import walk
from paddlevit.data.splits import WORDNET_ID, Part, data_root, missing, read_class_names, split_off, unique_words

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")
FOLDER_LAYOUT = (
    "ROOT/train/CLASS/picture.jpg and ROOT/val/CLASS/picture.jpg, or ROOT/CLASS/picture.jpg to split off val"
)
IMAGENET_LAYOUT = (
    "ROOT/train/n01440764/*.JPEG and ROOT/val/n01440764/*.JPEG, or ROOT/val/*.JPEG with ILSVRC's development kit, or "
    "Kaggle's ROOT/ILSVRC/Data/CLS-LOC and ROOT/LOC_val_solution.csv"
)
KAGGLE = Path("ILSVRC") / "Data" / "CLS-LOC"
KIT_FOLDERS = ("ILSVRC2012_img_train", "ILSVRC2012_img_val")
VAL_LISTS = ("LOC_val_solution.csv", "val_list.txt", "val.txt", "val_map.txt")
WORD_LISTS = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")
IMAGENET_WORDS = Path(__file__).with_name("imagenet_classes.txt")

Parts = tuple[Path, Part, Part, list[str]]


def read_folder(data: DataConfig, config_path: str) -> Parts:
    """Class folders.

    Args:
        data: The section of the configuration.
        config_path: For the message when nothing is there.

    Returns:
        The root, the training and evaluation parts below it, and the names of the classes.

    Raises:
        ConfigError: No such folder, no pictures, or a class that only the evaluation part has.
    """
    root = data_root(data)
    if not root.is_dir() or not any(root.iterdir()):
        raise missing(root, FOLDER_LAYOUT, config_path)
    train_folder = _part_folder(root, data.train, "train", TRAIN_NAMES) or root
    if data.train is None and train_folder != root and _is_class(train_folder):
        train_folder = root
    val_folder = _part_folder(root, data.val, "val", VAL_NAMES if train_folder != root else ())
    stated = read_class_names(data)
    keys = stated[0] if stated else _class_folders(train_folder)
    if not keys:
        raise missing(train_folder, FOLDER_LAYOUT, config_path)
    train = _scan(root, train_folder, keys, complete=stated is None)
    if val_folder is not None:
        val = _scan(root, val_folder, keys, complete=False)
        if not val.names:
            raise missing(val_folder, FOLDER_LAYOUT, config_path)
    else:
        train, val = split_off(train, data.val_fraction, data.split_seed)
    return root, train, val, stated[1] if stated else keys


def read_imagenet(data: DataConfig, config_path: str) -> Parts:
    """ImageNet's class folders, with the evaluation part by class or flat with a list of its labels or the kit.

    Arguments, result and errors as of `read_folder`.
    """
    root = data_root(data)
    base = root / KAGGLE if (root / KAGGLE).is_dir() else root
    train_folder = base / (data.train or "train")
    val_folder = base / (data.val or "val")
    if (root / KIT_FOLDERS[0]).is_dir() and data.train is None and data.val is None:
        train_folder, val_folder = (root / name for name in KIT_FOLDERS)
    for folder in (root, train_folder, val_folder):
        if not folder.is_dir():
            raise missing(folder, IMAGENET_LAYOUT, config_path)
    stated = read_class_names(data)
    keys = stated[0] if stated else _class_folders(train_folder)
    if not keys:
        raise missing(train_folder, IMAGENET_LAYOUT, config_path)
    names = stated[1] if stated else unique_words(keys, _words(root))
    train = _scan(root, train_folder, keys, complete=stated is None)
    if _class_folders(val_folder):
        return root, train, _scan(root, val_folder, keys, complete=False), names
    return root, train, _flat_val(root, val_folder, keys, config_path), names


def _part_folder(root: Path, stated: Optional[str], key: str, usual: tuple[str, ...]) -> Optional[Path]:
    if stated is not None:
        if not (root / stated).is_dir():
            raise ConfigError(f"data.{key} is {stated!r}; there is no such folder in {root.absolute()}.")
        return root / stated
    return next((root / name for name in usual if (root / name).is_dir()), None)


def _is_class(folder: Path) -> bool:
    """Whether a folder called train is one of several classes: it has none within, and others lie beside it."""
    others = set(_class_folders(folder.parent)) - {*TRAIN_NAMES, *VAL_NAMES}
    return not _class_folders(folder) and any(next(walk(folder.parent / name), None) for name in sorted(others))


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _scan(root: Path, folder: Path, keys: list[str], complete: bool) -> Part:
    """Files below each class folder; `complete` refuses classes without any."""
    unknown = sorted(set(_class_folders(folder)) - set(keys))
    if unknown:
        raise ConfigError(
            f"{folder} has the class {unknown[0]!r}, which is not among the {len(keys)} classes to learn."
        )
    names: list[str] = []
    labels: list[int] = []
    for label, key in enumerate(keys):
        before = len(names)
        if (folder / key).is_dir():
            start, below = os.fspath(folder / key), os.path.relpath(folder / key, root)
            names += [below + path[len(start) :] for path in walk(start)]
        if complete and len(names) == before:
            raise ConfigError(
                f"{folder / key} has no pictures; fill it, remove it, or list the classes in data.classes."
            )
        labels += [label] * (len(names) - before)
    return Part(names, np.array(labels, np.int64))


def _words(root: Path) -> dict[str, str]:
    """WordNet id -> words, from a list beside the pictures, or from the package for ImageNet-1k."""
    lists = [root / name for name in WORD_LISTS if (root / name).is_file()]
    lines = (lists[0] if lists else IMAGENET_WORDS).read_text("utf-8-sig").splitlines()
    return dict(line.split(maxsplit=1) for line in lines if WORDNET_ID.match(line) and len(line.split()) > 1)


def _flat_val(root: Path, folder: Path, keys: list[str], config_path: str) -> Part:
    places = [place / name for name in VAL_LISTS for place in (root, folder, folder.parent)]
    lists = [path for path in places if path.is_file()]
    if not lists:
        truth = find_truth((root, folder, folder.parent))
        if truth is not None:
            return read_truth(root, folder, truth, keys)
        raise missing(folder, f"{IMAGENET_LAYOUT} ({' or '.join(VAL_LISTS)} for a folder without classes)", config_path)
    index = {key: label for label, key in enumerate(keys)}
    files = {Path(path).stem: os.path.relpath(path, root) for path in walk(folder)}
    names, labels = [], []
    with open(lists[0], encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            fields = re.split(r"[\s,]+", " ".join(row).strip())
            if fields[0] in ("", "ImageId"):
                continue
            label = index.get(fields[1], int(fields[1]) if fields[1].isdecimal() else -1) if len(fields) > 1 else -1
            if Path(fields[0]).stem not in files or not 0 <= label < len(keys):
                raise ConfigError(
                    f"{lists[0]} line {number}: {' '.join(fields[:2])!r} is not a picture and class here."
                )
            names.append(files[Path(fields[0]).stem])
            labels.append(label)
    return Part(names, np.array(labels, np.int64))
