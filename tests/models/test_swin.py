"""Swin: equal to its references, and each part to what the paper and the article say."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevit.complexity import count_multiply_adds, global_attention_formula, window_attention_formula
from paddlevit.models import create_model, swin
from paddlevit.models.swin import (
    BasicLayer,
    PatchEmbed,
    PatchMerging,
    SwinTransformer,
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)
from paddlevit.models.windows import relative_position_index
from paddlevit.weights import load_weights
from tests.golden.fill import image
from tests.golden.making import values as golden_state
from tests.models import checks, swin_checks
from tests.weights.files import GOLDEN, golden, write

# 64 pixels are maps of 16 and 8 tokens: windows of 5 have to be padded and are shifted in both stages.
TOY = dict(image_size=64, num_classes=5, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=5)
COUNTED = [line.split("\t")[0] for line in (GOLDEN / "param_counts.tsv").read_text().splitlines()]


def toy(**options):
    return SwinTransformer(**{**TOY, **options})


def numpy_map(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


# References


@pytest.mark.parametrize(
    "name",
    [
        "swin_tiny_patch4_window7_224",
        "swin_small_patch4_window7_224",
        "swin_s3_tiny_224",
        pytest.param("swin_base_patch4_window12_384", marks=pytest.mark.slow),
    ],
)
def test_golden_logits(name):
    assert checks.golden_error(name, swin_checks.TIMM_NAMES) < 1e-5


def test_golden_logits_of_hugging_face_where_every_stage_needs_padding(tmp_path):
    meta, expected = golden("hf-swin_tiny_patch4_window7_224-input=230x302")
    model = create_model(meta["model"])
    load_weights(model, write(tmp_path / "weights.safetensors", golden_state(meta)))
    model.eval()
    with paddle.no_grad():
        assert checks.relative_error(model(paddle.to_tensor(image(tuple(meta["input"])))).numpy(), expected) < 1e-5


def test_the_names_are_timms():
    # timm also lists two Hiera models with "swin" in their names, and Swin V2.
    assert set(swin.MODELS) == {name for name in COUNTED if name.startswith("swin_")}


def test_the_articles_shapes():
    tokens, height, width = PatchEmbed()(paddle.zeros([1, 3, 224, 224]))
    assert (list(tokens.shape), height, width) == ([1, 3136, 96], 56, 56)
    assert list(PatchMerging(96)(paddle.zeros([1, 56 * 56, 96]), 56, 56).shape) == [1, 784, 192]
    layer = BasicLayer(96, 2, 3, 7, drop_path=0.2, downsample=PatchMerging)
    assert [block.drop_path.probability for block in layer.blocks] == [0.2, 0.2]
    tokens, height, width = layer(paddle.zeros([1, 13 * 20, 96]), 13, 20)
    assert (list(tokens.shape), height, width) == ([1, 7 * 10, 192], 7, 10)


def test_the_articles_names_are_the_keys():
    expected = {"layers.0.downsample.reduction.weight"}
    for name in ("patch_embed.proj", "patch_embed.norm", "layers.0.downsample.norm", "norm", "head"):
        expected |= {f"{name}.weight", f"{name}.bias"}
    for i in range(2):
        expected.add(f"layers.{i}.blocks.0.attn.relative_position_bias_table")
        for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            expected |= {f"layers.{i}.blocks.0.{name}.weight", f"layers.{i}.blocks.0.{name}.bias"}
    model = toy(depths=(1, 1))
    assert set(model.state_dict()) == expected
    model(checks.pictures(1, 40))  # another size leaves nothing behind
    assert set(model.state_dict()) == expected


# Layers


def articles_block(block, x, height, width):
    """The article's block: normalise, pad, roll, partition, attend, reverse, roll back, cut off the padding."""
    side, dim = block.windows.window_size, x.shape[-1]
    shift = block.windows.shift_size if min(height, width) > side else 0
    maps = block.norm1(x).numpy().reshape(-1, height, width, dim)
    maps = np.pad(maps, ((0, 0), (0, -height % side), (0, -width % side), (0, 0)))
    rolled = np.roll(maps, (-shift, -shift), (1, 2))
    tokens = paddle.to_tensor(window_partition(rolled, side).reshape(-1, side * side, dim))
    out = block.attn(tokens, block.windows(height, width)[2]).numpy().reshape(-1, side, side, dim)
    rolled = window_reverse(out, side, *maps.shape[1:3])
    maps = np.roll(rolled, (shift, shift), (1, 2))[:, :height, :width]
    x = x + paddle.to_tensor(np.ascontiguousarray(maps).reshape(-1, height * width, dim))
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (9, 6), (3, 10)])
@pytest.mark.parametrize("shift", [0, 2])
def test_a_block_does_the_articles_steps(height, width, shift):
    block = checks.fill_by_name(SwinTransformerBlock(8, 2, window_size=4, shift_size=shift))
    x = paddle.to_tensor(numpy_map(2, height * width, 8))
    expected = articles_block(block, x, height, width).numpy()
    np.testing.assert_allclose(block(x, height, width).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_window_attention_in_numpy():
    attn = checks.fill_by_name(WindowAttention(8, 3, 2))
    x, mask = numpy_map(2 * 4, 9, 8), np.where(numpy_map(4, 9, 9) > 0, -100.0, 0.0)
    p = {name: value.numpy().astype(np.float64) for name, value in attn.state_dict().items()}
    q, k, v = np.split(x @ p["qkv.weight"] + p["qkv.bias"], 3, -1)
    bias = p["relative_position_bias_table"][relative_position_index(3)]
    out = np.empty(x.shape)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / 2 + bias[..., head] + np.tile(mask, (2, 1, 1))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[..., part] = weights / weights.sum(-1, keepdims=True) @ v[..., part]
    expected = out @ p["proj.weight"] + p["proj.bias"]
    actual = attn(paddle.to_tensor(x), paddle.to_tensor(mask.astype("float32"))).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_attention_maps_can_be_read_at_the_softmax():
    model, seen = toy(), []
    model.eval()
    for layer in model.layers:
        for block in layer.blocks:
            block.attn.softmax.register_forward_post_hook(lambda _, inputs, output: seen.append(output.numpy()))
    model(checks.pictures(2, 64))
    assert [weights.shape for weights in seen] == [(2 * 16, 2, 25, 25)] * 2 + [(2 * 4, 4, 25, 25)] * 2
    for weights in seen:
        np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)


