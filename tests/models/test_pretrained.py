"""`create_model(pretrained=...)`: the weights, their number of classes and their preprocessing arrive together."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit import create_model
from paddlevit.weights import save_weights

NAME, TOY = "vit_tiny_patch16_224", dict(image_size=32, depth=2)


@pytest.fixture
def file(tmp_path):
    """A network of 7 classes in timm's names."""
    network = create_model(NAME, num_classes=7, **TOY)
    for parameter in network.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    save_weights(network, tmp_path / "model.safetensors", to="timm")
    network.eval()
    return tmp_path / "model.safetensors", network


def test_a_file_gives_weights_and_number_of_classes(file):
    path, network = file
    loaded = create_model(NAME, pretrained=path, **TOY)
    loaded.eval()
    x = paddle.randn([2, 3, 32, 32])
    assert loaded.num_classes == 7
    np.testing.assert_allclose(loaded(x).numpy(), network(x).numpy(), atol=1e-6)
    assert "timm" in str(loaded.load_report)


def test_other_classes_start_afresh_and_say_so(file):
    loaded = create_model(NAME, num_classes=3, pretrained=str(file[0]), **TOY)
    assert loaded.classifier.weight.shape == [192, 3]
    assert "classifier" in str(loaded.load_report)


def test_no_such_weights(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        create_model(NAME, pretrained=tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match="augreg"):
        create_model(NAME, pretrained="augreg_in1")
