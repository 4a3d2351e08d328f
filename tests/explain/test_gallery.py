"""The tool and what it writes: from a checkpoint, over several pictures, for every family."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from PIL import Image

from paddlevit.explain import class_attention, gallery, patch_similarity, plots
from paddlevit.models import create_model
from paddlevit.preprocessing import Preprocessing
from paddlevit.weights.checkpoint import Checkpoint, write_checkpoint
from paddlevit.weights.restore import describe_model, restore_model
from tests.data.pictures import picture
from tests.explain.families import FAMILIES, batch, build
from tests.models.checks import fill_by_name
from tests.tools import call, one_line

NAMES = ["ant", "bee", "cat", "dog", "elk"]
SMALL = dict(image_size=(32, 48), num_classes=5)
NARROW = dict(patch_size=8, embed_dim=32, depth=2, num_heads=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What a training leaves behind, for pictures that are not square."""
    model = fill_by_name(create_model("vit_tiny_patch16_224", **SMALL, **NARROW))
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    ema = {name: value + 0.01 for name, value in state.items()}
    write_checkpoint(path, Checkpoint(state, describe_model(model, NAMES), ema=ema))
    return path


@pytest.fixture
def photos(tmp_path):
    """Two files of the same name, and a grey one."""
    folder = tmp_path / "photos"
    for name, seed in (("a/cat", 0), ("b/cat", 1), ("c/fly", 2)):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True)
        image = picture(40, 60, seed)
        (image.convert("L") if name == "c/fly" else image).save(path)
    return folder


def test_the_tool_writes_everything(checkpoint, photos, tmp_path):
    out = tmp_path / "out"
    result = call("explain", checkpoint.parent, photos, "-o", out, "--point", "20,9", "--layers", 0, -1)
    assert result.code == 0, result.err
    written = sorted(path.name for path in out.iterdir())
    assert sorted(line.rsplit("/", 1)[1] for line in result.out.split()) == written
    maps = [*gallery.ATTRIBUTIONS, "heads0", "heads-1", "norms", "components", "similarity"]
    expected = ["positions.png", "filters.png", "distance.png", "model.npz"]
    for name in ("cat", "cat-2", "fly"):
        expected += [f"{name}.png", f"{name}.npz", *(f"{name}_{method}.png" for method in maps)]
    assert written == sorted(expected)
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) >= 100
            assert np.ptp(np.asarray(image.convert("L"))) > 30, f"{path.name} is empty"


def test_the_arrays_are_those_of_the_functions(checkpoint, photos, tmp_path):
    methods = ("heads", "similarity", "positions", "filters", "distance")
    result = call("explain", checkpoint, photos, "-o", tmp_path, "--methods", *methods, "--point", "20,9")
    assert result.code == 0, result.err
    model = restore_model(checkpoint)
    pictures = gallery.load_pictures(sorted(photos.rglob("*.png")), model)
    assert pictures.names == ["cat", "cat-2", "fly"]
    heads, similarity = class_attention(model, pictures.images), patch_similarity(model, pictures.images, (20, 9))
    for i, name in enumerate(pictures.names):
        with np.load(tmp_path / f"{name}.npz") as archive:
            assert sorted(archive.files) == ["heads-1", "similarity"]
            np.testing.assert_allclose(archive["heads-1"], heads[i], atol=1e-6)
            np.testing.assert_allclose(archive["similarity"], similarity[i], atol=1e-5)
    with np.load(tmp_path / "model.npz") as archive:
        shapes = {name: archive[name].shape for name in archive.files}
    assert shapes == {"positions": (4, 6, 4, 6), "filters": (28, 3, 8, 8), "shares": (28,), "distance": (2, 2)}
    sheet = np.asarray(Image.open(tmp_path / "cat.png"))
    assert sheet.shape[1] > 2 * sheet.shape[0]  # the picture and one map side by side


