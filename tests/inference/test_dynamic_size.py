"""An export for pictures of any size answers as the network built for that size with the same weights."""

from __future__ import annotations

import numpy as np
import pytest

from paddlevit.inference import Predictor, export_model
from paddlevit.models import create_model
from paddlevit.weights import load_weights
from tests.golden.fill import image
from tests.inference.conftest import FAMILIES, build, relative, run


def resized(family: str, network, size: tuple[int, int]):
    """The network of `family` for another size, its weights brought there by our loader."""
    name, options = FAMILIES[family]
    other = create_model(name, **{**options, "image_size": size})
    grid = getattr(network, "grid_size", None) or getattr(getattr(network, "patch_embedding", None), "grid_size", None)
    load_weights(other, {key: tensor.numpy() for key, tensor in network.state_dict().items()}, source_grid=grid)
    other.eval()
    return other


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("vit", [(32, 32), (48, 24), (16, 56)]),
        ("vit, average", [(32, 32), (40, 40), (24, 48)]),
        ("vit, sines", [(32, 32), (48, 48), (24, 40)]),
        ("vit, no positions", [(32, 32), (48, 48), (24, 40)]),
        ("distilled", [(32, 32), (48, 40), (16, 16)]),
        ("deit3", [(32, 32), (48, 40), (16, 16)]),
        ("clip", [(32, 32), (48, 40), (16, 16)]),
        ("dinov2", [(32, 32), (48, 40), (16, 16)]),
        ("siglip", [(32, 32), (48, 40), (16, 16)]),
        ("t2t", [(48, 48), (64, 32), (32, 32)]),
        ("t2t, transformer", [(48, 48), (64, 32), (32, 32)]),
    ],
)
def test_plain_transformers_at_three_sizes(family, sizes, tmp_path) -> None:
    network = build(family)
    export_model(network, tmp_path / "out", dynamic_size=True)
    predictor = Predictor(tmp_path / "out", threads=1)
    for size, batch in zip(sizes, (1, 3, 17)):
        pictures = image((batch, 3, *size))
        expected = run(resized(family, network, size), pictures)
        assert relative(predictor.logits(pictures), expected) < 1e-5, size


@pytest.mark.parametrize("family", ["swin", "swin v2"])
def test_swin_at_sizes_with_and_without_padding(family, tmp_path) -> None:
    network = build(family)  # takes any size itself
    export_model(network, tmp_path / "out", dynamic_size=True)
    predictor = Predictor(tmp_path / "out", threads=1)
    for size, batch in zip([(32, 32), (44, 36), (64, 12)], (1, 3, 17)):
        pictures = image((batch, 3, *size))
        assert relative(predictor.logits(pictures), run(network, pictures)) < 1e-5, size


def test_sizes_that_the_graph_would_take_and_must_not(tmp_path) -> None:
    export_model(build("vit"), tmp_path / "out", dynamic_size=True)
    predictor = Predictor(tmp_path / "out")
    assert predictor.info.size_multiple == (8, 8)
    assert predictor.info.input.shape == (None, 3, None, None)
    # Paddle drops what the network says to such a size: the graph cuts off a row of pixels and answers.
    assert np.isfinite(predictor._engine.run(image((1, 3, 33, 32)))[0]).all()
    with pytest.raises(ValueError, match=r"size \(33, 32\) is no multiple of \(8, 8\)"):
        predictor.logits(image((1, 3, 33, 32)))


def test_pictures_are_brought_to_the_size_asked_for(tmp_path, exported) -> None:
    export_model(build("vit"), tmp_path / "out", dynamic_size=True)
    picture = (image((1, 3, 50, 60))[0].transpose(1, 2, 0) * 40 + 128).clip(0, 255).astype(np.uint8)
    assert Predictor(tmp_path / "out").preprocess(picture).shape == (3, 32, 32)
    larger = Predictor(tmp_path / "out", image_size=(40, 48))
    assert larger.preprocess(picture).shape == (3, 40, 48)
    assert len(larger.predict(picture)) == 1
    with pytest.raises(ValueError, match=r"size \(20, 20\) is no multiple"):
        Predictor(tmp_path / "out", image_size=20)
    with pytest.raises(ValueError, match=r"takes one size, \(32, 32\); export with dynamic_size"):
        Predictor(exported, image_size=40)


def test_families_with_one_size_say_so(tmp_path) -> None:
    with pytest.raises(ValueError, match="explained_vit cannot be exported with a dynamic size"):
        export_model(build("explained"), tmp_path / "out", dynamic_size=True)
