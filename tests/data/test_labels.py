"""Other labels at evaluation (ReaL, subsets of classes), and several views of a picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from paddlevit.data import EpochSampler, ImageDataset, build_loader, eval_transform
from paddlevit.data.labels import imagenet_class_names, read_real_labels, real_accuracy, subset_places
from paddlevit.data.sources import ArraySource
from paddlevit.data.transforms import ViewsTransform
from paddlevit.preprocessing import Preprocessing
from tests.data.pictures import picture, pixels

RECIPE = Preprocessing(image_size=(8, 8), crop_pct=0.8)


def test_real_labels_follow_the_number_of_the_file(tmp_path):
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[1], [], [2, 3]]))
    names = ["val/n01/ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_val_00000001.JPEG", "2.JPEG"]
    labels = read_real_labels(path, names)
    assert labels == [{2, 3}, {1}, set()]
    assert real_accuracy(np.array([3, 0, 5]), labels) == 0.5
    assert real_accuracy(np.array([2, 1, 5]), labels) == 1.0
    assert real_accuracy(np.array([1]), [set()]) == 0.0


def test_real_labels_errors(tmp_path):
    path = tmp_path / "real.json"
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"real\.json is not a list of lists of labels"):
        read_real_labels(path, [])
    path.write_text("[[1]]")
    for name in ("val_00000002.JPEG", "picture.JPEG"):
        with pytest.raises(ValueError, match=rf"{name} has no number from 1 to 1, which"):
            read_real_labels(path, [name])


def test_subsets_of_classes():
    words = imagenet_class_names()
    model = list(words.values())
    assert len(set(model)) == 1000
    assert subset_places(model, ["n01498041", "n12267677"]).tolist() == [6, 988]  # the ends of ImageNet-A's 200
    assert subset_places(model, [model[5], model[2]]).tolist() == [5, 2]
    assert subset_places(model, ["0", "1", "10", "100"]).tolist() == [0, 1, 10, 100]  # folders of ImageNet-V2
    assert subset_places(["0", "1", "2"], ["2", "0"]).tolist() == [2, 0]


def test_classes_the_model_lacks():
    with pytest.raises(ValueError, match="The data have the class 'dig', which is none of the model's 2. Did you mean"):
        subset_places(["dog", "cat"], ["dig"])
    with pytest.raises(ValueError, match="the class '7', which is none"):
        subset_places(["dog", "cat"], ["0", "7"])


def test_views_of_a_picture():
    image = picture(20, 30)
    plain = eval_transform(RECIPE)(image)
    flip = ViewsTransform(RECIPE, "flip")(image)
    assert flip.shape == (2, 3, 8, 8)
    assert np.array_equal(flip[0], plain)
    assert np.array_equal(flip[1], plain[:, :, ::-1])
    ten = ViewsTransform(RECIPE, "ten_crop")
    views = ten(image)
    assert views.shape == ten.sample_shape == (10, 3, 8, 8)
    assert np.array_equal(views[0], plain)
    assert np.array_equal(views[5:], views[:5, :, :, ::-1])
    whole = np.asarray(image.resize((15, 10), Image.Resampling.BICUBIC))
    corners = [whole[:8, :8], whole[:8, -8:], whole[-8:, :8], whole[-8:, -8:]]
    for view, corner in zip(ten.pixels(image)[1:5], corners):
        assert np.array_equal(np.asarray(view), corner)
    with pytest.raises(ValueError, match="tta is 'five'; it must be one of flip, ten_crop"):
        ViewsTransform(RECIPE, "five")


def test_views_of_a_picture_smaller_than_the_crop():
    recipe = Preprocessing(image_size=(8, 12), crop_pct=1.0, crop_mode="center")
    assert ViewsTransform(recipe, "ten_crop")(picture(5, 5)).shape == (10, 3, 8, 12)


def test_views_go_through_the_loader():
    source = ArraySource(np.stack([pixels(12, 12, k) for k in range(4)]), np.arange(4), list("abcd"))
    dataset = ImageDataset(source, ViewsTransform(RECIPE, "ten_crop"))
    for workers in (0, 1):
        images, _ = next(iter(build_loader(dataset, EpochSampler(4, 4), workers)))
        assert list(images.shape) == [4, 10, 3, 8, 8]
        assert np.array_equal(images.numpy()[2], dataset[2][0])
