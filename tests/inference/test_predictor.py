from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from paddlevit.inference import Prediction, Predictor, export_model
from paddlevit.inference.predictor import softmax
from tests.golden.fill import image
from tests.inference.conftest import CLASS_NAMES, build


@pytest.fixture(scope="module")
def predictor(exported):
    return Predictor(exported, threads=1)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    values = (image((1, 3, 40, 50))[0].transpose(1, 2, 0) * 40 + 128).clip(0, 255)
    return Image.fromarray(values.astype(np.uint8))


def test_paths_bytes_pictures_and_arrays_give_the_same_answer(predictor, picture, tmp_path) -> None:
    path = tmp_path / "picture.png"
    picture.save(path)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    kinds = [path, str(path), buffer.getvalue(), picture, np.asarray(picture)]
    with open(path, "rb") as file:
        assert predictor.predict(file) == predictor.predict([io.BytesIO(buffer.getvalue())]) == predictor.predict(path)
    first, *others = predictor.predict(kinds)
    assert isinstance(first, Prediction)
    for other in others:
        assert other.classes == first.classes
        np.testing.assert_allclose(other.probabilities, first.probabilities, atol=1e-6)
    for kind in kinds:
        assert predictor.predict(kind)[0].classes == first.classes


def test_arrays_of_every_layout_and_kind(predictor, picture) -> None:
    bytes_, expected = np.asarray(picture), predictor.predict(picture)[0]
    floats = bytes_ / 255.0
    arrays = [bytes_, bytes_.transpose(2, 0, 1), floats, floats.transpose(2, 0, 1).astype(np.float32)]
    arrays += [bytes_.astype(np.uint16) * 257, np.asfortranarray(bytes_), bytes_[::-1][::-1]]
    answers = predictor.predict(array for array in arrays)
    assert len(answers) == len(arrays)
    for answer in [*answers, *predictor.predict(np.stack([bytes_] * 2)), *predictor.predict((picture, bytes_))]:
        assert answer.classes == expected.classes
        np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=2e-3)  # floats are not rounded


def test_grey_arrays(predictor, picture) -> None:
    """A grey array is what Pillow's grey picture of those numbers is, which is rounded to 8 bits twice on its way."""
    grey = np.asarray(picture.convert("L"))
    deep = grey.astype(np.uint16) * 257
    expected = predictor.preprocess(Image.fromarray(grey))
    arrays = [grey, grey[:, :, None], grey[None], deep, deep[:, :, None], grey / 255.0, (grey / 255.0)[None]]
    for array in arrays:
        level = 0 if array.dtype == np.uint8 else 1.5 / 255 / min(predictor.preprocessing.std)
        np.testing.assert_allclose(predictor.preprocess(array), expected, rtol=0, atol=level + 1e-6)
    np.testing.assert_array_equal(predictor.preprocess(Image.fromarray(deep)), expected)
    assert predictor.predict(grey) == predictor.predict(picture.convert("L"))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "images is a NoneType; it must be a picture or a list of pictures"),
        ({"a": 1}, "images is a dict"),
        ([None], "Picture 0: it is a NoneType; it must be a path, bytes, an open file, a Pillow picture"),
        ([io.StringIO("text")], 'Picture 0: it is a file that gives no bytes; open it with mode "rb"'),
        ([b"no picture"], "Picture 0: the picture cannot be read: it is not a picture"),
        (
            [np.zeros((9, 9, 3), np.uint8)] * 20 + ["no.jpg"],
            r"Picture 20: no\.jpg cannot be read: there is no such file",
        ),
        (np.zeros((9, 9, 4), np.uint8), r"Picture 0: its shape is \(9, 9, 4\); it must be \[H, W, 3\] or \[3, H, W\]"),
        (np.zeros((0, 9, 3), np.uint8), r"its shape is \(0, 9, 3\)"),
        (np.zeros((9, 9), np.int64), "its type is int64; it must be uint8, uint16 or floats"),
        (np.zeros((9, 9, 3), np.int64), "its type is int64; it must be uint8, uint16 or floats in 0..1"),
        (np.linspace(0, 255, 243).reshape(9, 9, 3), r"its values go from 0 to 255; floats must be in 0\.\.1"),
        (np.linspace(-2.1, 1, 243).reshape(9, 9, 3), r"its values go from -2.1 to 1"),
        (np.full((9, 9, 3), np.nan), "it holds infinite or undefined values"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_is_no_picture_is_named(images, message, predictor) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict(images)


@pytest.mark.parametrize("nothing", [[], (), iter([]), np.zeros((0, 32, 32, 3), np.uint8)], ids=type)
def test_no_pictures_no_answers(nothing, predictor) -> None:
    assert predictor.predict(nothing) == []


def test_prediction_is_the_softmax_of_the_logits_in_order(predictor, picture) -> None:
    logits = predictor.logits(predictor.preprocess(picture)[None])
    powers = np.exp(logits[0].astype(np.float64))
    expected = powers / powers.sum()
    (prediction,) = predictor.predict(picture)
    assert prediction.classes == tuple(np.argsort(-expected))
    assert prediction.names == tuple(CLASS_NAMES[index] for index in prediction.classes)
    np.testing.assert_allclose(prediction.probabilities, np.sort(expected)[::-1], rtol=1e-5)
    assert sum(prediction.probabilities) == pytest.approx(1.0, abs=1e-6)


def test_topk_cuts_the_list(predictor, picture) -> None:
    everything = predictor.predict(picture, topk=99)[0]
    assert len(everything.classes) == 5
    assert predictor.predict(picture, topk=2)[0].classes == everything.classes[:2]
    with pytest.raises(ValueError, match="topk is 0; it must be at least 1"):
        predictor.predict(picture, topk=0)


def test_softmax_of_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4 - 1.0]], np.float32))[0], [0.731059, 0.268941], rtol=1e-5)


