"""Recorded attention against NumPy, timm and every family."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevit.explain import attention_weights
from paddlevit.models import create_model
from paddlevit.weights import load_weights
from tests.explain.families import FAMILIES, batch, build
from tests.golden.fill import fill, image
from tests.models.checks import GOLDEN

with np.load(GOLDEN / "attention.npz") as archive:
    CASES = json.loads(str(archive["meta"]))
    REFERENCES = {name: archive[name] for name in archive.files if name != "meta"}


def softmax(scores: np.ndarray) -> np.ndarray:
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def project(attention: nn.Layer, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys, each [B, h, N, d], of tokens [B, N, D] by NumPy alone."""
    qkv = x @ attention.qkv.weight.numpy().astype(np.float64) + attention.qkv.bias.numpy()
    heads = qkv.reshape(*x.shape[:2], 3, attention.num_heads, attention.head_dim).transpose(2, 0, 3, 1, 4)
    return heads[0], heads[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_sum_to_one_on_the_grid_of_every_family(name):
    model, x = build(name), batch(name)
    layers = attention_weights(model, x)
    assert layers[-1].grid == FAMILIES[name][1]
    for layer in layers:
        tokens = layer.num_prefix + layer.grid[0] * layer.grid[1]
        if layer.name == "attention_pool":
            assert layer.weights.shape == (2, 4, 1, 24)
        else:
            assert layer.weights.shape[0] == 2
            assert layer.weights.shape[2:] == (tokens, tokens)
        sums = layer.weights.sum(axis=-1, dtype=np.float64)
        if name == "swin padded":
            assert sums.max() <= 1 + 1e-6  # the weight on padding is missing
        else:
            np.testing.assert_allclose(sums, 1.0, atol=1e-6)
    assert layers[-2].num_prefix == FAMILIES[name][2]  # the last one of SigLIP sees the patches only
    assert np.ptp(layers[-1].weights) > 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_is_left_as_it_was(name):
    model, x = build(name), batch(name)
    model.encoder.eval() if hasattr(model, "encoder") else None
    modes = [layer.training for layer in model.sublayers(include_self=True)]
    attention_weights(model, x)
    assert [layer.training for layer in model.sublayers(include_self=True)] == modes
    assert not any(layer._forward_post_hooks for layer in model.sublayers(include_self=True))


@pytest.mark.parametrize("name", ["vit", "swin", "siglip", "t2t transformer"])
def test_a_batch_is_each_picture_by_itself(name):
    model, x = build(name), batch(name, count=3)
    together = attention_weights(model, x)
    for i in range(3):
        for layer, alone in zip(together, attention_weights(model, x[i : i + 1])):
            np.testing.assert_allclose(layer.weights[i], alone.weights[0], atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "deit distilled", "registers"])
def test_each_head_is_what_numpy_computes(name):
    model, x = build(name), batch(name)
    model.eval()
    first = model.encoder.layers[0]
    tokens = first.attn_norm(model.patch_embedding(x)).numpy().astype(np.float64)
    q, k = project(first.attn, tokens)
    expected = softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(first.attn.head_dim))
    np.testing.assert_allclose(attention_weights(model, x, [0])[0].weights, expected, atol=1e-6)


@pytest.mark.parametrize("block", [0, 1])
def test_each_head_of_swin_is_what_numpy_computes_without_windows(block):
    """Over all pairs of tokens: no window is cut and nothing is rolled; who may see whom is decided by coordinates."""
    model, x = build("swin"), batch("swin")
    model.eval()
    side, rows, columns = 4, 8, 16
    stage = model.layers[0]
    tokens = model.patch_embed(x)[0]
    for earlier in stage.blocks[:block]:
        tokens = earlier(tokens, rows, columns)
    layer = stage.blocks[block]
    q, k = project(layer.attn, layer.norm1(tokens).numpy().astype(np.float64))
    scores = q @ k.transpose(0, 1, 3, 2) * layer.attn.head_dim**-0.5  # [B, h, N, N]

    row, column = np.divmod(np.arange(rows * columns), columns)
    shift = block * side // 2
    # Windows start `shift` tokens later; what is left over at both ends are smaller windows of their own.
    window = ((row - shift) // side) * 100 + (column - shift) // side
    together = window[:, None] == window[None]
    offset = row[:, None] - row[None] + side - 1, column[:, None] - column[None] + side - 1
    index = np.where(together, offset[0] * (2 * side - 1) + offset[1], 0)
    bias = layer.attn.relative_position_bias_table.numpy()[index].transpose(2, 0, 1)  # [h, N, N]
    expected = softmax(np.where(together, scores + bias, -np.inf))
    (ours,) = attention_weights(model, x, [block])
    assert ours.grid == (rows, columns)
    np.testing.assert_allclose(ours.weights, expected, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['model']}/{case['layer']}")
def test_attention_is_timms(case):
    model = create_model(case["model"], image_size=case["kwargs"]["img_size"])
    load_weights(model, {key: fill(key, tuple(shape)) for key, shape in case["state"].items()})
    (layer,) = attention_weights(model, paddle.to_tensor(image(tuple(case["input"]))), [case["layer"]])
    reference = REFERENCES[f"{case['model']}/{case['layer']}"]
    np.testing.assert_allclose(layer.weights[:, :, case["queries"]], reference, atol=1e-5)
    assert np.ptp(reference) > 0.01


def test_layers_are_chosen_by_index():
    model, x = build("t2t transformer"), batch("t2t transformer")
    everything = attention_weights(model, x)
    assert [layer.name for layer in everything] == [
        "tokens_to_token.attention1.attn",
        "tokens_to_token.attention2.attn",
        "blocks.0.attn",
        "blocks.1.attn",
    ]
    assert [layer.grid for layer in everything] == [(8, 12), (4, 6), (2, 3), (2, 3)]
    chosen = attention_weights(model, x, [-1, 0])
    assert [layer.name for layer in chosen] == ["blocks.1.attn", "tokens_to_token.attention1.attn"]
    with pytest.raises(ValueError, match=r"layers is \[4\]; this model has 4 attention layers, 0 to 3"):
        attention_weights(model, x, [4])


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match="Linear ran no attention layer"):
        attention_weights(nn.Linear(3, 2), paddle.zeros([1, 3]))


def test_a_model_that_hides_its_grid_is_refused():
    class Bare(nn.Layer):
        def __init__(self):
            super().__init__()
            self.softmax = nn.Softmax(axis=-1)

        def forward(self, x):
            return self.softmax(paddle.matmul(x, x, transpose_y=True).unsqueeze(1))

    model = nn.Sequential(Bare())
    with pytest.raises(ValueError, match="Sequential has 6 tokens, but no layer with an attribute grid_size"):
        attention_weights(model, paddle.zeros([1, 6, 4]))
