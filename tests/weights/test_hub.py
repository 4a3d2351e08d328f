"""The way from a name to weights, with the real hub client against a server on this machine laid out like timm's."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from paddlevit.models import MODELS, create_model
from paddlevit.preprocessing import HALF_MEAN, HALF_STD, IMAGENET_MEAN, IMAGENET_STD
from paddlevit.weights import find_pretrained, hub
from paddlevit.weights.catalog import PUBLISHED, find_published
from paddlevit.weights.checkpoint import Checkpoint, write_checkpoint
from tests.golden.fill import fill
from tests.golden.making import values as golden_state
from tests.weights.files import GOLDEN, golden, write
from tests.weights.test_golden_files import logits

pytest.importorskip("huggingface_hub")
REPOSITORY = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"


@dataclass
class Hub:
    """A hub of one repository, and how it misbehaves."""

    content: bytes = b""
    sha256: str = ""
    sends: str = "all"
    requests: list[str] = field(default_factory=list)

    def serve(self, content: bytes) -> None:
        self.content, self.sha256 = content, hashlib.sha256(content).hexdigest()


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A hub on 127.0.0.1 that HF_ENDPOINT points to, with an empty cache."""
    state = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(b"")

        def do_GET(self):
            self.answer(state.content)

        def answer(self, content: bytes) -> None:
            state.requests.append(f"{self.command} {self.path}")
            if self.path != f"/{REPOSITORY}/resolve/main/model.safetensors":
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", "a" * 40)
            for name in ("ETag", "X-Linked-Etag"):
                self.send_header(name, f'"{state.sha256}"')
            for name in ("Content-Length", "X-Linked-Size"):
                self.send_header(name, str(len(state.content)))
            self.end_headers()
            if state.sends == "half" and content:
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            elif state.sends == "rubbish" and content:
                self.wfile.write(bytes(len(content)))
            else:
                self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield state
    server.shutdown()
    server.server_close()


def files(folder: Path) -> list[Path]:
    """What the cache holds of the weights, links apart."""
    return [path for path in folder.rglob("*") if path.is_file() and "blobs" in path.parts]


def test_a_name_becomes_a_model_with_the_published_answers(served, tmp_path):
    """Downloaded, verified, converted, with the licence in the report; the second time without a download."""
    meta, expected = golden("vit_tiny_patch16_224")
    served.serve(write(tmp_path / "model.safetensors", golden_state(meta)).read_bytes())
    for _ in range(2):
        model = create_model("vit_tiny_patch16_224", pretrained=True, cache_dir=tmp_path / "cache")
        assert model.load_report.notes == ["licence of the weights: apache-2.0"]
        assert len(model.load_report.loaded) == 152
        assert model.preprocessing == MODELS["vit_tiny_patch16_224"].preprocessing
    assert len([request for request in served.requests if request.startswith(f"GET /{REPOSITORY}")]) == 1
    ours = logits(model, meta)
    assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)

    sizes = dict(num_classes=3, image_size=64)
    small = create_model("vit_tiny_patch16_224", pretrained=True, cache_dir=tmp_path / "cache", **sizes)
    assert set(small.load_report.missing) == {"classifier.weight", "classifier.bias"}
    assert "14 x 14 positions resized to 4 x 4" in str(small.load_report)


def test_the_cache_serves_without_a_network(served, tmp_path, monkeypatch):
    served.serve(b"weights")
    first = hub.download(REPOSITORY, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    served.requests.clear()
    assert hub.download(REPOSITORY, tmp_path) == first
    assert first.read_bytes() == b"weights"
    assert served.requests == []
    with pytest.raises(ValueError, match=r"is not in the cache and HF_HUB_OFFLINE is set\. Set HF_ENDPOINT"):
        hub.download(REPOSITORY, tmp_path / "empty")


def test_hf_home_moves_the_cache(served, tmp_path, monkeypatch):
    import huggingface_hub.constants

    served.serve(b"weights")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "home"))
    assert (tmp_path / "home") in hub.download(REPOSITORY).parents


