"""What the loader leaves, what it refuses, and what it says."""

from __future__ import annotations

import re

import numpy as np
import paddle
import pytest

from paddlevit.models.deit import DistilledVisualTransformer
from paddlevit.models.foundation import FoundationTransformer
from paddlevit.models.swin import SwinTransformer
from paddlevit.models.swin_v2 import SwinTransformerV2
from paddlevit.models.vit import VisualTransformer
from paddlevit.weights import LoadReport, load_weights, save_weights
from paddlevit.weights.checkpoint import Checkpoint, write_checkpoint
from paddlevit.weights.readers import open_weights
from tests.golden.fill import fill
from tests.weights.files import write

VIT = dict(image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)
SWIN = dict(image_size=64, embed_dim=12, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5)
POSITIONS = "patch_embedding.position_embedding"
PATCHES = "patch_embedding.patch_embedding.weight"


def build(kind=VisualTransformer, **changes):
    """A toy network with the same random values every time."""
    options = dict(SWIN if kind in (SwinTransformer, SwinTransformerV2) else VIT, **changes)
    model = kind(**options)
    for name, tensor in model.state_dict().items():
        tensor.set_value(fill(name, tuple(tensor.shape)))
    return model


def values(model) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def timm_state(model, tmp_path) -> dict[str, np.ndarray]:
    """The model's weights under timm's names."""
    save_weights(model, tmp_path / "timm.safetensors", to="timm")
    return {name: array.read() for name, array in open_weights(tmp_path / "timm.safetensors").tree.items()}


def fresh(kind=VisualTransformer, **changes):
    """The same network with other values."""
    model = build(kind, **changes)
    for tensor in model.state_dict().values():
        tensor.set_value(tensor.numpy() * 0 + 7)
    return model


def test_nothing_to_adapt_and_nothing_left():
    source, model = build(), fresh()
    report = load_weights(model, source.state_dict())
    assert set(report.loaded) == set(values(model))
    assert not report.adapted
    assert not report.missing
    assert not report.left_out
    for name, array in values(model).items():
        assert (array == values(source)[name]).all(), name


# What surrounds the weights


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "_orig_mod.module.",
        "model.",
        "backbone.",
        "net.",
        "model._orig_mod.",
        "model.module.",
        "module.model._orig_mod.",
    ],
)
def test_prefixes(prefix, tmp_path):
    source, model = build(), fresh()
    state = {prefix + name: array for name, array in timm_state(source, tmp_path).items()}
    state["n_averaged"] = np.array(3)
    report = load_weights(model, state)
    assert (values(model)[POSITIONS] == values(source)[POSITIONS]).all()
    assert report.left_out == {"n_averaged": "a counter of averaging"}


@pytest.mark.parametrize("twin", ["module.cls_token", "model.module.cls_token"])
def test_the_same_tensor_twice(twin, tmp_path):
    prefix = twin.partition("module.")[0]
    state = {prefix + name: array for name, array in timm_state(build(), tmp_path).items()}
    state[twin] = state[prefix + "cls_token"] + 1
    refuse(
        fresh(), state, rf"The file holds cls_token twice, as {prefix}cls_token and as {twin}; leave one of them out"
    )
    state = {"vit.embeddings.cls_token": fill("a", [1, 1, 24]), "embeddings.cls_token": fill("b", [1, 1, 24])}
    refuse(fresh(), state, r"holds patch_embedding\.class_token twice, as vit\.embeddings\.cls_token and as embeddings")


def test_numbers_that_are_no_chunks():
    """The blocks of other networks are numbered in each stage anew."""
    state = {f"blocks.{stage}.0.conv.weight": fill("conv", [4, 4]) for stage in range(3)}
    refuse(fresh(), state, "names its tensors in no known way")


def test_what_lies_outside_of_a_prefix_is_left_out():
    state = {"model." + name: array for name, array in values(build()).items()}
    state["criterion.weight"] = fill("loss", [3])
    report = load_weights(fresh(), state)
    assert report.left_out == {"criterion.weight": "outside of 'model.'"}