def test_merging_puts_neighbours_side_by_side_column_by_column():
    merging = PatchMerging(3)
    seen = []
    merging.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    x = numpy_map(2, 5, 7, 3)
    merging(paddle.to_tensor(x.reshape(2, 35, 3)), 5, 7)
    x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    np.testing.assert_array_equal(seen[0], np.concatenate(parts, -1).reshape(2, 12, 12))


def test_patches_are_padded_with_zeros():
    embed = checks.fill_by_name(PatchEmbed(4, 3, 8))
    x = numpy_map(1, 3, 10, 13)
    padded = np.pad(x, ((0, 0), (0, 0), (0, 2), (0, 3)))
    tokens, height, width = embed(paddle.to_tensor(x))
    assert (height, width) == (3, 4) == embed.map_size((10, 13))
    np.testing.assert_array_equal(tokens.numpy(), embed(paddle.to_tensor(padded))[0].numpy())


# Cost


def test_attention_costs_what_the_article_says():
    attn = WindowAttention(96, 7, 3)
    counted = count_multiply_adds(attn, [64, 49, 96])
    assert counted == 145_108_992 == window_attention_formula(56 * 56, 96, 7)
    assert attn.multiply_adds(paddle.zeros([64, 49, 96])) == 2 * 7**2 * 56 * 56 * 96
    # One window over the whole map is attention over all tokens.
    assert count_multiply_adds(WindowAttention(96, 14, 3), [1, 196, 96]) == global_attention_formula(14 * 14, 96)


def test_cost_of_a_network_in_closed_form():
    # Two stages of 16 x 16 and 8 x 8 tokens, windows of 4: patches, blocks, merging, head.
    model = toy(window_size=4)
    blocks = sum(2 * (window_attention_formula(n, d, 4) + 8 * n * d * d) for n, d in ((256, 8), (64, 16)))
    assert count_multiply_adds(model, [1, 3, 64, 64]) == 256 * 48 * 8 + blocks + 64 * 32 * 16 + 16 * 5


