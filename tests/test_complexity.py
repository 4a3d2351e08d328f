"""Costs against timm's published numbers, hand counts and the formulas of the Swin paper."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevit.complexity import (
    attention_over_sizes,
    count_multiply_adds,
    count_parameters,
    format_table,
    global_attention_formula,
    layer_table,
    window_attention_formula,
)
from paddlevit.models import create_model
from paddlevit.models.foundation import FoundationTransformer
from paddlevit.models.swin import SwinTransformer
from paddlevit.models.t2t_vit import T2TViT
from paddlevit.models.vit import VisualTransformer

TABLE = Path(__file__).parent / "golden" / "timm_models.tsv"


def small_vit(image_size: int = 32) -> VisualTransformer:
    return VisualTransformer(image_size, 8, embed_dim=16, depth=2, num_heads=2, num_classes=10)


class Root(nn.Layer):
    """Has a parameter of its own, one layer twice, one never run, and products that no sub-layer shows."""

    def __init__(self):
        super().__init__()
        self.scale = self.create_parameter([7])
        self.conv = nn.Conv2D(4, 6, (3, 2), stride=2, groups=2)
        self.twice = nn.Linear(6, 6)
        self.idle = nn.Linear(3, 5)

    def forward(self, x):
        return self.twice(self.twice(self.conv(x).mean(axis=[2, 3]))), x

    def multiply_adds(self, x):
        return 1000 * x.shape[0]


def table() -> dict[str, dict[str, str]]:
    with TABLE.open() as file:
        return {row["model"]: row for row in csv.DictReader(file, delimiter="\t")}


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_384",
        "vit_small_patch32_224",
        "vit_base_patch16_224",
        "vit_large_patch14_224",
        "vit_giant_patch14_224",
        "deit_base_distilled_patch16_384",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_costs_are_those_that_timm_publishes(name):
    published = table()[name]
    size = int(published["img"])
    with paddle.LazyGuard():  # a giant has four gigabytes of parameters; nothing of them is needed
        model = create_model(name)
    rows = layer_table(model, [1, 3, size, size])
    assert sum(row.multiply_adds for row in rows) / 1e9 == pytest.approx(float(published["GMACs"]), rel=0.01)
    assert sum(row.activations for row in rows) / 1e6 == pytest.approx(float(published["MActs"]), rel=0.01)
    assert count_parameters(model) / 1e6 == pytest.approx(float(published["params_M"]), abs=0.005)
    assert sum(row.parameters for row in rows) == count_parameters(model)


def test_counts_by_hand():
    rows = {row.name: row for row in layer_table(Root(), [2, 4, 9, 8])}
    assert list(rows) == ["", "conv", "twice", "idle"]
    # Each of 2 x 6 x 4 x 4 outputs of the convolution sees 4 / 2 channels of 3 x 2 pixels.
    assert rows["conv"].output_shape == (2, 6, 4, 4)
    assert rows["conv"].multiply_adds == 2 * 6 * 4 * 4 * (2 * 3 * 2)
    assert rows["conv"].activations == 2 * 6 * 4 * 4
    assert rows["conv"].parameters == 6 * 2 * 3 * 2 + 6
    assert (rows["twice"].multiply_adds, rows["twice"].parameters) == (2 * (2 * 6 * 6), 6 * 6 + 6)
    assert (rows["idle"].parameters, rows["idle"].multiply_adds, rows["idle"].output_shape) == (20, 0, ())
    assert (rows[""].parameters, rows[""].multiply_adds) == (7, 2000)
    assert count_multiply_adds(Root(), [2, 4, 9, 8]) == sum(row.multiply_adds for row in rows.values())


def test_parameters_of_the_root_shared_and_frozen_ones():
    model = Root()
    model.again = model.conv
    assert count_parameters(model) == 7 + 78 + 42 + 20
    model.idle.weight.stop_gradient = True
    assert count_parameters(model, trainable_only=True) == 7 + 78 + 42 + 5


def test_the_model_is_left_as_it_was():
    model = small_vit()
    model.train()
    model.encoder.layers[0].eval()  # a frozen part
    modes = [layer.training for layer in model.sublayers(include_self=True)]
    attributes = [sorted(vars(layer)) for layer in model.sublayers(include_self=True)]
    state = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    count_multiply_adds(model, [1, 3, 32, 32])
    assert [layer.training for layer in model.sublayers(include_self=True)] == modes
    assert [sorted(vars(layer)) for layer in model.sublayers(include_self=True)] == attributes
    assert not any(layer._forward_post_hooks for layer in model.sublayers(include_self=True))
    assert state.keys() == model.state_dict().keys()
    assert all(np.array_equal(value, model.state_dict()[name]) for name, value in state.items())
    assert model(paddle.zeros([2, 3, 32, 32])).shape == [2, 10]


def test_the_model_is_left_as_it_was_after_an_error():
    model = small_vit()
    with pytest.raises(ValueError, match=r"this model was built for \[batch, 3, 32, 32\]"):
        count_multiply_adds(model, [1, 3, 40, 32])
    assert model.training
    assert not any(layer._forward_post_hooks for layer in model.sublayers(include_self=True))


def test_costs_grow_with_the_batch():
    assert count_multiply_adds(small_vit(), [5, 3, 32, 32]) == 5 * count_multiply_adds(small_vit(), [1, 3, 32, 32])


def test_table_as_text():
    text = format_table(layer_table(small_vit(), [1, 3, 32, 32]))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "type", "output", "parameters", "multiply-adds", "activations"]
    # One patch projection: 16 outputs of 3 x 8 x 8 weights and a bias; 16 patches.
    conv = next(line for line in lines if line.startswith("patch_embedding.patch_embedding"))
    assert conv.split()[1:] == ["Conv2D", "1x16x4x4", "3,088", "49,152", "256"]
    assert lines[-1].split()[:2] == ["total", f"{count_parameters(small_vit()):,}"]
    assert max(map(len, lines)) == len(lines[0]) == len(lines[-1])
    assert format_table(layer_table(Root(), [2, 4, 9, 8])).splitlines()[2].startswith("(model)")


def test_formulas_of_the_swin_paper():
    h, w, channels, window = 56, 56, 96, 7
    assert global_attention_formula(h * w, channels) == 4 * h * w * channels**2 + 2 * (h * w) ** 2 * channels
    expected = 4 * h * w * channels**2 + 2 * window**2 * h * w * channels
    assert window_attention_formula(h * w, channels, window) == expected


def test_counted_attention_meets_its_formula():
    (small, large) = attention_over_sizes(small_vit, [32, 64])
    assert (small.image_size, large.image_size) == (32, 64)
    # With the class token there are 17 and 65 tokens.
    for point, tokens in ((small, 17), (large, 65)):
        assert point.counted == point.global_formula == 2 * global_attention_formula(tokens, 16)
        assert point.window_formula == 2 * window_attention_formula(tokens, 16, 7)
        shape = [1, 3, point.image_size, point.image_size]
        assert point.total == count_multiply_adds(small_vit(point.image_size), shape)


def test_counted_window_attention_meets_its_formula():
    def swin(size):
        return SwinTransformer(
            size, in_channels=1, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=(4, 2), num_classes=2
        )

    for point in attention_over_sizes(swin, [32, 64], in_channels=1):
        assert point.counted == point.window_formula < point.total
        assert point.counted <= point.global_formula


def test_only_self_attention_is_compared_with_the_formulas():
    def siglip(size):
        return FoundationTransformer(
            size, 8, embed_dim=16, depth=1, num_heads=2, class_token="absent", pool="attention", num_classes=2
        )

    def t2t(size):
        return T2TViT(size, embed_dim=16, depth=1, num_heads=2, token_dim=8, num_classes=2)

    for build, tokens in ((siglip, 16), (t2t, 5)):
        (point,) = attention_over_sizes(build, [32])
        assert point.counted == point.global_formula == global_attention_formula(tokens, 16)


def test_the_formulas_take_the_inner_width_of_tokens_to_token_attention():
    def t2t(size):
        return T2TViT(size, embed_dim=16, depth=1, num_heads=2, token_dim=8, num_classes=2, token_type="transformer")

    (point,) = attention_over_sizes(t2t, [32])
    assert point.counted > point.global_formula  # the first projections are from wider tokens
    assert point.global_formula == sum(
        global_attention_formula(tokens, width) for tokens, width in ((64, 8), (16, 8), (5, 16))
    )
