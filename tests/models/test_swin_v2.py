"""Swin V2: equal to its references, and each change to Swin as the paper has it."""

from __future__ import annotations

import inspect
import math

import numpy as np
import paddle
import pytest

from paddlevit.complexity import count_multiply_adds, window_attention_formula
from paddlevit.models import swin_v2
from paddlevit.models.swin_v2 import (
    PatchMergingV2,
    SwinTransformerBlockV2,
    SwinTransformerV2,
    WindowAttentionV2,
    relative_coordinates,
)
from paddlevit.models.windows import relative_position_index
from tests.models import checks, swin_checks
from tests.weights.files import GOLDEN

# 64 pixels are maps of 16 and 8 tokens: windows of 5 have to be padded and are shifted in both stages.
TOY = dict(image_size=64, num_classes=5, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=5)
COUNTED = [line.split("\t")[0] for line in (GOLDEN / "param_counts.tsv").read_text().splitlines()]


def toy(**options):
    return SwinTransformerV2(**{**TOY, **options})


@pytest.mark.parametrize(
    "name",
    [
        "swinv2_tiny_window8_256",
        "swinv2_tiny_window16_256",
        pytest.param("swinv2_base_window12to16_192to256", marks=pytest.mark.slow),
    ],
)
def test_golden_logits(name):
    assert checks.golden_error(name, swin_checks.TIMM_NAMES) < 1e-5


def test_the_names_are_timms():
    # swinv2_cr_* is another network: Christoph Reich's.
    expected = {name for name in COUNTED if name.startswith("swinv2_") and "_cr_" not in name}
    assert set(swin_v2.MODELS) == expected
    for name, spec in swin_v2.MODELS.items():
        assert ("to" in name) == (spec.options.get("pretrained_window_size") == (12, 12, 12, 6))


def test_the_references_names_are_the_keys():
    block = "layers.0.blocks.0."
    expected = {block + name for name in ("attn.logit_scale", "attn.q_bias", "attn.v_bias", "attn.qkv.weight")}
    expected |= {block + name for name in ("attn.cpb_mlp.0.weight", "attn.cpb_mlp.0.bias", "attn.cpb_mlp.2.weight")}
    for name in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
        expected |= {f"{block}{name}.weight", f"{block}{name}.bias"}
    assert {name for name in toy(depths=(1, 1)).state_dict() if name.startswith(block)} == expected


def test_coordinates_are_log_spaced():
    table = relative_coordinates(8)
    assert table.shape == (15, 15, 2)
    # Equation 4 on offsets scaled to -8..8: sign(x) log2(|x| + 1), divided by log2(8).
    assert table[7, 7].tolist() == [0.0, 0.0]
    assert table[14, 0] == pytest.approx([math.log2(9) / 3, -math.log2(9) / 3])
    assert table[8, 6] == pytest.approx([math.log2(8 / 7 + 1) / 3, -math.log2(8 / 7 + 1) / 3])


def test_a_larger_window_continues_the_coordinates_of_the_pretrained_one():
    small, large = relative_coordinates(6), relative_coordinates(9, pretrained_window_size=6)
    np.testing.assert_allclose(large[3:-3, 3:-3], small, rtol=1e-6)
    assert large[-1, -1] == pytest.approx([math.log2(8 * 8 / 5 + 1) / 3] * 2)
    assert np.isfinite(relative_coordinates(1)).all()


def test_window_attention_in_numpy():
    attn = checks.fill_by_name(WindowAttentionV2(8, 3, 2, pretrained_window_size=5))
    attn.logit_scale.set_value(np.array([1.0, 6.0], "float32").reshape(2, 1, 1))  # the second is above its limit
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(2 * 4, 9, 8)), np.where(rng.normal(size=(4, 9, 9)) > 0, -100.0, 0.0)
    p = {name: value.numpy().astype(np.float64) for name, value in attn.state_dict().items()}
    qkv = x @ p["qkv.weight"] + np.concatenate([p["q_bias"], np.zeros(8), p["v_bias"]])
    q, k, v = np.split(qkv, 3, -1)
    offsets = relative_coordinates(3, 5).reshape(25, 2).astype(np.float64)
    hidden = np.maximum(offsets @ p["cpb_mlp.0.weight"] + p["cpb_mlp.0.bias"], 0)
    bias = (16 / (1 + np.exp(-hidden @ p["cpb_mlp.2.weight"])))[relative_position_index(3)]
    out = np.empty(x.shape)
    for head, scale in enumerate((math.e, 100.0)):
        part = slice(4 * head, 4 * head + 4)
        q_unit = q[..., part] / np.linalg.norm(q[..., part], axis=-1, keepdims=True)
        k_unit = k[..., part] / np.linalg.norm(k[..., part], axis=-1, keepdims=True)
        scores = scale * q_unit @ k_unit.transpose(0, 2, 1) + bias[..., head] + np.tile(mask, (2, 1, 1))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[..., part] = weights / weights.sum(-1, keepdims=True) @ v[..., part]
    expected = out @ p["proj.weight"] + p["proj.bias"]
    actual = attn(paddle.to_tensor(x.astype("float32")), paddle.to_tensor(mask.astype("float32"))).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_attention_compares_directions_only():
    attn = checks.fill_by_name(WindowAttentionV2(8, 3, 2, qkv_bias=False))
    seen = []
    attn.softmax.register_forward_post_hook(lambda _, inputs, output: seen.append(output.numpy()))
    x = paddle.randn([2, 9, 8])
    attn(x)
    attn(x * 7.0)
    assert seen[0].shape == (2, 2, 9, 9)
    np.testing.assert_allclose(seen[0], seen[1], rtol=1e-4, atol=1e-6)