@pytest.mark.parametrize("suffix", [".pth", ".pdparams"])
@pytest.mark.parametrize("keys", [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("model", "ema")])
def test_nesting_and_averaged_weights(keys, suffix, tmp_path):
    raw, averaged = values(build()), {name: array + 1 for name, array in values(build()).items()}
    optimizer = {"state": {"0": {"moment": raw["encoder.norm.bias"]}}}
    file = write(tmp_path / f"run{suffix}", {keys[0]: raw, keys[1]: averaged, "optimizer": optimizer})
    model = fresh()
    report = load_weights(model, file)
    assert report.notes == [f"took {keys[1]!r}, not {keys[0]!r}"]
    assert (values(model)["encoder.norm.bias"] == averaged["encoder.norm.bias"]).all()
    report = load_weights(model, file, ema=False)
    assert report.notes == [f"took {keys[0]!r}, not {keys[1]!r}"]
    assert (values(model)["encoder.norm.bias"] == raw["encoder.norm.bias"]).all()


def test_our_checkpoints(tmp_path):
    raw, averaged = values(build()), {name: array + 1 for name, array in values(build()).items()}
    optimizer = {"encoder.norm.bias/moment1": raw["encoder.norm.bias"]}
    file = tmp_path / "best.safetensors"
    write_checkpoint(file, Checkpoint(raw, {"preprocessing": {"image_size": [32, 32]}}, averaged, optimizer))
    model = fresh()
    assert load_weights(model, file).notes == ["took 'model', not 'ema'"]
    assert (values(model)["encoder.norm.bias"] == raw["encoder.norm.bias"]).all()
    load_weights(model, file, ema=True)
    assert (values(model)["encoder.norm.bias"] == averaged["encoder.norm.bias"]).all()


def test_batch_norm_statistics_come_along():
    source, model = build(norm="batch"), fresh(norm="batch")
    report = load_weights(model, source.state_dict())
    assert "encoder.layers.0.attn_norm._mean" in report.loaded
    assert not report.missing


def test_a_network_that_no_table_knows_uses_its_own_names():
    source, model = paddle.nn.Linear(3, 4), paddle.nn.Linear(3, 4)
    report = load_weights(model, {"module." + name: tensor for name, tensor in source.state_dict().items()})
    assert report.dialect == "the model's own"
    assert (model.weight.numpy() == source.weight.numpy()).all()
    with pytest.raises(
        ValueError, match=r"state names its tensors in no known way \(kernel\); Linear has bias, weight"
    ):
        load_weights(model, {"kernel": fill("kernel", [3, 4])})


def test_half_precision_files_and_models(tmp_path):
    source, model = build(), fresh()
    load_weights(model, {name: array.astype(np.float16) for name, array in values(source).items()})
    np.testing.assert_allclose(values(model)[PATCHES], values(source)[PATCHES].astype(np.float16))
    half = fresh()
    half.to(dtype="bfloat16")
    load_weights(half, source.state_dict())
    tensor = half.state_dict()[PATCHES]
    assert tensor.dtype == paddle.bfloat16
    np.testing.assert_allclose(tensor.astype("float32").numpy(), values(source)[PATCHES], rtol=1e-2)


# Refusals


def refuse(model, source, match, **options):
    """The load fails with this message and leaves every parameter as it was."""
    before = values(model)
    with pytest.raises(ValueError, match=match):
        load_weights(model, source, **options)
    for name, array in values(model).items():
        assert (array == before[name]).all(), name


def test_another_family():
    swin = build(SwinTransformer).state_dict()
    match = r"state holds weights of a Swin Transformer \(Microsoft Swin names\), and VisualTransformer is a Vision Tra"
    refuse(fresh(), swin, match)
    refuse(
        fresh(SwinTransformerV2), swin, "weights of a Swin Transformer .* SwinTransformerV2 is a Swin Transformer V2"
    )
    refuse(fresh(SwinTransformer), build().state_dict(), "weights of a Vision Transformer")


