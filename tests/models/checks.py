"""What the tests of the ViT-like families ask of every model."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import paddle
import paddle.inference
from paddle import nn

from paddlevit.models import create_model
from tests.golden.fill import fill, image

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


def golden_error(name: str) -> float:
    """Relative error of our logits for a golden file made with timm; fails unless every parameter has its value."""
    with np.load(GOLDEN / f"{name}.npz") as archive:
        meta, reference = json.loads(str(archive["meta"])), archive["logits"]
    renamed = {"img_size": "image_size", "in_chans": "in_channels"}
    options = {renamed.get(key, key): value for key, value in meta["kwargs"].items()}
    model = create_model(meta["model"], **options)
    model.eval()
    assert sum(int(parameter.size) for parameter in model.parameters()) == meta["params"]

    linear = {f"{path}.weight" for path, layer in model.named_sublayers() if isinstance(layer, nn.Linear)}
    state = {}
    for key, shape in meta["state"].items():
        ours = key
        for pattern, replacement in TIMM_NAMES:
            ours = re.sub(pattern, replacement, ours)
        value = fill(key, tuple(shape))
        state[ours] = value.T if ours in linear else value
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in state.items()}
    model.set_state_dict(state)
    with paddle.no_grad():
        return relative_error(model(paddle.to_tensor(image(tuple(meta["input"])))).numpy(), reference)


def table_row(name: str) -> dict[str, str]:
    """timm's parameter count, classes and data settings of a model."""
    lines = (GOLDEN / "param_counts.tsv").read_text().splitlines()
    header = lines[0].split("\t")
    return next(dict(zip(header, line.split("\t"))) for line in lines if line.split("\t")[0] == name)


def our_row(name: str) -> dict[str, str]:
    """The same of our model, built without memory for its parameters."""
    with paddle.LazyGuard():
        model = create_model(name)
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
