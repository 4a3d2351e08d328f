"""The ONNX export, and the engines that run it. Skipped where the extras onnx and openvino are not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from paddlevit.inference import Predictor, export_model, onnx_export, read_info
from paddlevit.inference.engines import ENGINES, paddle_graph
from tests.golden.fill import image
from tests.inference.conftest import FAMILIES, build, relative, run

MISSING = [name for name in ("paddle2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
OTHERS = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no {name}"))
    for name in ENGINES[1:]
]


@pytest.fixture(scope="module")
def both(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "both"
    export_model(toy, folder, format="both", features=True)
    return folder


@needs_onnx
@pytest.mark.parametrize("engine", OTHERS)
def test_engines_agree_at_any_batch(engine, toy, both) -> None:
    predictor = Predictor(both, engine=engine, threads=1)
    assert predictor.engine == engine
    for batch in (1, 3, 17, 2):
        pictures = image((batch, 3, 32, 32))
        outputs = predictor.outputs(pictures)
        assert relative(outputs["logits"], run(toy, pictures)) < 1e-5
        assert outputs["features"].shape == (batch, 32)


@needs_onnx
def test_auto_keeps_one_of_all(both) -> None:
    predictor = Predictor(both, threads=1)
    assert set(predictor.engine.split(",")) == {name for name in ENGINES if importlib.util.find_spec(name)}
    predictor.logits(image((2, 3, 32, 32)))
    assert predictor.engine in ENGINES


@needs_onnx
@pytest.mark.parametrize("engine", OTHERS)
def test_format_onnx_needs_no_paddle(engine, toy, tmp_path) -> None:
    folder = tmp_path / "out"
    report = export_model(toy, folder, format="onnx")
    assert report.engines == ("paddle", "onnxruntime")
    assert sorted(file.name for file in folder.iterdir()) == ["inference.yml", "model.onnx"]
    assert {"paddle2onnx", "onnxruntime"} <= read_info(folder).versions.keys()
    code = (
        "import sys, numpy; from paddlevit import Predictor\n"
        f"predictor = Predictor({str(folder)!r}, threads=1, engine={engine!r})\n"
        "print(predictor.logits(numpy.zeros((2, 3, 32, 32))).shape)\n"
        "print(len(predictor.predict(numpy.zeros((40, 50, 3), numpy.uint8))))\n"
        "sys.exit('paddle' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(2, 5)\n1\n"


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_converts(family, tmp_path) -> None:
    network = build(family)
    assert export_model(network, tmp_path / "out", format="onnx").relative_difference <= 1e-5


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"dynamic_size": True}, {"with_preprocess": True}, {"softmax": True}], ids=str)
@pytest.mark.parametrize("family", ["vit", "vit, sines", "swin, padded", "swin v2", "t2t"])
def test_every_option_converts(family, options, tmp_path) -> None:
    assert export_model(build(family), tmp_path / "out", format="onnx", **options).relative_difference <= 1e-5


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dynamic_size": True}, {"softmax": True, "features": True}], ids=str)
@pytest.mark.parametrize("family", ["vit", "distilled", "swin, padded", "swin v2", "t2t"])
def test_openvino_answers_as_the_network(family, options, tmp_path) -> None:
    pytest.importorskip("openvino")
    network = build(family)
    export_model(network, tmp_path / "out", format="both", **options)
    engines = [Predictor(tmp_path / "out", engine=engine, threads=1) for engine in ("paddle", "openvino")]
    for batch in (1, 3, 17):
        pictures = image((batch, 3, *network.preprocessing.image_size))
        ours, theirs = (engine.outputs(pictures) for engine in engines)
        assert all(relative(theirs[name], ours[name]) < 1e-5 for name in ours)


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    """A network, its exports in int8 and fp32, the report, the pictures; made in an empty current folder."""
    network, pictures = build("vit", embed_dim=64, depth=3), image((32, 3, 32, 32))
    folder, current = tmp_path_factory.mktemp("int8"), tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(current)
        report = export_model(network, folder / "int8", format="onnx", precision="int8", calibration=pictures)
        assert list(current.iterdir()) == []  # ONNX Runtime can leave files of weights there
    export_model(network, folder / "fp32", format="onnx")
    return network, folder, report, pictures


@needs_onnx
def test_int8_is_measured_and_small(int8) -> None:
    _, folder, report, _ = int8
    assert report.agreement >= 0.9
    assert report.pictures == 32
    assert 1e-4 < report.reduced_difference < 0.1
    assert report.engines == tuple(name for name in ENGINES[1:] if importlib.util.find_spec(name))
    info = read_info(folder / "int8")
    assert info.precision == "int8"
    assert info.parity["agreement"] == report.agreement
    sizes = [(folder / name / "model.onnx").stat().st_size for name in ("int8", "fp32")]
    assert sizes[0] < 0.6 * sizes[1]
    with pytest.raises(ValueError, match="precision is 'fp32', but .* was exported in int8"):
        Predictor(folder / "int8", precision="fp32")
    with pytest.raises(ValueError, match="precision is 'fp16', but .* was exported in fp32"):
        Predictor(folder / "fp32", precision="fp16")


@needs_onnx
@pytest.mark.parametrize("engine", OTHERS)
def test_int8_answers_nearly_as_the_network(engine, int8) -> None:
    network, folder, _, pictures = int8
    answers, expected = Predictor(folder / "int8", engine=engine, threads=1).logits(pictures), run(network, pictures)
    assert 1e-4 < relative(answers, expected) < 0.1
    assert (answers.argmax(1) == expected.argmax(1)).mean() >= 0.9


@needs_onnx
def test_bf16_by_openvino(toy, tmp_path) -> None:
    pytest.importorskip("openvino")
    report = export_model(toy, tmp_path / "out", format="onnx", precision="bf16", calibration=image((8, 3, 32, 32)))
    assert report.engines == ("openvino",)
    assert 1e-5 < report.reduced_difference < 0.1
    assert report.agreement >= 0.75
    assert Predictor(tmp_path / "out", threads=1).engine == "openvino"


@needs_onnx
def test_openvino_does_not_resize_pictures_in_the_graph(toy, tmp_path) -> None:
    export_model(toy, tmp_path / "out", format="onnx", with_preprocess=True)
    assert Predictor(tmp_path / "out", threads=1).engine == "onnxruntime"


@needs_onnx
def test_fp16_halves_the_file(toy, tmp_path) -> None:
    report = export_model(toy, tmp_path / "fp16", format="onnx", precision="fp16")
    export_model(toy, tmp_path / "fp32", format="onnx")
    assert 1e-6 < report.reduced_difference < 0.02
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("fp16", "fp32")]
    assert sizes[0] < 0.7 * sizes[1]
    assert Predictor(tmp_path / "fp16", threads=1).logits(image((2, 3, 32, 32))).dtype == np.float32


def test_what_is_missing_is_named(toy, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(onnx_export.sys, "version_info", (3, 12))
    missing = r'needs paddle2onnx and onnxruntime: pip install "paddlevit\[onnx\]"'
    with pytest.raises(ImportError, match=missing):
        export_model(toy, tmp_path / "out", format="onnx")
    monkeypatch.setattr(onnx_export.sys, "version_info", (3, 13))
    with pytest.raises(ImportError, match="has no wheel for this Python; use 3.12 or older"):
        export_model(toy, tmp_path / "out", format="both")


@pytest.mark.parametrize(
    ("paddle_version", "converter", "wanted"),
    [("2.6.2", "2.1.0", "paddle2onnx<2"), ("3.3.1", "1.3.1", "paddle2onnx>=2.1"), ("3.3.1", "2.1.0", "")],
)
def test_the_converter_has_to_fit_paddle(paddle_version, converter, wanted, monkeypatch) -> None:
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(onnx_export.importlib.metadata, "version", lambda name: converter)
    if wanted:
        with pytest.raises(ImportError, match=f'does not read graphs of Paddle {paddle_version}: .*"{wanted}"'):
            onnx_export.check_installed(paddle_version)
    else:
        onnx_export.check_installed(paddle_version)


def test_reduced_files_need_onnx(monkeypatch) -> None:
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: name != "onnx" or None)
    monkeypatch.setattr(onnx_export.importlib.metadata, "version", lambda name: "1.3.1")
    onnx_export.check_installed("2.6.2", "bf16")
    for precision in ("int8", "fp16"):
        with pytest.raises(ImportError, match=f"precision {precision} in ONNX needs onnx: pip install onnx"):
            onnx_export.check_installed("2.6.2", precision)


@needs_onnx
def test_a_failed_conversion_is_one_line(exported, tmp_path) -> None:
    nothing = tmp_path / paddle_graph(exported).name
    with pytest.raises(ValueError, match="paddle2onnx failed with exit code"):
        onnx_export.convert(nothing, exported / "model.pdiparams", tmp_path / "model.onnx")
