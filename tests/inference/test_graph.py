"""What an export gives and takes beside logits and normalised pictures."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

from paddlevit.explain import class_attention
from paddlevit.inference import Predictor, export_model
from paddlevit.inference.export import build_graph
from paddlevit.inference.parity import expected_outputs, smooth_bytes
from paddlevit.inference.predictor import softmax
from tests.golden.fill import image
from tests.inference.conftest import FAMILIES, build, relative, run

OTHERS = ["deit3", "distilled", "dinov2", "clip", "siglip", "swin", "swin v2", "t2t", "t2t, transformer", "explained"]


def picture(size: tuple[int, int] = (40, 56), channels: int = 3) -> Image.Image:
    values = (image((1, channels, *size))[0].transpose(1, 2, 0) * 40 + 128).clip(0, 255).astype(np.uint8)
    return Image.fromarray(values if channels == 3 else values[:, :, 0])


@pytest.mark.parametrize("family", ["vit", "distilled", "swin", "siglip", "t2t"])
def test_features_are_what_is_classified(family, tmp_path) -> None:
    network = build(family)
    export_model(network, tmp_path / "out", features=True)
    pictures = image((2, 3, *network.preprocessing.image_size))
    outputs = Predictor(tmp_path / "out").outputs(pictures)
    assert list(outputs) == ["logits", "features"]
    assert relative(outputs["logits"], run(network, pictures)) < 1e-5
    network.reset_classifier(0)  # which lets the features through
    assert relative(outputs["features"], run(network, pictures)) < 1e-5


@pytest.mark.parametrize("family", ["vit", "distilled"])
def test_a_network_without_classifier_gives_features(family, tmp_path) -> None:
    network = build(family, num_classes=0)
    export_model(network, tmp_path / "out")
    assert (
        relative(Predictor(tmp_path / "out").logits(image((2, 3, 32, 32))), run(network, image((2, 3, 32, 32)))) < 1e-5
    )
    with pytest.raises(ValueError, match="has no classifier, so features come out anyway"):
        export_model(network, tmp_path / "out", features=True)


def test_softmax_gives_probabilities(tmp_path) -> None:
    network = build("vit")
    export_model(network, tmp_path / "out", softmax=True)
    predictor = Predictor(tmp_path / "out")
    expected = softmax(run(network, image((2, 3, 32, 32))))
    np.testing.assert_allclose(predictor.outputs(image((2, 3, 32, 32)))["probabilities"], expected, atol=1e-6)
    export_model(network, tmp_path / "logits")
    ours, theirs = (Predictor(tmp_path / name).predict(picture())[0] for name in ("out", "logits"))
    assert ours.classes == theirs.classes
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
    with pytest.raises(ValueError, match=r"gives probabilities.*; use outputs\(\), or export without softmax"):
        predictor.logits(image((2, 3, 32, 32)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_at_three_batches_with_its_attention(family, tmp_path) -> None:
    network = build(family)
    export_model(network, tmp_path / "out", attention=True)
    predictor = Predictor(tmp_path / "out", threads=1)
    for batch in (1, 3, 17):
        pictures = image((batch, network.preprocessing.channels, *network.preprocessing.image_size))
        outputs = predictor.outputs(pictures)
        assert relative(outputs["logits"], run(network, pictures)) < 1e-5
        theirs = class_attention(network, paddle.to_tensor(pictures)).mean(axis=1)
        assert outputs["attention"].shape == theirs.shape
        np.testing.assert_allclose(outputs["attention"], theirs, atol=1e-5)


def test_predictions_carry_features_and_attention(tmp_path) -> None:
    export_model(build("vit"), tmp_path / "out", features=True, attention=True)
    first, second = Predictor(tmp_path / "out").predict([picture(), picture((60, 40))])
    assert first.features.shape == (32,)
    assert first.attention.shape == (4, 4)
    assert not np.array_equal(first.attention, second.attention)


@pytest.mark.parametrize("family", ["vit", *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS)])
def test_preprocessing_in_the_graph(family, tmp_path) -> None:
    network = build(family)
    export_model(network, tmp_path / "bytes", with_preprocess=True)
    export_model(network, tmp_path / "floats")
    in_graph, outside = Predictor(tmp_path / "bytes"), Predictor(tmp_path / "floats")
    channels = network.preprocessing.channels
    assert in_graph.info.input.shape == (None, None, None, channels)
    sizes = [(40, 56), (40, 56), (33, 81), (61, 61)] + [(32, 32), (47, 29)] * (family != "explained")
    pictures = [picture(size, channels) for size in sizes]
    for ours, theirs in zip(in_graph.predict(pictures), outside.predict(pictures)):
        assert ours.classes == theirs.classes
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
    if channels == 1:
        return
    for size in (1, 3, 17):
        batch = np.stack([np.asarray(picture((35, 41)))] * size)
        expected = run(network, np.stack([outside.preprocess(each) for each in batch]))
        assert relative(in_graph.logits(batch), expected) < 1e-5
    with pytest.raises(ValueError, match=r"takes pictures as bytes \[B, H, W, C\], not float32"):
        in_graph.logits(image((1, 3, 32, 32)))
    with pytest.raises(ValueError, match="takes 8-bit pictures"):
        in_graph.predict(np.zeros((3, 32, 32), np.float32))
    in_graph.warm_up(2)


def test_an_order_of_resizing_that_is_not_pillows_is_no_error(tmp_path) -> None:
    """Pillow 13 resizes the columns of such a picture first, which is worth a level of 256 here and there."""
    network = build("explained")
    graph = build_graph(
        network, dynamic_size=False, with_preprocess=True, features=False, attention=False, softmax=False
    )
    square = smooth_bytes(np.random.default_rng(0), (1, 32, 32, 1))  # for 20 x 40

    def difference() -> float:
        with paddle.no_grad():
            return relative(graph(paddle.to_tensor(square))[0].numpy(), expected_outputs(network, graph, square)[0])

    assert difference() < 1e-5
    graph.picture_input.offset += 0.1  # a mistake is still one
    assert difference() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "format is 'tflite'"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"precision": "int8"}, "'int8' needs format 'onnx', calibration pictures"),
        ({"precision": "fp16"}, "'fp16' needs format 'onnx', or a GPU"),
        ({"dynamic_size": True, "with_preprocess": True}, "dynamic_size and with_preprocess exclude each other"),
        ({"dynamic_size": True, "attention": True}, "dynamic_size and attention exclude each other"),
        ({"calibration": image((1, 3, 32, 32))}, "calibration is for precision"),
        (
            {"calibration": image((1, 3, 32, 32)), "precision": "bf16", "with_preprocess": True},
            "calibration and with_preprocess exclude each other",
        ),
        (
            {"calibration": image((1, 3, 32, 16)), "precision": "bf16"},
            r"calibration has shape \(1, 3, 32, 16\); it must be pictures \[n, 3, 32, 32\]",
        ),
        ({"calibration": image((1, 3, 32, 32))[:0], "precision": "bf16"}, r"calibration has shape \(0, 3, 32, 32\)"),
    ],
)
def test_options_that_do_not_go_together(options, message, toy, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        export_model(toy, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("num_classes", [0, 1])
def test_probabilities_need_classes(num_classes, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"softmax needs two classes, and .* has {num_classes}"):
        export_model(build("vit", num_classes=num_classes), tmp_path / "out", softmax=True)


def test_preprocessing_in_the_graph_needs_a_picture(tmp_path) -> None:
    with pytest.raises(ValueError, match="with_preprocess needs pictures of 1 or 3 channels, not 4"):
        export_model(build("vit", in_channels=4), tmp_path / "out", with_preprocess=True)
