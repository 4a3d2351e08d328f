"""What the tests of the ViT-like families ask of every model."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
import paddle.inference
from paddle import nn

from paddlevit.complexity import count_parameters, layer_table
from paddlevit.models import create_model, get_spec
from tests.golden.fill import fill, image
from tests.golden.making import values

GOLDEN = Path(__file__).parents[1] / "golden"

# timm's names and ours, applied in order.
TIMM_NAMES = [
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm1\.", ".attn_norm."),
    (r"\.norm2\.", ".mlp_norm."),
    (r"\.ls1\.", ".attn_scale."),
    (r"\.ls2\.", ".mlp_scale."),
    (r"^norm_pre\.", "pre_norm."),
    (r"^norm\.", "encoder.norm."),
    (r"^patch_embed\.proj\.", "patch_embedding.patch_embedding."),
    (r"^cls_token$", "patch_embedding.class_token"),
    (r"^dist_token$", "patch_embedding.distillation_token"),
    (r"^reg_token$", "patch_embedding.register_tokens"),
    (r"^pos_embed$", "patch_embedding.position_embedding"),
    (r"^attn_pool\.", "attention_pool."),
    (r"^head\.", "classifier."),
    (r"^head_dist\.", "classifier_distillation."),
]


def relative_error(ours, reference) -> float:
    """Norm of the difference over the norm of the reference."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def golden_error(name: str, renamed: Sequence[tuple[str, str]] = TIMM_NAMES) -> float:
    """Relative error of our logits for a golden file; fails unless every parameter has its value.

    Args:
        name: The file without its ending.
        renamed: The reference's names and ours, as regular expressions; none where we kept the names. Positions that
            the reference fixes, `pos_embed`, are not in its file and stay as our model makes them.
    """
    with np.load(GOLDEN / f"{name}.npz") as archive:
        meta, reference = json.loads(str(archive["meta"])), archive["logits"]
    words = {"img_size": "image_size", "in_chans": "in_channels"}
    model = create_model(meta["model"], **{words.get(key, key): value for key, value in meta["kwargs"].items()})
    model.eval()
    assert count_parameters(model) == meta["params"]
    assert count_parameters(model, trainable_only=True) == meta.get("trainable", meta["params"])

    linear = {f"{path}.weight" for path, layer in model.named_sublayers() if isinstance(layer, nn.Linear)}
    state = {}
    for key, value in values(meta).items():
        for pattern, replacement in renamed:
            key = re.sub(pattern, replacement, key)
        state[key] = value.T if key in linear else value
    own = {key: tensor for key, tensor in model.state_dict().items() if key.endswith("pos_embed")}
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if key not in own}
    assert shapes == {key: value.shape for key, value in state.items()}
    model.set_state_dict({**own, **state})
    with paddle.no_grad():
        return relative_error(model(paddle.to_tensor(image(tuple(meta["input"])))).numpy(), reference)


def our_row(name: str, **options) -> dict[str, str]:
    """Our model as a row of timm's param_counts.tsv, built without memory for its parameters."""
    with paddle.LazyGuard():
        model = create_model(name, **options)
    preprocessing = model.preprocessing
    return {
        "model": name,
        "params": str(sum(int(parameter.size) for parameter in model.parameters())),
        "num_classes": str(model.num_classes),
        "input_size": "x".join(map(str, (preprocessing.channels, *preprocessing.image_size))),
        "crop_pct": str(preprocessing.crop_pct),
        "interpolation": preprocessing.interpolation,
        "mean": ",".join(str(round(value, 6)) for value in preprocessing.mean),
        "std": ",".join(str(round(value, 6)) for value in preprocessing.std),
    }


def multiply_adds(name: str, **options) -> dict[str, int]:
    """Multiply-adds of one picture, by class of layer, counted on one block of each stage.

    All blocks of a stage cost the same, so a network with one of each is traced, and what the block costs is multiplied
    by their number: that of the options, else of the name, else of the class.

    Args:
        name: The model.
        **options: Further keywords of `create_model`.
    """
    spec = get_spec(name)
    defaults = {key: parameter.default for key, parameter in inspect.signature(spec.build).parameters.items()}
    stages = "depths" in defaults
    depth = {**defaults, **spec.options, **options}["depths" if stages else "depth"]
    short = {"depths": [1] * len(depth)} if stages else {"depth": 1}
    with paddle.LazyGuard():
        model = create_model(name, **{**options, **short})
    block = re.compile(r"layers\.(\d+)\.blocks\.0\." if stages else r"(?:.*\.)?(?:layers|blocks)\.(0)\.")
    numbers = depth if stages else [depth]
    counts: dict[str, int] = {}
    for row in layer_table(model, [1, model.preprocessing.channels, *model.preprocessing.image_size]):
        found = block.match(row.name)
        times = numbers[int(found[1])] if found else 1
        counts[row.type] = counts.get(row.type, 0) + times * row.multiply_adds
    return counts