def test_a_wrong_hash_is_refused_and_forgotten(served, tmp_path):
    served.serve(b"weights")
    served.sends = "rubbish"
    with pytest.raises(
        ValueError, match=r"model\.safetensors does not have the SHA-256 that the hub states; it was rem"
    ):
        hub.download(REPOSITORY, tmp_path)
    assert files(tmp_path) == []
    served.sends = "all"
    assert hub.download(REPOSITORY, tmp_path).read_bytes() == b"weights"


def test_a_cached_file_that_was_changed_is_noticed(served, tmp_path):
    served.serve(b"weights")
    hub.download(REPOSITORY, tmp_path).resolve().write_bytes(b"changed")
    with pytest.raises(ValueError, match="does not have the SHA-256"):
        hub.download(REPOSITORY, tmp_path)
    assert hub.download(REPOSITORY, tmp_path).read_bytes() == b"weights"


def test_a_cut_connection_leaves_nothing_that_is_taken_for_whole(served, tmp_path, monkeypatch):
    import time

    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client waits between its attempts
    served.serve(fill("large", (1000, 100)).tobytes())
    served.sends = "half"
    with pytest.raises(ValueError, match=rf"{re.escape(REPOSITORY)} could not be downloaded \(.*\); try again"):
        hub.download(REPOSITORY, tmp_path)
    assert not any(path.name == served.sha256 for path in files(tmp_path))
    served.sends = "all"
    assert hub.download(REPOSITORY, tmp_path).read_bytes() == served.content


def test_a_repository_that_is_not_there(served, tmp_path):
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:\d+ has no timm/none/model\.safetensors, or it needs a"):
        hub.download("timm/none", tmp_path)


def test_without_the_client(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'needs huggingface_hub: pip install "paddlevit\[hub\]"'):
        hub.download(REPOSITORY)


# Names, tags and files


def test_tags_and_misspelt_tags(served):
    preprocessing = MODELS["vit_base_patch16_224"].preprocessing
    match = r"vit_base_patch16_224 has no weights 'augreg_in1kk'\. Did you mean \"augreg_in1k\".* Its tags are augreg2_"
    with pytest.raises(ValueError, match=match):
        find_pretrained("vit_base_patch16_224", "augreg_in1kk", preprocessing)
    match = r"has no timm/vit_base_patch16_224\.dino/model"
    with pytest.raises(ValueError, match=match):  # the tag exists, this hub does not have it
        find_pretrained("vit_base_patch16_224", "dino", preprocessing)
    with pytest.raises(ValueError, match="No published weights of t2t_vit_7 are known; pretrained may be the path"):
        find_pretrained("t2t_vit_7", True, preprocessing)
    with pytest.raises(ValueError, match=r"There is no weight file 'my\.pth'"):
        find_pretrained("t2t_vit_7", "my.pth", preprocessing)
    with pytest.raises(ValueError, match="pretrained is 1; it must be True, a tag such as 'augreg_in1k', or a path"):
        create_model("t2t_vit_7", pretrained=1)


