from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevit.inference.lean import FirstTokensBlock, LeanAttention
from paddlevit.inference.simplify import simplify
from paddlevit.layers import DropPath
from paddlevit.models.foundation_layers import LayerScale
from paddlevit.models.vit import Attention
from tests.golden.fill import image
from tests.inference.conftest import FAMILIES, build, relative, run


def kinds(network: nn.Layer) -> list[type]:
    return [type(layer) for layer in network.sublayers()]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_stay(family) -> None:
    network = build(family)
    pictures = image((3, network.preprocessing.channels, *network.preprocessing.image_size))
    before = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    expected = run(network, pictures)
    assert relative(run(simplify(network), pictures), expected) < 1e-5
    after = network.state_dict()  # of the original, which is not touched
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name].numpy()) for name in before)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_that_only_training_needs(family) -> None:
    lean = simplify(build(family))
    assert not {nn.Dropout, DropPath, nn.BatchNorm1D, LayerScale, Attention} & set(kinds(lean))
    assert not any(layer.training for layer in lean.sublayers(include_self=True))


@pytest.mark.parametrize(
    ("family", "norms"),
    # The last norm stays, and Swin's first; with padding, those before attention; in V2, all.
    [
        *[("vit", 1), ("vit, batch norm", 0), ("vit, post-norm", 0), ("distilled", 1), ("dinov2", 1), ("siglip", 1)],
        *[("t2t", 1), ("t2t, transformer", 1), ("swin", 2), ("swin, padded", 6), ("swin v2", 11), ("explained", 1)],
    ],
)
def test_norms_lose_their_parameters(family, norms) -> None:
    lean = simplify(build(family))
    with_parameters = [l for l in lean.sublayers() if isinstance(l, nn.LayerNorm) and l.weight is not None]  # noqa: E741
    assert len(with_parameters) == norms


@pytest.mark.parametrize(("family", "rows"), [("vit", 1), ("distilled", 2), ("dinov2", 1), ("t2t", 1)])
def test_the_last_block_computes_only_what_is_classified(family, rows) -> None:
    network = build(family)
    lean = simplify(network)
    pictures = image((2, 3, *network.preprocessing.image_size))
    tokens, few = run(network.forward_features, pictures), run(lean.forward_features, pictures)
    assert few.shape == (2, rows, 32)
    assert tokens.shape[1] > rows
    assert relative(few, tokens[:, :rows]) < 1e-5


@pytest.mark.parametrize("family", ["vit, average", "vit, post-norm", "siglip", "registers, average", "explained"])
def test_the_last_block_stays_whole_where_all_tokens_count(family) -> None:
    assert FirstTokensBlock not in kinds(simplify(build(family)))


def test_lean_attention_has_its_scale_in_the_weights() -> None:
    network = build("vit", qk_scale=0.37)
    attn = network.encoder.layers[0].attn
    lean = LeanAttention(attn.qkv, attn.proj, attn.num_heads, attn.scales)
    tokens = image((2, 1, 9, 32))[:, 0]
    assert relative(run(lean, tokens), run(attn, tokens)) < 1e-5
    half = attn.qkv.weight.shape[1] // 3
    np.testing.assert_allclose(lean.qkv.weight.numpy()[:, :half], 0.37 * attn.qkv.weight.numpy()[:, :half], rtol=1e-6)


def test_a_network_without_layers_stays_as_it_is() -> None:
    network = build("vit", depth=1)
    network.encoder.layers = nn.LayerList()
    assert relative(run(simplify(network), image((1, 3, 32, 32))), run(network, image((1, 3, 32, 32)))) < 1e-5


def test_training_mode_ends_in_the_copy_only() -> None:
    network = build("vit", drop_path=0.5)
    network.train()
    lean = simplify(network)
    assert network.training
    pictures = image((2, 3, 32, 32))
    network.eval()
    assert relative(run(lean, pictures), run(network, pictures)) < 1e-5
    assert paddle.is_grad_enabled()