def test_unknown_and_missing_names_are_all_listed_unless_allowed():
    state = values(build())
    state["encoder.layers.0.attn.gate"] = fill("gate", [3])
    del state["encoder.norm.bias"]
    refuse(
        fresh(), state, r"lacks encoder\.norm\.bias\. Nothing in the model is called encoder\.layers\.0\.attn\.gate\."
    )
    refuse(fresh(), state, "lacks encoder", allow_unused=["*gate"])
    refuse(fresh(), state, "Nothing in the model", allow_missing=["encoder.norm.*"])
    report = load_weights(fresh(), state, allow_unused=["*gate"], allow_missing=["encoder.norm.*"])
    assert report.missing == {"encoder.norm.bias": "not in the file; allowed"}
    assert report.left_out == {"encoder.layers.0.attn.gate": "allowed"}


def test_a_misspelt_name_gets_a_hint():
    state = values(build())
    state["encoder.norm.biass"] = state.pop("encoder.norm.bias")
    refuse(fresh(), state, r'called encoder\.norm\.biass\. Did you mean "encoder\.norm\.bias"')


def test_another_depth_or_width():
    refuse(fresh(depth=3), build().state_dict(), r"lacks encoder\.layers\.2\.attn_norm\.weight")
    refuse(fresh(), build(depth=3).state_dict(), r"has nothing for encoder\.layers\.2\.attn\.proj\.bias")
    refuse(
        fresh(embed_dim=48), build().state_dict(), r"class_token is \[1, 1, 24\] in the file and \[1, 1, 48\] in the mo"
    )
    report = load_weights(fresh(mlp_ratio=2.0), build().state_dict(), allow_missing=["*.mlp.*"])
    assert report.missing["encoder.layers.0.mlp.fc1.weight"] == "does not fit; allowed"
    assert "encoder.layers.0.mlp.fc2.bias" in report.loaded


def test_distilled_into_plain_and_back():
    plain, distilled = build().state_dict(), build(DistilledVisualTransformer).state_dict()
    refuse(fresh(), distilled, r"The file is a distilled DeiT .* and the model is not: build a deit_\*_distilled model")
    report = load_weights(fresh(), distilled, allow_unused=["*distillation*"])
    assert report.adapted[POSITIONS].startswith("4 x 4 positions, one for the class token and one for the distillation")

    refuse(
        fresh(DistilledVisualTransformer), plain, "The model is a distilled DeiT and the file has no distillation token"
    )
    model = fresh(DistilledVisualTransformer)
    load_weights(model, plain, allow_missing=["*distillation*"])
    positions, source = values(model)[POSITIONS], plain[POSITIONS].numpy()
    assert (positions[:, 0] == source[:, 0]).all()
    assert (positions[:, 1] == 7).all()  # the model's own
    assert (positions[:, 2:] == source[:, 1:]).all()


def test_average_pooling_has_no_place_for_a_class_token():
    refuse(fresh(pool="average"), build().state_dict(), r"has nothing for patch_embedding\.class_token")
    model = fresh(pool="average")
    load_weights(model, build().state_dict(), allow_unused=["*class_token"])
    assert (values(model)[POSITIONS] == values(build())[POSITIONS][:, 1:]).all()


def test_some_parts_of_a_tensor():
    state = {f"encoder.layer.0.attention.attention.{part}.weight": fill(part, [24, 24]) for part in ("query", "value")}
    refuse(fresh(), state, r"Of encoder\.layers\.0\.attn\.qkv\.weight the file holds only encoder\.layer\.0")


def test_mixed_layouts(tmp_path):
    state = timm_state(build(), tmp_path)
    state["head.weight"] = state["head.weight"].T
    refuse(
        fresh(), state, r"The file mixes layouts: blocks\.1\.mlp\.fc2\.weight is \[outputs, inputs\] and head\.weight"
    )


def test_layout_follows_the_shapes_not_the_file(tmp_path):
    """A torch-like state in a Paddle file and the reverse are told by the layers that are not square."""
    source = build()
    state = timm_state(source, tmp_path)
    for suffix, turned in ((".pdparams", False), (".pth", True)):
        linear = re.compile(r"(qkv|proj|fc1|fc2|head)\.weight")
        turn = {
            name: array.T if turned and array.ndim == 2 and linear.search(name) else array
            for name, array in state.items()
        }
        model = fresh()
        load_weights(model, write(tmp_path / f"state{suffix}", turn))
        for name, array in values(model).items():
            assert (array == values(source)[name]).all(), name