def test_options_of_the_tool(checkpoint, photos, tmp_path):
    file = photos / "a" / "cat.png"

    def explained(*options):
        result = call("explain", checkpoint, file, "-o", tmp_path, "--methods", "occlusion", *options)
        assert result.code == 0, result.err
        with np.load(tmp_path / "cat.npz") as archive:
            return archive["occlusion"]

    by_name, by_number, other = explained("--target", "dog"), explained("--target", 3), explained("--target", "bee")
    np.testing.assert_array_equal(by_name, by_number)
    assert not np.allclose(by_name, other)
    assert not np.allclose(explained("--target", 3, "--ema"), by_name)


def test_classes_are_called_by_name_or_number(checkpoint):
    model = restore_model(checkpoint)
    assert (gallery.class_index(model, "cat"), gallery.class_index(model, "4")) == (2, 4)
    assert (gallery.class_title(model, 2), gallery.class_title(build("vit"), 2)) == ("cat", "class 2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "-o", "out"], "nowhere is neither a file nor a folder"),
        (["RUN", "-o", "out", "--methods", "gradcam"], "method is 'gradcam'.*Did you mean \"grad-cam\""),
        (["RUN", "-o", "out", "--methods", "similarity"], "similarity compares one patch with all others; give its"),
        (["RUN", "-o", "out", "--target", "be"], "target is 'be'.*Did you mean \"bee\""),
        (["RUN", "-o", "out", "--target", "9"], "target is 9; this model has 5 classes"),
        (["RUN", "-o", "out", "--point", "90,3"], "point is 90,3; the network's input is 48 pixels wide"),
        (["RUN", "-o", "out", "--layers", "2"], r"layers is \[2\]; this model has 2 attention layers"),
    ],
)
def test_mistakes_are_one_line(checkpoint, photos, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    source, *options = (str(checkpoint) if argument == "RUN" else argument for argument in arguments)
    error = one_line(call("explain", source, photos / "a" / "cat.png", *options))
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_methods_work_for_every_family(name, tmp_path):
    model, x = build(name), batch(name)
    methods = gallery.default_methods(model, (3, 3))
    assert set(gallery.METHODS) - set(methods) == ({"positions"} if name.startswith("swin") else set())
    assert "similarity" not in gallery.default_methods(model, None)
    target = gallery.predict(model, x)
    arrays = gallery.compute(model, x, methods, target, point=(3, 3))
    assert all(np.isfinite(array).all() for key, array in arrays.items() if key != "distance")
    pictures = [plots.stretch(image.transpose(1, 2, 0)) for image in x.numpy()]
    if name in ("siglip", "swin", "article"):
        paths = gallery.write(gallery.Batch(["one", "two"], pictures, x), arrays, ["1", "2"], tmp_path)
        assert sorted(paths) == sorted(tmp_path.iterdir())


def test_many_pictures_are_computed_in_parts():
    model, x = build("vit"), batch("vit", count=gallery.CHUNK + 2)
    target = gallery.predict(model, x, 1)
    assert target == [1] * len(x)
    arrays = gallery.compute(model, x, ["rollout", "grad-cam"], target)
    assert arrays["rollout"].shape == arrays["grad-cam"].shape == (gallery.CHUNK + 2, 4, 6)
    last = gallery.compute(model, x[-1:], ["grad-cam"], [1])["grad-cam"]
    np.testing.assert_allclose(arrays["grad-cam"][-1:], last, atol=1e-5)


def test_other_channels_are_shown_in_grey():
    model = create_model("vit_tiny_patch16_224", in_channels=6, **SMALL, **NARROW)
    assert model.preprocessing == Preprocessing((32, 48), 0.9, mean=(0.5,) * 6, std=(0.5,) * 6)
    assert plots.overlay(np.random.rand(32, 48, 6), np.random.rand(4, 6)).shape == (224, 336, 3)


def test_matplotlib_is_an_extra(checkpoint, photos, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for method in ("rollout", "distance"):
        result = call("explain", checkpoint, photos / "a" / "cat.png", "-o", tmp_path, "--methods", method)
        assert 'pip install "paddlevit[plot]"' in one_line(result)
