"""Facts about Paddle that our export and predictor are built around; when one of these fails, a detour can go."""

from __future__ import annotations

import shutil

import numpy as np
import paddle
import paddle.inference
import pytest

from paddlevit.inference import Predictor
from paddlevit.inference.engines import PaddleEngine, paddle_graph
from tests.golden.fill import image

PADDLE_2 = paddle.__version__.startswith("2.")


def run_plainly(config, batch: np.ndarray) -> np.ndarray:
    """As Paddle's own documentation runs a graph."""
    config.disable_gpu()
    config.disable_glog_info()
    predictor = paddle.inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(batch)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


@pytest.mark.skipif(PADDLE_2, reason="Paddle 3 raises on enable_memory_optim")
def test_memory_optimisation_is_never_switched_on(exported) -> None:
    config = paddle.inference.Config(str(paddle_graph(exported)), str(exported / "model.pdiparams"))
    config.enable_memory_optim()
    with pytest.raises(ValueError, match="memory_optimize_pass"):
        run_plainly(config, image((1, 3, 32, 32)))
    assert np.isfinite(Predictor(exported).logits(image((1, 3, 32, 32)))).all()


@pytest.mark.skipif(PADDLE_2, reason="Paddle 2 raises when weights are missing")
def test_missing_weights_are_named(exported, tmp_path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / "model.pdiparams").unlink()
    config = paddle.inference.Config(str(folder / "model.json"), str(folder / "model.pdiparams"))
    run_plainly(config, image((1, 3, 32, 32)))  # Paddle 3 answers without a word, from memory nobody has written
    with pytest.raises(ValueError, match="is missing"):
        Predictor(folder)


def test_both_names_of_the_graph_are_found(exported, tmp_path) -> None:
    assert paddle_graph(exported).name == ("model.pdmodel" if PADDLE_2 else "model.json")
    for name in ("model.pdmodel", "model.json"):  # .json wins
        (tmp_path / name).write_bytes(b"")
        assert paddle_graph(tmp_path).name == name
    with pytest.raises(ValueError, match="has no graph for Paddle"):
        paddle_graph(tmp_path / "nothing")


def test_paddle_2_refuses_a_graph_of_paddle_3(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(paddle, "__version__", "2.6.2")
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match=r"was exported by Paddle 3 and this is Paddle 2\.6\.2"):
        PaddleEngine(tmp_path)


def test_one_predictor_takes_changing_batches(exported) -> None:
    predictor = Predictor(exported)
    pictures = image((9, 3, 32, 32))
    every = predictor.logits(pictures)
    for size in (4, 1, 9, 2):
        np.testing.assert_allclose(predictor.logits(pictures[:size]), every[:size], rtol=0, atol=1e-5)


def test_other_types_and_layouts_are_converted(exported) -> None:
    predictor = Predictor(exported)
    pictures = image((2, 3, 32, 32))
    expected = predictor.logits(pictures)
    strided = np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for other in (pictures.astype(np.float64), strided, np.asfortranarray(pictures)):
        np.testing.assert_array_equal(predictor.logits(other), expected)