def test_whole_numbers_are_no_weights():
    state = values(build())
    state["encoder.norm.bias"] = np.zeros(24, np.int64)
    refuse(fresh(), state, r"encoder\.norm\.bias holds int64 numbers, not weights")


class Foreign:
    """A tensor of another library."""

    def __init__(self, array: np.ndarray, error: Exception | None = None) -> None:
        self.array, self.error = array, error

    def __array__(self, *_, **__) -> np.ndarray:
        if self.error is not None:
            raise self.error
        return self.array


def test_tensors_of_other_libraries():
    model = fresh()
    load_weights(model, {name: Foreign(array) for name, array in values(build()).items()})
    assert (values(model)[POSITIONS] == values(build())[POSITIONS]).all()
    refuse(model, {"a": Foreign(np.ones(2), TypeError("on a GPU"))}, r"a is a .*Foreign that cannot .* array: on a GPU")


def test_classifiers_of_hugging_face_that_have_no_place_here(tmp_path):
    """DeiT with one classifier for two tokens, and DINOv2's, which takes class token and mean."""
    save_weights(build(DistilledVisualTransformer), tmp_path / "deit.safetensors", "hf")
    tree = open_weights(tmp_path / "deit.safetensors").tree
    state = {name.replace("cls_classifier", "classifier"): array.read() for name, array in tree.items()}
    state = {name: array for name, array in state.items() if "distillation_classifier" not in name}
    match = (
        r"one classifier .* by allow_missing=\['classifier_distillation\.\*'\], or build the model with num_classes=0"
    )
    refuse(fresh(DistilledVisualTransformer), state, match)
    report = load_weights(fresh(DistilledVisualTransformer), state, allow_missing=["classifier_distillation.*"])
    assert "classifier.weight" in report.loaded

    dino = dict(layer_scale=0.1, num_classes=0)
    save_weights(build(FoundationTransformer, **dino), tmp_path / "dino.safetensors", "hf")
    state = {name: array.read() for name, array in open_weights(tmp_path / "dino.safetensors").tree.items()}
    state = {f"dinov2.{name}": array for name, array in state.items()}
    state.update({"classifier.weight": fill("w", [5, 48]), "classifier.bias": fill("b", [5])})
    refuse(
        fresh(FoundationTransformer, layer_scale=0.1), state, "takes 48 features, class token and mean .* num_classes=0"
    )
    report = load_weights(fresh(FoundationTransformer, layer_scale=0.1, num_classes=9), state)
    reason = "the file has 5 classes and the model 9; a new classifier is in place"
    assert report.missing == {"classifier.weight": reason, "classifier.bias": reason}


def test_no_tensors_and_several_dictionaries():
    refuse(fresh(), {"epoch": 3, "a": [1.0]}, "state holds no tensors, only int, list; give arrays, tensors or")
    refuse(fresh(), {}, "state holds no tensors, only nothing")
    parts = {name: values(build()) for name in ("generator", "discriminator")}
    refuse(
        fresh(), parts, "holds several dictionaries of tensors, generator, discriminator; pass the one that is meant"
    )


# The report


def test_the_report_is_one_summary():
    report = LoadReport(
        "weights.pth",
        "vit",
        "timm",
        loaded=["a", "b"],
        adapted={"a": "resized"},
        missing={"head": "new"},
        left_out={f"decoder.{i}": "the decoder" for i in range(6)},
        notes=["took 'model'"],
    )
    assert str(report).splitlines() == [
        "weights.pth (timm names) -> vit: 2 tensors loaded",
        "  note      took 'model'",
        "  adapted   a: resized",
        "  missing   head: new",
        "  left out  decoder.0, decoder.1, decoder.2, decoder.3 and 2 more: the decoder",
    ]