def test_published_settings_follow_the_weights(served, tmp_path, monkeypatch):
    """DINO's pictures were prepared otherwise than those of the model's own name, and it has no classifier."""
    monkeypatch.setattr(hub, "download", lambda repository, _: Path(repository))
    preprocessing = MODELS["vit_base_patch16_224"].preprocessing
    weights = find_pretrained("vit_base_patch16_224", "dino", preprocessing)
    assert weights.file == Path("timm/vit_base_patch16_224.dino")
    assert (weights.preprocessing.mean, weights.preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert weights.preprocessing != preprocessing
    assert weights.num_classes == 0
    assert weights.allow_unused == ()
    siglip = find_pretrained("vit_base_patch16_siglip_gap_224", True, preprocessing)
    assert siglip.allow_unused == ("attn_pool.*",)
    quick = find_pretrained("vit_base_patch16_clip_quickgelu_224", "openai", preprocessing)
    assert quick.file == Path("timm/vit_base_patch16_clip_224.openai")


def test_weights_of_another_size(served, monkeypatch):
    """A fine-tuning at 384 starts from weights of 224: their mean and std, the crop of the model itself."""
    monkeypatch.setattr(hub, "download", lambda repository, _: Path(repository))
    own = MODELS["deit_base_patch16_384"].preprocessing
    weights = find_pretrained("deit_base_patch16_384", "vit_base_patch16_224.augreg_in21k", own)
    assert weights.file == Path("timm/vit_base_patch16_224.augreg_in21k")
    assert weights.preprocessing == dataclasses.replace(own, mean=HALF_MEAN, std=HALF_STD) != own
    match = r"No published weights of vit_base_patch61_224 are known.*Did you mean \"vit_base_patch16_224\""
    with pytest.raises(ValueError, match=match):
        find_pretrained("vit_base_patch16_384", "vit_base_patch61_224.augreg_in21k", own)


def test_a_local_file_and_what_it_says_of_itself(tmp_path):
    spec = MODELS["vit_tiny_patch16_224"]
    state = {"head.weight": fill("head", [7, 192]), "head.bias": fill("bias", [7]), "cls_token": fill("c", [1, 1, 192])}
    file = write(tmp_path / "model.safetensors", state)
    for given in (file, str(file), tmp_path):
        weights = find_pretrained("vit_tiny_patch16_224", given, spec.preprocessing)
        assert (weights.num_classes, weights.preprocessing) == (7, spec.preprocessing)
        assert weights.licence is None
    stated = {**spec.preprocessing.to_dict(), "crop_pct": 0.5}
    ours = {"classifier.weight": fill("head", [192, 4]), "classifier.bias": fill("bias", [4])}
    write_checkpoint(tmp_path / "last.safetensors", Checkpoint(ours, {"preprocessing": stated}))
    weights = find_pretrained("vit_tiny_patch16_224", tmp_path / "last.safetensors", spec.preprocessing)
    assert weights.num_classes == 4
    assert weights.preprocessing.crop_pct == 0.5


# The table


def test_every_row_belongs_to_a_model_and_none_is_twice():
    rows = [(row.model, row.tag) for row in PUBLISHED]
    assert len(set(rows)) == len(rows) > 200
    assert {model for model, _ in rows} <= set(MODELS)
    for row in PUBLISHED:
        assert re.fullmatch(r"timm/[a-z0-9_]+\.[a-z0-9_]+", row.repository), row


def test_the_default_of_a_name_is_what_its_preprocessing_says():
    """The first row of a model has the same data settings as `create_model` without weights."""
    for model in {row.model for row in PUBLISHED} - {"vit_huge_patch14_clip_378"}:  # timm's default has another GELU
        row, spec = find_published(model), MODELS[model]
        assert (row.crop_pct, row.crop_mode) == (spec.preprocessing.crop_pct, spec.preprocessing.crop_mode), model
        assert row.statistics == (spec.preprocessing.mean, spec.preprocessing.std), model
        assert row.num_classes in (0, spec.options.get("num_classes", 1000)), model  # 0: only a backbone is published


def test_tags_are_timms():
    """`timm_models.tsv` lists each model's best tag on ImageNet."""
    known = {(row.model, row.tag) for row in PUBLISHED}
    lines = (GOLDEN / "timm_models.tsv").read_text().splitlines()
    best = [dict(zip(lines[0].split("\t"), line.split("\t"))) for line in lines[1:]]
    named = [
        (row["model"], row["best_tag"]) for row in best if row["best_tag"] and row["model"] in {m for m, _ in known}
    ]
    assert len(named) > 50
    assert not [pair for pair in named if pair not in known]