def test_batches_are_cut_to_the_batch_size(exported, picture, monkeypatch) -> None:
    predictor = Predictor(exported, batch_size=2)
    sizes, outputs = [], predictor.outputs
    monkeypatch.setattr(predictor, "outputs", lambda batch: sizes.append(len(batch)) or outputs(batch))
    five = [picture.rotate(angle) for angle in range(5)]
    results = predictor.predict(five)
    assert sizes == [2, 2, 1]
    single = [predictor.predict(one)[0] for one in five]
    assert [result.classes for result in results] == [result.classes for result in single]
    with pytest.raises(ValueError, match="batch_size is 0"):
        Predictor(exported, batch_size=0)


def test_what_the_export_says_is_at_hand(predictor, toy) -> None:
    assert predictor.class_names == CLASS_NAMES
    assert predictor.preprocessing == toy.preprocessing


def test_wrong_inputs_are_named(predictor, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"shape \[2, 3, 33, 32\]; this export takes \[batch, 3, 32, 32\]"):
        predictor.logits(np.zeros((2, 3, 33, 32), np.float32))
    with pytest.raises(ValueError, match=r"shape \[3, 32, 32\]"):
        predictor.logits(np.zeros((3, 32, 32), np.float32))
    with pytest.raises(ValueError, match="is empty; give at least one picture"):
        predictor.logits(np.zeros((0, 3, 32, 32), np.float32))
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read"):
        predictor.predict(tmp_path / "text.jpg")


def test_numbers_in_place_of_classes(tmp_path, picture) -> None:
    export_model(build("vit", num_classes=1), tmp_path / "regression")
    predictor = Predictor(tmp_path / "regression")
    with pytest.raises(ValueError, match=r"gives numbers, not classes; use outputs\(\)"):
        predictor.predict(picture)
    assert predictor.logits(predictor.preprocess(picture)[None]).shape == (1, 1)


def test_devices_and_threads(exported) -> None:
    Predictor(exported, device="cpu", threads=2)
    with pytest.raises(ValueError, match="device is 'tpu'"):
        Predictor(exported, device="tpu")
    with pytest.raises(ValueError, match="threads is 0"):
        Predictor(exported, threads=0)