# Networks


CHANGES = {
    "image_size": 16,
    "patch_size": 2,
    "in_channels": 1,
    "num_classes": 4,
    "embed_dim": 12,
    "depths": (2, 1),
    "num_heads": 2,
    "window_size": (5, 4),
    "mlp_ratio": 2.0,
    "qkv_bias": False,
    "dropout": 0.5,
    "attention_dropout": 0.5,
    "drop_path": 0.5,
    "patch_norm": False,
    "use_checkpoint": True,
}


@pytest.mark.parametrize("keyword", inspect.signature(SwinTransformer).parameters)
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


def test_every_parameter_learns():
    assert checks.without_gradient(toy(), checks.pictures(2, (44, 70))) == []


def test_evaluation_is_independent_of_the_batch():
    assert checks.batch_dependence(toy(dropout=0.5, drop_path=0.5), checks.pictures(4, 64)) < 1e-5


@pytest.mark.parametrize("built_for", [(66, 90), (64, 64)])
def test_the_exported_network_equals_the_eager_one(built_for, tmp_path):
    model = toy(image_size=built_for)
    assert model.patch_embed.map_size((66, 90)) == (17, 23)  # neither a multiple of the window nor even
    assert max(checks.export_errors(model, tmp_path, (66, 90))) < 1e-5


def test_the_pyramid_can_be_exported(tmp_path):
    class Backbone(nn.Layer):
        def __init__(self):
            super().__init__()
            self.network = toy()

        def forward(self, x):
            return self.network.feature_maps(x, [1])[0]

    assert max(checks.export_errors(Backbone(), tmp_path, (64, 64))) < 1e-5