def test_each_branch_is_normalised_after_it():
    block = checks.fill_by_name(SwinTransformerBlockV2(8, 2, window_size=4))
    seen = []
    block.norm1.register_forward_post_hook(lambda _, inputs, output: seen.append(output))
    x = paddle.randn([2, 16, 8])
    out = block(x, 4, 4)
    attended = block.norm1(block.attn(x))  # one window is the whole map
    np.testing.assert_allclose(seen[0].numpy(), attended.numpy(), rtol=1e-5, atol=1e-6)
    middle = x + attended
    np.testing.assert_allclose(out.numpy(), (middle + block.norm2(block.mlp(middle))).numpy(), rtol=1e-5, atol=1e-6)


def test_a_fresh_block_returns_its_input():
    x = paddle.randn([2, 30, 8])
    np.testing.assert_array_equal(SwinTransformerBlockV2(8, 2, 4, 2)(x, 5, 6).numpy(), x.numpy())


def test_merging_projects_and_then_normalises():
    merging = PatchMergingV2(8)
    out = merging(paddle.randn([2, 15, 8]), 3, 5).numpy()
    assert out.shape == (2, 6, 16)
    np.testing.assert_allclose(out.mean(-1), 0, atol=1e-5)
    assert list(merging.norm.weight.shape) == [16]


def test_attention_costs_what_the_article_says():
    attn = WindowAttentionV2(96, 8, 3)
    bias_network = 15**2 * (2 * 512 + 512 * 3)
    assert count_multiply_adds(attn, [64, 64, 96]) == window_attention_formula(64 * 64, 96, 8) + bias_network


def test_initialisation_is_the_papers():
    state = {name: value.numpy() for name, value in toy(embed_dim=32).state_dict().items()}
    for name, value in state.items():
        if name.endswith("logit_scale"):
            assert value == pytest.approx(math.log(10))
        elif ".norm1." in name or ".norm2." in name or (name.endswith("bias") and "patch_embed.proj" not in name):
            assert (value == 0).all()
        elif value.ndim == 2:
            assert value.std() == pytest.approx(0.02, rel=0.1), name


CHANGES = {
    "image_size": 16,
    "patch_size": 2,
    "in_channels": 1,
    "num_classes": 4,
    "embed_dim": 12,
    "depths": (2, 1),
    "num_heads": 2,
    "window_size": (5, 4),
    "pretrained_window_size": (3, 0),
    "mlp_ratio": 2.0,
    "qkv_bias": False,
    "dropout": 0.5,
    "attention_dropout": 0.5,
    "drop_path": 0.5,
    "use_checkpoint": True,
}


@pytest.mark.parametrize("keyword", inspect.signature(SwinTransformerV2).parameters)
def test_every_keyword_changes_something(keyword):
    if keyword == "use_checkpoint":  # not the output: the number of times that a block runs
        assert swin_checks.checkpoint_effect(toy, checks.pictures(1, 40))[0] == 4
        return
    other = toy(**{keyword: CHANGES[keyword]})
    x = checks.pictures(4, 40, other.patch_embed.in_channels)
    reference = checks.pictures(4, 40)
    assert checks.observe(other, x) != checks.observe(toy(), reference)


def test_recomputing_changes_no_gradient():
    def build(use_checkpoint):
        return toy(dropout=0.2, attention_dropout=0.2, drop_path=0.3, use_checkpoint=use_checkpoint)

    assert swin_checks.checkpoint_effect(build, checks.pictures(2, 40))[1] == 0.0


def test_every_parameter_learns_where_keys_of_padding_are_zero():
    assert checks.without_gradient(toy(), checks.pictures(2, (44, 70))) == []


def test_evaluation_is_independent_of_the_batch():
    assert checks.batch_dependence(toy(dropout=0.5, drop_path=0.5), checks.pictures(4, 64)) < 1e-5


@pytest.mark.parametrize("built_for", [(66, 90), (64, 64)])
def test_the_exported_network_equals_the_eager_one(built_for, tmp_path):
    assert max(checks.export_errors(toy(image_size=built_for), tmp_path, (66, 90))) < 1e-5


def test_weights_serve_a_larger_window():
    small, large = toy(), toy(image_size=128, window_size=8, pretrained_window_size=5)
    large.set_state_dict(checks.fill_by_name(small).state_dict())
    assert {name: value.shape for name, value in small.state_dict().items()} == {
        name: value.shape for name, value in large.state_dict().items()
    }
    attn, wide = small.layers[0].blocks[0].attn, large.layers[0].blocks[0].attn
    table = attn.cpb_mlp(attn.relative_coords_table).numpy()
    np.testing.assert_allclose(
        wide.cpb_mlp(wide.relative_coords_table).numpy()[3:-3, 3:-3], table, rtol=1e-4, atol=1e-5
    )


def test_casting_a_network_leaves_its_windows_right():
    model, x = checks.fill_by_name(toy()), checks.pictures(1, 64)
    model.eval()
    expected = model(x).numpy()
    model.to(dtype="float64")
    assert checks.relative_error(model(x.astype("float64")).numpy(), expected) < 1e-5


def test_undecayed_parameters():
    model = toy(depths=(1, 1))
    names = ("logit_scale", "cpb_mlp.0.weight", "cpb_mlp.2.weight")
    assert model.no_weight_decay() == {f"layers.{i}.blocks.0.attn.{name}" for i in range(2) for name in names}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(pretrained_window_size=(12,)), "pretrained_window_size has 1 values and depths has 2"),
        (dict(num_heads=3), "embed_dim 8 is not a multiple of num_heads 3"),
    ],
)
def test_impossible_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        toy(**options)
