from __future__ import annotations

import os

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevit.inference import Predictor, export_model, read_info
from paddlevit.inference import export as export_module
from paddlevit.inference.engines import PaddleEngine
from paddlevit.inference.export import eval_mode
from paddlevit.inference.parity import compare
from tests.golden.fill import image
from tests.inference.conftest import CLASS_NAMES, build, relative


def eager(network, batch: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        return network(paddle.to_tensor(batch)).numpy()


@pytest.mark.parametrize("batch", [1, 3, 17, 2])
def test_export_answers_as_the_network_at_any_batch(toy, exported, batch) -> None:
    pictures = image((batch, 3, 32, 32))
    expected = eager(toy, pictures)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(Predictor(exported).logits(pictures), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"pool": "average"},
        {"position": "sinusoidal", "position_merge": "concat"},
        {"position": "none", "qkv_bias": False},
        {"norm": "batch", "norm_order": "post"},
        {"norm": "batch"},
        {"in_channels": 1, "qk_scale": 0.3},
        {"image_size": (32, 48), "patch_size": (8, 16)},
        {"use_checkpoint": True, "drop_path": 0.2},
        {"num_classes": 1},
        {"num_classes": 0},
    ],
    ids=str,
)
def test_every_option_exports(tmp_path, options) -> None:
    network = build("vit", **options)
    report = export_model(network, tmp_path / "out")
    assert report.relative_difference <= 1e-5
    pictures = image((2, network.preprocessing.channels, *network.preprocessing.image_size))
    assert relative(Predictor(tmp_path / "out").logits(pictures), eager(network, pictures)) < 1e-5


def test_the_folder_says_all_there_is_to_know(toy, exported) -> None:
    info = read_info(exported)
    assert info.model_name == "vit_tiny_patch16_224"
    assert info.model_options == {**toy.model_options, "image_size": [32, 32]}
    assert info.class_names == CLASS_NAMES
    assert info.preprocessing == toy.preprocessing
    assert info.input.shape == (None, 3, 32, 32)
    assert info.outputs["logits"].shape == (None, 5)
    assert info.parity["inputs"] == [[1, 3, 32, 32], [3, 3, 32, 32]]
    assert info.versions["paddle"] == paddle.__version__
    graph = "model.json" if paddle.__version__.startswith("3") else "model.pdmodel"
    assert {graph, "model.pdiparams"} <= set(info.files)
    assert sorted(os.listdir(exported)) == sorted([*info.files, "inference.yml"])


def test_class_names_can_be_given(tmp_path) -> None:
    export_model(build("vit"), tmp_path / "out", class_names=list("vwxyz"))
    assert read_info(tmp_path / "out").class_names == list("vwxyz")
    export_model(build("vit"), tmp_path / "out")
    assert read_info(tmp_path / "out").class_names == ["0", "1", "2", "3", "4"]
    with pytest.raises(ValueError, match="There are 2 class names for 5 outputs"):
        export_model(build("vit"), tmp_path / "out", class_names=["a", "b"])


def test_training_mode_is_not_baked_in(tmp_path) -> None:
    network = build("vit", dropout=0.5, attention_dropout=0.5, drop_path=0.9)
    pictures = image((4, 3, 32, 32))
    expected = eager(network, pictures)
    network.train()
    export_model(network, tmp_path / "out")
    np.testing.assert_allclose(Predictor(tmp_path / "out").logits(pictures), expected, rtol=0, atol=1e-5)


def test_every_layer_gets_its_mode_back() -> None:
    network = build("vit", norm="batch")
    network.train()
    network.encoder.layers[0].attn_norm.eval()  # as someone freezes one normalisation
    with pytest.raises(KeyError), eval_mode(network):  # noqa: PT012 (the block is what is interrupted)
        assert not any(layer.training for layer in network.sublayers(include_self=True))
        raise KeyError
    frozen = [name for name, layer in network.named_sublayers(include_self=True) if not layer.training]
    assert frozen == ["encoder.layers.0.attn_norm"]


def test_an_export_that_differs_is_refused_and_leaves_nothing(toy, tmp_path, monkeypatch) -> None:
    run = PaddleEngine.run
    monkeypatch.setattr(PaddleEngine, "run", lambda self, batch: [run(self, batch)[0] + 1e-3])
    with pytest.raises(ValueError, match=r"differs from the network by 1\.00e-03"):
        export_model(toy, tmp_path / "out")
    monkeypatch.setattr(PaddleEngine, "run", lambda self, batch: [run(self, batch)[0] * np.nan])
    with pytest.raises(ValueError, match="differs from the network by nan"):
        export_model(toy, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_the_difference_is_measured_against_the_scale_of_the_logits() -> None:
    logits = np.array([[1000.0, 0.0]], np.float32)
    report = compare("out", [logits], [[logits]], {"paddle": [[logits + np.float32(5e-3)]]})
    assert report.largest_difference == pytest.approx(5e-3, rel=1e-2)
    assert report.relative_difference == pytest.approx(5e-6, rel=1e-2)
    with pytest.raises(ValueError, match="which is 2.00e-05 of the largest value"):
        compare("out", [logits], [[logits / 1000]], {"paddle": [[logits / 1000 + 2e-5]]})


def test_only_our_networks_can_be_exported(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"Linear has no model_name; build it with paddlevit\.create_model"):
        export_model(nn.Linear(2, 2), tmp_path / "out")


def test_an_earlier_export_is_replaced_and_other_folders_are_not(toy, exported, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "out"
    export_model(build("vit", num_classes=3), folder)
    export_model(toy, folder)
    assert read_info(folder).class_names == CLASS_NAMES
    assert os.listdir(tmp_path) == ["out"]

    other = tmp_path / "run"
    other.mkdir()
    (other / "best.safetensors").write_text("precious")
    with pytest.raises(ValueError, match="exists and is not an earlier export"):
        export_model(toy, other)
    assert os.listdir(other) == ["best.safetensors"]

    monkeypatch.setattr(export_module, "write_info", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_model(build("vit", num_classes=3), folder)
    assert read_info(folder).class_names == CLASS_NAMES
    assert sorted(os.listdir(tmp_path)) == ["out", "run"]