def test_a_traced_network_takes_several_sizes():
    model = checks.fill_by_name(toy())
    model.eval()
    expected = [model(checks.pictures(2, size)).numpy() for size in (40, 64, 72)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Paddle's own, about its transformed code
        traced = paddle.jit.to_static(model, full_graph=True)
        for size, logits in zip((40, 64, 72), expected):
            np.testing.assert_allclose(traced(checks.pictures(2, size)).numpy(), logits, rtol=1e-5, atol=1e-6)


def test_an_export_names_the_size_it_needs(tmp_path):
    spec = paddle.static.InputSpec([None, 3, None, None], "float32", "image")
    with pytest.raises(Exception, match=r"height and width are open; export needs fixed ones"):
        paddle.jit.save(toy(), str(tmp_path / "model"), input_spec=[spec])


def test_a_network_built_for_one_size_serves_another():
    small, large = checks.fill_by_name(toy()), checks.fill_by_name(toy(image_size=(100, 132)))
    small.eval()
    large.eval()
    x = checks.pictures(2, (100, 132))
    np.testing.assert_array_equal(small(x).numpy(), large(x).numpy())


def test_small_maps_make_small_windows():
    model = toy(image_size=12)  # maps of 3 x 3 and 2 x 2
    shapes = [layer.blocks[1].attn.relative_position_bias_table.shape for layer in model.layers]
    assert [list(shape) for shape in shapes] == [[5**2, 2], [3**2, 4]]
    assert [layer.blocks[1].windows.mask for layer in model.layers] == [None, None]
    model = toy(image_size=(12, 64))
    assert [layer.blocks[0].windows.window_size for layer in model.layers] == [3, 2]


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_casting_a_network_leaves_its_windows_right(dtype):
    model = checks.fill_by_name(toy(image_size=256))  # 4096 tokens: half precision cannot count them
    x = checks.pictures(1, 256)
    model.eval()
    expected = model(x).numpy()
    model.to(dtype=dtype)
    if dtype == "float16":  # which a CPU only stores
        model.to(dtype="float32")
    actual = model(x.astype(model.head.weight.dtype)).numpy()
    assert checks.relative_error(actual, expected) < (1e-5 if dtype == "float64" else 1e-2)
    other = checks.pictures(1, 40).astype(model.head.weight.dtype)
    assert np.isfinite(model(other).numpy()).all()


def test_drop_path_rises_over_all_stages():
    model = toy(drop_path=0.3)
    rates = [block.drop_path.probability for layer in model.layers for block in layer.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("method", ["forward_features", "feature_maps"])
def test_embedded_tokens_are_dropped_in_training(method):
    model, seen = toy(dropout=0.5), []
    model.layers[0].blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    for mode in (model.train, model.eval):
        mode()
        getattr(model, method)(checks.pictures(1, 64))
    assert 0.4 < (seen[0] == 0).mean() < 0.6
    assert (seen[1] == 0).mean() == 0


def test_feature_maps_are_the_pyramid():
    model = checks.fill_by_name(toy())
    model.eval()
    x, seen = checks.pictures(2, (50, 70)), []
    for layer in model.layers:
        layer.blocks[-1].register_forward_post_hook(lambda _, inputs, output: seen.append(output.numpy()))
    maps = model.feature_maps(x)
    assert [list(features.shape) for features in maps] == [[2, 8, 13, 18], [2, 16, 7, 9]]
    for features, tokens in zip(maps, seen):
        np.testing.assert_array_equal(features.numpy(), tokens.transpose(0, 2, 1).reshape(features.shape))
    pooled = model.forward_head(model.norm(maps[-1].flatten(2).transpose([0, 2, 1])))
    np.testing.assert_allclose(pooled.numpy(), model(x).numpy(), rtol=1e-5, atol=1e-6)
    assert [list(features.shape)[1] for features in model.feature_maps(x, [-1, 0])] == [16, 8]
    with pytest.raises(ValueError, match=r"layers is \[2\]; this network has 2 stages, 0 to 1"):
        model.feature_maps(x, [2])


def test_layer_indices_count_blocks_over_all_stages():
    model = toy(depths=(2, 3))
    expected = {
        "patch_embed.proj.weight": 0,
        "layers.0.blocks.0.norm1.weight": 1,
        "layers.0.blocks.1.attn.relative_position_bias_table": 2,
        "layers.0.downsample.reduction.weight": 2,
        "layers.1.blocks.0.mlp.fc1.bias": 3,
        "layers.1.blocks.2.mlp.fc1.bias": 5,
        "norm.weight": 6,
        "head.bias": 6,
    }
    assert {name: model.layer_index(name) for name in expected} == expected


def test_bias_tables_are_not_decayed():
    model = toy(depths=(1, 1))
    assert model.no_weight_decay() == {f"layers.{i}.blocks.0.attn.relative_position_bias_table" for i in range(2)}


def test_initialisation_is_the_papers():
    model = SwinTransformer(image_size=64, depths=(1, 1), num_heads=(3, 6))
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for name, value in state.items():
        if name.startswith("patch_embed.proj"):
            assert np.abs(value).max() <= 48**-0.5
        elif name.endswith("bias"):
            assert (value == 0).all()
        elif value.ndim == 1:
            assert (value == 1).all()
        else:
            assert value.std() == pytest.approx(0.02, rel=0.1), name
    assert state["patch_embed.proj.weight"].std() == pytest.approx((3 * 48) ** -0.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_heads=(2, 4, 8)), "num_heads has 3 values and depths has 2; each needs one per stage"),
        (dict(window_size=(7,)), "window_size has 1 values and depths has 2"),
        (dict(window_size=(5, 0)), r"window_size is \(5, 0\); it must be 1 or more"),
        (dict(num_heads=3), "embed_dim 8 is not a multiple of num_heads 3"),
        (dict(patch_size=0), "patch_size is 0; it must be a positive whole number"),
        (dict(image_size=(1, 2, 3)), r"image_size is \(1, 2, 3\)"),
        (dict(drop_path=[0.1]), "drop_path has 1 values for 4 layers"),
        (dict(num_classes=-1), "num_classes is -1"),
    ],
)
def test_impossible_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        toy(**options)


def test_an_input_of_other_channels():
    with pytest.raises(ValueError, match=r"The input has shape \[2, 1, 64, 64\]; this model was built for \[batch, 3,"):
        toy()(checks.pictures(2, 64, 1))
