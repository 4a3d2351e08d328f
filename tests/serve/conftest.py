"""Two exports of a small network, with an attention map and without, and a predictor of each."""

from __future__ import annotations

import numpy as np
import pytest

from paddlevit.inference import Predictor, export_model
from tests.data.pictures import encoded, picture
from tests.inference.conftest import build

NAMES = ["ant", "bee", "cat", "dog", "<i>elk</i>"]


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    """An export that gives an attention map."""
    folder = tmp_path_factory.mktemp("serve") / "with attention"
    export_model(build("vit"), folder, class_names=NAMES, attention=True)
    return folder


@pytest.fixture(scope="session")
def plain_export(tmp_path_factory):
    """An export that does not."""
    folder = tmp_path_factory.mktemp("serve") / "plain"
    export_model(build("vit"), folder, class_names=NAMES)
    return folder


@pytest.fixture(scope="session")
def predictor(export):
    return Predictor(export, threads=1, engine="paddle")


@pytest.fixture(scope="session")
def plain_predictor(plain_export):
    return Predictor(plain_export, threads=1, engine="paddle")


@pytest.fixture(scope="session")
def files() -> list[bytes]:
    """Pictures of different sizes and kinds, with different answers."""
    kinds = ["PNG", "JPEG", "BMP", "WEBP"]
    return [encoded(picture(20 + seed, 44 - seed, seed), kinds[seed % 4]) for seed in range(12)]


def check_answer(answer: dict, expected, topk: int = 5) -> None:
    """Fail unless a picture's JSON says what a Prediction says."""
    classes = answer["classes"]
    assert [item["index"] for item in classes] == list(expected.classes[:topk])
    assert [item["name"] for item in classes] == list(expected.names[:topk])
    given = [item["probability"] for item in classes]
    np.testing.assert_allclose(given, expected.probabilities[:topk], rtol=0, atol=1e-5)
