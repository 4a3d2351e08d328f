"""DeiT, plain and distilled."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit.layers import Identity
from paddlevit.models import create_model
from paddlevit.models.deit import MODELS, DataEfficientTransformer, DistilledVisualTransformer
from paddlevit.models.vit import VisualTransformer
from tests.models import checks

TOY = dict(image_size=16, patch_size=8, num_classes=5, embed_dim=32, depth=2, num_heads=4)
CLASSES = [DataEfficientTransformer, DistilledVisualTransformer]


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_patch16_224",
        "deit_small_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "deit_base_distilled_patch16_224",
    ],
)
def test_logits_equal_timm(name):
    assert checks.golden_error(name) < 1e-5


def test_every_name_of_timm_is_there():
    names = (checks.GOLDEN / "param_counts.tsv").read_text().splitlines()
    assert set(MODELS) == {line.split("\t")[0] for line in names if line.startswith("deit_")}


def test_plain_deit_is_the_vision_transformer():
    model = create_model("deit_tiny_patch16_224", image_size=32)
    assert isinstance(model, VisualTransformer)
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in create_model("vit_tiny_patch16_224", image_size=32).named_parameters()
    ]


@pytest.mark.parametrize("build", CLASSES)
def test_initialization_is_the_official_one(build):
    paddle.seed(0)
    model = build(image_size=64, patch_size=8, num_classes=100, embed_dim=96, depth=2, num_heads=4)
    for name, parameter in model.named_parameters():
        value = parameter.numpy()
        if name == "patch_embedding.patch_embedding.weight":
            bound = (3 * 8 * 8) ** -0.5
            assert 0.99 * bound < np.abs(value).max() <= bound
            assert value.std() == pytest.approx(bound / 3**0.5, rel=0.03)
        elif "norm" in name:
            assert (value == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif name.endswith("bias"):
            assert (value == 0.0).all(), name
        else:
            assert value.std() == pytest.approx(0.02, rel=0.25 if value.size < 100 else 0.05), name
            assert abs(value.mean()) < 0.005, name


@pytest.mark.parametrize("build", CLASSES)
def test_lazy_parameters_can_be_initialized_later(build):
    with paddle.LazyGuard():
        model = build(**TOY)
    for parameter in model.parameters():
        parameter.initialize()
    model.eval()
    assert np.isfinite(model(checks.pictures(2, 16)).numpy()).all()


def test_two_heads_answer_in_training_and_their_mean_in_evaluation():
    model = checks.fill_by_name(DistilledVisualTransformer(**TOY))
    x = checks.pictures(3, 16)
    model.train()
    logits, distilled = model(x)
    assert logits.shape == distilled.shape == [3, 5]
    assert float((logits - distilled).abs().max()) > 0.1
    mean = ((logits + distilled) / 2).numpy()
    model.eval()
    np.testing.assert_allclose(model(x).numpy(), mean, atol=1e-5)
    model.train()
    model.set_distilled_training(False)
    np.testing.assert_allclose(model(x).numpy(), mean, atol=1e-5)
    model.set_distilled_training(True)
    assert len(model(x)) == 2


def test_the_mean_of_both_heads_is_fitted_with_a_loss_of_one_output():
    network = checks.fill_by_name(DistilledVisualTransformer(**TOY))
    network.set_distilled_training(False)
    model = paddle.Model(network)
    model.prepare(paddle.optimizer.AdamW(1e-2, parameters=network.parameters()), paddle.nn.CrossEntropyLoss())
    data = paddle.io.TensorDataset([checks.pictures(4, 16), paddle.arange(4).reshape([4, 1])])
    before = {name: getattr(network, name).weight.numpy() for name in ("classifier", "classifier_distillation")}
    model.fit(data, batch_size=2, epochs=1, verbose=0)
    assert all((getattr(network, name).weight.numpy() != value).any() for name, value in before.items())


def test_heads_read_their_own_token():
    model = checks.fill_by_name(DistilledVisualTransformer(**TOY))
    model.train()
    tokens = model.forward_features(checks.pictures(2, 16))
    assert tokens.shape == [2, 2 + 4, 32]
    logits, distilled = model.forward_head(tokens)
    np.testing.assert_allclose(logits.numpy(), model.classifier(tokens[:, 0]).numpy(), atol=1e-6)
    np.testing.assert_allclose(distilled.numpy(), model.classifier_distillation(tokens[:, 1]).numpy(), atol=1e-6)


def test_no_classes_gives_the_mean_of_both_tokens():
    model = checks.fill_by_name(DistilledVisualTransformer(**{**TOY, "num_classes": 0}))
    model.eval()
    x = checks.pictures(2, 16)
    expected = model.forward_features(x)[:, :2].mean(axis=1)
    np.testing.assert_allclose(model(x).numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("build", CLASSES)
def test_reset_classifier(build):
    model = build(**TOY)
    model.reset_classifier(50)
    heads = [layer for name, layer in model.named_children() if name.startswith("classifier")]
    assert len(heads) == (2 if build is DistilledVisualTransformer else 1)
    for head in heads:
        assert head.weight.shape == [32, 50]
        assert float(head.weight.std()) == pytest.approx(0.02, rel=0.1)
    assert model.num_classes == 50
    model.reset_classifier(0)
    assert all(isinstance(layer, Identity) for name, layer in model.named_children() if name.startswith("classifier"))


def test_feature_maps_are_the_patches_behind_two_tokens():
    model = checks.fill_by_name(DistilledVisualTransformer(**{**TOY, "image_size": (16, 24)}))
    model.eval()
    x = checks.pictures(2, (16, 24))
    first, last = model.feature_maps(x, [0, -1])
    assert first.shape == last.shape == [2, 32, 2, 3]
    tokens = model.encoder.norm(last.flatten(2).transpose([0, 2, 1]))
    np.testing.assert_allclose(tokens.numpy(), model.forward_features(x)[:, 2:].numpy(), atol=1e-5)
    assert len(model.feature_maps(x)) == 2
    with pytest.raises(ValueError, match=r"layers is \[2\]; this encoder has 2 layers"):
        model.feature_maps(x, [2])


def test_groups_of_parameters():
    model = DistilledVisualTransformer(**TOY)
    parameters = dict(model.named_parameters())
    assert model.no_weight_decay() == {
        "patch_embedding.class_token",
        "patch_embedding.distillation_token",
        "patch_embedding.position_embedding",
    }
    assert model.no_weight_decay() <= set(parameters)
    depths = {name: model.layer_index(name) for name in parameters}
    assert depths["patch_embedding.distillation_token"] == 0
    assert depths["encoder.layers.1.mlp.fc2.bias"] == 2
    assert depths["encoder.norm.weight"] == depths["classifier_distillation.weight"] == 3


@pytest.mark.parametrize("build", CLASSES)
def test_every_parameter_learns(build):
    assert checks.without_gradient(build(**TOY), checks.pictures(2, 16)) == []


@pytest.mark.parametrize("build", CLASSES)
def test_evaluation_is_independent_of_the_batch(build):
    model = build(**TOY, dropout=0.5, attention_dropout=0.5, drop_path=0.5)
    assert checks.batch_dependence(model, checks.pictures(3, 16)) < 1e-5


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("image_size", (16, 24)),
        ("patch_size", 4),
        ("in_channels", 1),
        ("num_classes", 7),
        ("embed_dim", 48),
        ("depth", 3),
        ("num_heads", 2),
        ("mlp_ratio", 2.0),
        ("qkv_bias", False),
        ("dropout", 0.5),
        ("attention_dropout", 0.5),
        ("drop_path", 0.9),
    ],
)
def test_every_keyword_of_the_distilled_network_changes_something(keyword, value):
    options = {**TOY, keyword: value}
    size, channels = options["image_size"], options.get("in_channels", 3)
    changed = checks.observe(DistilledVisualTransformer(**options), checks.pictures(4, size, channels))
    assert changed != checks.observe(DistilledVisualTransformer(**TOY), checks.pictures(4, 16))


def test_checkpointing_recomputes_every_layer_and_changes_no_gradient():
    model = DistilledVisualTransformer(**TOY, use_checkpoint=True)
    assert model.encoder.use_checkpoint
    again, difference = checks.checkpoint_effect(model, checks.pictures(2, 16))
    assert again == 2
    assert difference < 1e-4


def test_impossible_sizes():
    with pytest.raises(ValueError, match=r"image_size \(18, 18\) is not a multiple of patch_size \(8, 8\)"):
        DistilledVisualTransformer(**{**TOY, "image_size": 18})
    with pytest.raises(ValueError, match=r"\[2, 3, 24, 24\]; this model was built for \[batch, 3, 16, 16\]"):
        DistilledVisualTransformer(**TOY)(checks.pictures(2, 24))


@pytest.mark.parametrize("build", CLASSES)
def test_exported_equals_eager(build, tmp_path):
    assert max(checks.export_errors(build(**TOY), tmp_path, (16, 16))) < 1e-5
