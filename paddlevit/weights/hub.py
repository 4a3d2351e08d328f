"""Weights to start from, for `create_model(..., pretrained=...)`: published on the Hugging Face hub, or a file."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle import nn

from paddlevit.preprocessing import Preprocessing
from paddlevit.weights.catalog import find_published
from paddlevit.weights.dialects import detect
from paddlevit.weights.load import load_weights
from paddlevit.weights.report import LoadReport
from paddlevit.weights.source import Source, open_source, own_meta

FILE_NAME = "model.safetensors"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUFFIXES = (".safetensors", ".pdparams", ".pth", ".pt", ".bin", ".npz", ".tar")


@dataclass(frozen=True)
class Pretrained:
    """Weights that a model can start from, and what has to be known before the model is built."""

    file: Path
    """The file, downloaded already."""
    num_classes: int | None
    """Outputs of its classifier: the number to build when the user gives none; None when the file does not tell."""
    preprocessing: Preprocessing
    """How its pictures were prepared."""
    licence: str | None
    """As its repository states it; None for a file of the user's."""
    allow_unused: tuple[str, ...] = ()
    """Names that the published file may hold and the model does without."""

    def load(self, model: nn.Layer, allow_missing: Sequence[str] = (), allow_unused: Sequence[str] = ()) -> LoadReport:
        """Put the weights into the model; see `load_weights`."""
        unused = (*self.allow_unused, *allow_unused)
        report = load_weights(model, self.file, allow_missing=allow_missing, allow_unused=unused)
        if self.licence is not None:
            report.notes.append(f"licence of the weights: {self.licence}")
        return report


def find_pretrained(
    name: str,
    pretrained: bool | str | Path,
    preprocessing: Preprocessing,
    cache_dir: str | Path | None = None,
) -> Pretrained:
    """Find, and if need be download, the weights that `create_model(name, pretrained=...)` means.

    Args:
        name: The model's name.
        pretrained: True for the default weights, a tag such as `augreg_in1k`, weights of another model such as
            `vit_base_patch16_224.augreg_in21k` (another size of picture or patch), or a file or folder of the user's.
        preprocessing: That of the model's name; published weights may differ in crop, mean and std, and a checkpoint of
            ours states its own.
        cache_dir: Where downloads are kept; None is the hub client's own folder (HF_HOME).

    Returns:
        The weights, on the disk.

    Raises:
        ValueError: None of these, no such weights or file, no connection, or a download that is not what the hub says.
        ImportError: huggingface_hub is not installed.
    """
    if not isinstance(pretrained, (bool, str, Path)):
        raise ValueError(f"pretrained is {pretrained!r}; it must be True, a tag such as 'augreg_in1k', or a path.")
    if not isinstance(pretrained, bool) and _is_path(pretrained):
        return _from_file(Path(pretrained), preprocessing)
    other, dot, tag = ("" if isinstance(pretrained, bool) else str(pretrained)).rpartition(".")
    published = find_published(other if dot else name, tag or None)
    mean, std = published.statistics
    if published.model == name:
        stated = Preprocessing(preprocessing.image_size, published.crop_pct, published.crop_mode, "bicubic", mean, std)
    else:
        stated = dataclasses.replace(preprocessing, mean=mean, std=std)
    unused = (
        ("attn_pool.*",) if "_siglip_gap_" in name else ()
    )  # SigLIP that averages keeps its trained pooling in the file
    file = download(published.repository, cache_dir)
    return Pretrained(file, published.num_classes, stated, published.licence, unused)


def _is_path(pretrained: str | Path) -> bool:
    path = Path(pretrained)
    return isinstance(pretrained, Path) or path.exists() or len(path.parts) > 1 or path.suffix in _SUFFIXES


def _from_file(path: Path, preprocessing: Preprocessing) -> Pretrained:
    source = open_source(path)
    stated = own_meta(source.metadata).get("preprocessing")
    if isinstance(stated, dict):
        preprocessing = Preprocessing.from_dict(stated)
    return Pretrained(path, _count_classes(source), preprocessing, None)


def _count_classes(source: Source) -> int | None:
    """Outputs of a file's classifier."""
    match = detect(source.arrays)
    if match is None:
        return None
    for name in ("classifier.bias", "head.bias"):
        if name in match.sources:
            return source.arrays[match.sources[name][0]].size
    return None


def download(repository: str, cache_dir: str | Path | None = None) -> Path:
    """The `model.safetensors` of a repository on the hub, from the cache when it is there, with its SHA-256 verified.

    HF_ENDPOINT names a mirror, HF_HUB_OFFLINE forbids the network, HF_HOME moves the cache.

    Args:
        repository: For example `timm/vit_base_patch16_224.augreg2_in21k_ft_in1k`.
        cache_dir: Another folder for the cache.

    Raises:
        ValueError: No such repository, no connection, or contents that are not what the hub says.
        ImportError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise ImportError('Downloading weights needs huggingface_hub: pip install "paddlevit[hub]".') from error
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        file = hf_hub_download(repository, FILE_NAME, cache_dir=cache_dir, endpoint=endpoint, local_files_only=offline)
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if offline else f"{endpoint} cannot be reached"
        raise ValueError(
            f"{repository} is not in the cache and {why}. Set HF_ENDPOINT to a mirror, or give the path of a file."
        ) from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise ValueError(f"{endpoint} has no {repository}/{FILE_NAME}, or it needs a login.") from error
    except Exception as error:  # the client's HTTP library, whose errors have no common base, differs by version
        raise ValueError(f"{repository} could not be downloaded ({_one_line(error)}); try again.") from error
    _verify(Path(file), repository)
    return Path(file)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _verify(file: Path, repository: str) -> None:
    """Compare a downloaded file with the SHA-256 that the hub gives for it, which the cache uses as its name.

    Raises:
        ValueError: They differ; the file is gone from the cache then.
    """
    blob = file.resolve()
    if not _SHA256.fullmatch(blob.name):  # a small file without a hash, or a system without symbolic links
        return
    digest = hashlib.sha256()
    with open(blob, "rb") as content:
        for chunk in iter(lambda: content.read(1 << 20), b""):
            digest.update(chunk)
    if digest.hexdigest() != blob.name:
        file.unlink()
        blob.unlink(missing_ok=True)
        raise ValueError(f"{repository}/{FILE_NAME} does not have the SHA-256 that the hub states; it was removed.")
