"""tools/export.py: every option changes what is written, and what it cannot do it says in one line."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from PIL import Image

from paddlevit.inference import Predictor, onnx_export, read_info
from paddlevit.inference.calibration import read_calibration
from paddlevit.preprocessing import Preprocessing
from paddlevit.weights.save import save_weights
from tests.golden.fill import image
from tests.inference.conftest import CLASS_NAMES, build, run
from tests.tools import call, one_line

CONFIG = """\
model:
  name: vit_tiny_patch16_224
  image_size: 32
  num_classes: 5
  options: {patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}
  weights: WEIGHTS
"""
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("paddle2onnx", "onnxruntime"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A configuration with weights of a small network, and pictures beside it in two folders."""
    folder = tmp_path_factory.mktemp("source")
    save_weights(build("vit"), folder / "toy.safetensors")
    (folder / "toy.yaml").write_text(CONFIG.replace("WEIGHTS", str(folder / "toy.safetensors")))
    for number, values in enumerate(image((6, 3, 40, 50))):
        path = folder / "pictures" / "ab"[number // 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((values.transpose(1, 2, 0) * 40 + 128).clip(0, 255).astype(np.uint8)).save(path)
    return folder


def export(source, tmp_path, *options):
    result = call("export", source / "toy.yaml", "-o", tmp_path / "out", *options)
    assert result.code == 0, result
    return result, read_info(tmp_path / "out")


def test_what_is_printed(source, tmp_path) -> None:
    result, info = export(source, tmp_path)
    where, exact, following = result.out.splitlines()
    size = sum(info.files.values()) / 1e6
    assert where == f"{tmp_path / 'out'}: vit_tiny_patch16_224, {', '.join(info.files)}, fp32, {size:.1f} MB."
    one, three = (f"{difference:.1e}" for difference in info.parity["differences"])
    assert exact.startswith(f"Largest difference from the network in fp32: {one} at [1, 3, 32, 32], {three} at [3, 3,")
    assert following == f"Next: python tools/predict.py {tmp_path / 'out'} PICTURES"
    assert np.allclose(
        Predictor(tmp_path / "out").logits(image((2, 3, 32, 32))), run(build("vit"), image((2, 3, 32, 32))), atol=1e-4
    )


def test_options_of_the_outputs(source, tmp_path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n\n".join(CLASS_NAMES) + "\n \n", encoding="utf-8-sig")  # as Windows' editor saves it
    _, info = export(source, tmp_path, "--softmax", "--features", "--attention", "--class-names", names)
    assert list(info.outputs) == ["probabilities", "features", "attention"]
    assert info.class_names == CLASS_NAMES
    result, info = export(source, tmp_path)
    assert result.err == ""  # weights were loaded
    assert list(info.outputs) == ["logits"]
    assert info.class_names == list("01234")


def test_a_network_without_weights_is_announced(source, tmp_path) -> None:
    (tmp_path / "fresh.yaml").write_text(CONFIG.replace("  weights: WEIGHTS\n", ""))
    result = call("export", tmp_path / "fresh.yaml", "-o", tmp_path / "out")
    assert result.code == 0
    assert "names no weights: this exports a network that knows nothing yet" in result.err


def test_options_of_the_input(source, tmp_path) -> None:
    _, info = export(source, tmp_path, "--dynamic-size")
    assert info.input.shape == (None, 3, None, None)
    assert info.size_multiple == (8, 8)
    assert len(info.parity["differences"]) == 4  # at three sizes
    _, info = export(source, tmp_path, "--with-preprocess")
    assert info.input.shape == (None, None, None, 3)
    assert info.input.dtype == "uint8"


def test_bf16_is_measured_on_pictures(source, tmp_path) -> None:
    pictures = source / "pictures"
    result, info = export(
        source, tmp_path, "--precision", "bf16", "--calibration", pictures / "a", f"{pictures}/b/*.png"
    )
    assert info.precision == "bf16"
    assert info.parity["pictures"] == 6
    assert f"The class is the network's on {info.parity['agreement']:.2%} of 6 pictures." in result.out
    options = ("--precision", "bf16", "--calibration", pictures, "--calibration-count", 4)
    assert export(source, tmp_path, *options)[1].parity["pictures"] == 4
    result, info = export(source, tmp_path, "--precision", "bf16")
    assert "--calibration PICTURES does" in result.out
    assert info.parity["agreement"] is None


@pytest.mark.skipif(not HAS_ONNX, reason="the extra onnx is not installed")
def test_formats_and_int8(source, tmp_path) -> None:
    result, info = export(source, tmp_path, "--format", "both")
    assert len({"model.onnx", "model.pdiparams"} & info.files.keys()) == 2
    options = ("--format", "onnx", "--precision", "int8", "--calibration", source / "pictures")
    result, info = export(source, tmp_path, *options)
    assert list(info.files) == ["model.onnx"]
    assert info.precision == "int8"
    assert "of 6 pictures." in result.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dynamic-size", "--with-preprocess"], "dynamic_size and with_preprocess exclude each other; leave one out"),
        (["--dynamic-size", "--attention"], "dynamic_size and attention exclude each other"),
        (["--precision", "int8"], "'int8' needs format 'onnx', calibration pictures"),
        (["--precision", "fp16"], "'fp16' needs format 'onnx', or a GPU for Paddle; on a CPU use bf16"),
        (["--calibration", "PICTURES"], "calibration is for precision bf16, fp16 and int8"),
        (
            ["--precision", "bf16", "--calibration", "nothing/*.png"],
            "No pictures in nothing/*.png; give files, folders or patterns",
        ),
        (["--precision", "bf16", "--calibration", "PICTURES", "--calibration-count", "0"], "count is 0; at least 1"),
        (["--class-names", "SOURCE"], "There are 6 class names for 5 outputs; give one for each"),
        (["--class-names", "nothing.txt"], "nothing.txt: No such file or directory"),
        (["--device", "tpu"], "device is 'tpu'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line(options, message, source, tmp_path) -> None:
    places = {"PICTURES": source / "pictures", "SOURCE": source / "toy.yaml"}
    options = [places.get(option, option) for option in options]
    assert message in one_line(call("export", source / "toy.yaml", "-o", tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["onnx", "both"])
def test_what_to_install_is_one_line(format, source, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(onnx_export.sys, "version_info", (3, 12))
    error = one_line(call("export", source / "toy.yaml", "-o", tmp_path / "out", "--format", format))
    assert error == 'error: ONNX export needs paddle2onnx and onnxruntime: pip install "paddlevit[onnx]"\n'


def test_calibration_is_spread_over_all_pictures(source) -> None:
    recipe = Preprocessing((16, 16))
    every = read_calibration([source / "pictures"], recipe, 99)
    assert every.shape == (6, 3, 16, 16)
    np.testing.assert_array_equal(read_calibration([source / "pictures"], recipe, 3), every[[0, 2, 5]])
    np.testing.assert_array_equal(read_calibration([source / "pictures"], recipe, 1), every[:1])