def fill_by_name(model: nn.Layer) -> nn.Layer:
    """Give every parameter values that depend on its name and shape only."""
    model.set_state_dict({key: fill(key, tuple(value.shape)) for key, value in model.state_dict().items()})
    return model


def pictures(count: int, size: int | tuple[int, int], channels: int = 3) -> paddle.Tensor:
    """[count, channels, H, W], the same in every run."""
    height, width = (size, size) if isinstance(size, int) else size
    return paddle.to_tensor(image((count, channels, height, width)))


def observe(model: nn.Layer, x: paddle.Tensor) -> list:
    """Names and shapes of the parameters, and what a filled model answers in training and in evaluation."""
    fill_by_name(model)
    seen: list = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
    for mode in (model.train, model.eval):
        mode()
        paddle.seed(0)
        with paddle.no_grad():
            out = model(x)
        seen += [logits.numpy().round(5).tolist() for logits in (out if isinstance(out, (tuple, list)) else [out])]
    return seen


def without_gradient(model: nn.Layer, x: paddle.Tensor) -> list[str]:
    """Parameters that a training step leaves without a finite, non-zero gradient."""
    fill_by_name(model).train()
    out = model(x)
    outputs = out if isinstance(out, (tuple, list)) else [out]
    sum((logits * logits).sum() for logits in outputs).backward()
    lacking = []
    for name, parameter in model.named_parameters():
        gradient = None if parameter.grad is None else parameter.grad.numpy()
        if gradient is None or not np.isfinite(gradient).all() or not np.abs(gradient).max() > 0:
            lacking.append(name)
    return lacking


def batch_dependence(model: nn.Layer, x: paddle.Tensor) -> float:
    """Largest change of one picture's answer in evaluation when the rest of the batch is left out."""
    fill_by_name(model).eval()
    with paddle.no_grad():
        return float((model(x)[1:2] - model(x[1:2])).abs().max())


def export_errors(model: nn.Layer, folder: Path, size: tuple[int, int], channels: int = 3) -> list[float]:
    """Relative errors at batch 1 and 3 of the exported network, run by Paddle Inference, over the eager one."""
    fill_by_name(model).eval()
    spec = paddle.static.InputSpec([None, channels, *size], "float32", "image")
    path = str(folder / "model")
    paddle.jit.save(model, path, input_spec=[spec])
    program = f"{path}.json" if os.path.exists(f"{path}.json") else f"{path}.pdmodel"
    config = paddle.inference.Config(program, f"{path}.pdiparams")
    config.disable_gpu()
    config.disable_glog_info()
    predictor = paddle.inference.create_predictor(config)
    errors = []
    for count in (1, 3):
        x = pictures(count, size, channels)
        predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(x.numpy())
        predictor.run()
        answer = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        with paddle.no_grad():
            errors.append(relative_error(answer, model(x).numpy()))
    return errors


def checkpoint_effect(model: nn.Layer, x: paddle.Tensor) -> tuple[int, float]:
    """How often recomputing ran a layer again, and the largest change of a gradient against keeping activations."""
    fill_by_name(model).train()
    calls, gradients = [], []
    handles = [layer.register_forward_post_hook(lambda *_: calls.append(1)) for layer in model.encoder.layers]
    counts = []
    for use_checkpoint in (False, True):
        model.encoder.use_checkpoint = use_checkpoint
        model.clear_gradients()
        calls.clear()
        out = model(x)
        sum((logits * logits).sum() for logits in (out if isinstance(out, (tuple, list)) else [out])).backward()
        counts.append(len(calls))
        gradients.append([parameter.grad.numpy() for parameter in model.parameters()])
    for handle in handles:
        handle.remove()
    return counts[1] - counts[0], max(float(np.abs(a - b).max()) for a, b in zip(*gradients))
