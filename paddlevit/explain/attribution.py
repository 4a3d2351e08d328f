"""Which part of the picture did it? Five answers, each a map over the picture's patches.

Shapes: B batch, C image channels, H W image height and width, N tokens, D width, h heads, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import paddle
from paddle import nn

from paddlevit.errors import check_choice
from paddlevit.explain.recording import AttentionCall, record, select_layers, to_numpy
from paddlevit.hooks import watch

HEAD_FUSIONS = ("mean", "max", "min")


def class_attention(model: nn.Layer, images: paddle.Tensor, layer: int = -1, mass: float = 1.0) -> np.ndarray:
    """How much the token that is classified looks at each patch, for every head (DINO, arXiv 2104.14294, figure 1).

    That token is the class token; with a distillation token, both, averaged; SigLIP's learned query; and where the mean
    of the patches is classified, all patches, averaged.

    Args:
        model: One of this library's models.
        images: [B, C, H, W], preprocessed.
        layer: Index of the attention layer, negative ones from the end.
        mass: Keep only the fewest patches that hold this share of the attention; the others become 0.

    Returns:
        [B, h, rows, columns].

    Raises:
        ValueError: `mass` outside (0, 1], or no such layer.
    """
    if not 0.0 < mass <= 1.0:
        raise ValueError(f"mass is {mass}; it must be above 0 and at most 1.")
    with paddle.no_grad():
        _, calls = record(model, images)
    (call,) = select_layers(calls, [layer])
    maps = call.layout.maps(_read(model, call))  # [B, h, rows, columns]
    if mass < 1.0:
        flat = maps.reshape(*maps.shape[:2], -1)
        order = np.argsort(-flat, axis=-1, kind="stable")
        sorted_flat = np.take_along_axis(flat, order, axis=-1)
        before = np.cumsum(sorted_flat, axis=-1) - sorted_flat  # what the patches that look stronger hold
        np.put_along_axis(flat, order, np.where(before < mass * flat.sum(-1, keepdims=True), sorted_flat, 0.0), axis=-1)
        maps = flat.reshape(maps.shape)
    return maps


def _read(model: nn.Layer, call: AttentionCall) -> np.ndarray:
    """[B, h, N], the rows of the attention that belong to what is classified, averaged."""
    matrix = call.matrix()  # [B, h, N, N] or [B, h, 1, N]
    if call.is_pooling:
        return matrix[:, :, 0]
    return np.einsum("n,bhnm->bhm", _readers(model, call), matrix)


def _readers(model: nn.Layer, call: AttentionCall) -> np.ndarray:
    """[N], share of each token in the vector that is classified."""
    prefix, shares = call.layout.num_prefix, np.zeros(call.layout.num_tokens)
    if prefix == 0 or getattr(model, "pool", "token") != "token":
        shares[prefix:] = 1.0
    elif hasattr(model, "classifier_distillation"):
        shares[:2] = 1.0
    else:
        shares[0] = 1.0
    return shares / shares.sum()


def fuse_heads(weights: np.ndarray, head_fusion: str = "mean") -> np.ndarray:
    """[B, h, N, N] -> [B, N, N]: the mean, maximum or minimum over the heads."""
    check_choice("head_fusion", head_fusion, HEAD_FUSIONS)
    return getattr(weights.astype(np.float64), head_fusion)(axis=1)


def _with_residual(attention: np.ndarray) -> np.ndarray:
    attention = 0.5 * attention + 0.5 * np.eye(attention.shape[-1])
    return attention / attention.sum(axis=-1, keepdims=True)


def rollout(weights: Sequence[np.ndarray], head_fusion: str = "mean") -> np.ndarray:
    """Attention rollout (Quantifying Attention Flow in Transformers, Abnar and Zuidema 2020, arXiv 2005.00928).

    Half of what a layer passes on is its input, by the shortcut, and half what it looked at; rows are normalised, and
    the layers' matrices are multiplied.

    Args:
        weights: [B, h, N, N] of each layer, first layer first.
        head_fusion: How heads become one: `mean`, `max` or `min`.

    Returns:
        [B, N, N]; row i says of which input tokens the output token i consists, and sums to one.
    """
    result = np.eye(weights[0].shape[-1])
    for layer in weights:
        result = _with_residual(fuse_heads(layer, head_fusion)) @ result
    return result


def _stack(calls: Sequence[AttentionCall]) -> list[AttentionCall]:
    """The self-attention layers that work on the same tokens, from the first to the last; Swin's stages count as one.

    T2T-ViT's attention between its soft splits, before there is a class token, does not belong to them.
    """
    layers = [call for call in calls if not call.is_pooling]
    return [call for call in layers if call.layout.num_prefix == layers[-1].layout.num_prefix]


def _before_merging(relevance: np.ndarray, before: AttentionCall, after: AttentionCall) -> np.ndarray:
    """[B, N after] -> [B, N before]: a merged token hands equal shares to the tokens it was made of."""
    (rows, columns), (merged_rows, merged_columns) = before.layout.grid, after.layout.grid
    if before.layout.grid == after.layout.grid:
        return relevance
    owner = np.arange(rows)[:, None] // -(-rows // merged_rows) * merged_columns
    owner = (owner + np.arange(columns) // -(-columns // merged_columns)).reshape(-1)  # [N before]
    return relevance[:, owner] / np.bincount(owner, minlength=relevance.shape[1])[owner]


def _start(model: nn.Layer, stack: Sequence[AttentionCall], pooling: np.ndarray | None, batch: int) -> np.ndarray:
    """[B, N], share of each output token in what is classified; `pooling` is [B, 1, patches] of a query."""
    last = stack[-1]
    if pooling is None:
        return np.tile(_readers(model, last), (batch, 1))
    return np.pad(pooling[:, 0].astype(np.float64), ((0, 0), (last.layout.num_tokens - pooling.shape[-1], 0)))


def _descend(relevance: np.ndarray, stack: Sequence[AttentionCall], steps: Callable[[int], np.ndarray]) -> np.ndarray:
    """Carry [B, N] of the last outputs through `steps(i)`, [B, N, N] of layer i, to a map of the first inputs."""
    for i in reversed(range(len(stack))):
        relevance = np.einsum("bn,bnm->bm", relevance, steps(i))
        if i:
            relevance = _before_merging(relevance, stack[i - 1], stack[i])
    return stack[0].layout.maps(relevance)


def attention_rollout(model: nn.Layer, images: paddle.Tensor, head_fusion: str = "mean") -> np.ndarray:
    """The row of `rollout` that belongs to what is classified, as a map.

    Swin's patch merging hands equal shares to the four tokens it was made of, so its map is as fine as its first stage.

    Args:
        model: One of this library's models.
        images: [B, C, H, W], preprocessed.
        head_fusion: `mean`, `max` or `min`.

    Returns:
        [B, rows, columns].
    """
    with paddle.no_grad():
        _, calls = record(model, images)
    stack = _stack(calls)
    pooling = fuse_heads(to_numpy(calls[-1].weights), head_fusion) if calls[-1].is_pooling else None

    def step(i: int) -> np.ndarray:
        fused = fuse_heads(to_numpy(stack[i].weights), head_fusion)  # before it is placed: h times smaller
        return _with_residual(stack[i].layout.matrix(fused[:, None])[:, 0])

    return _descend(_start(model, stack, pooling, len(images)), stack, step)


def choose_target(output: paddle.Tensor, target: int | Sequence[int] | None) -> list[int]:
    """Class of each picture: the predicted one for None, the same for a number, or one each.

    Raises:
        ValueError: No such class, or another number of classes than pictures.
    """
    batch, classes = output.shape
    if target is None:
        return [int(index) for index in output.argmax(axis=1).numpy()]
    chosen = [target] * batch if isinstance(target, int) else [int(index) for index in target]
    if len(chosen) != batch:
        raise ValueError(f"target has {len(chosen)} classes for {batch} pictures; give one number or one per picture.")
    if any(not 0 <= index < classes for index in chosen):
        raise ValueError(f"target is {target}; this model has {classes} classes, 0 to {classes - 1}.")
    return chosen


def _score(output: paddle.Tensor, target: int | Sequence[int] | None) -> paddle.Tensor:
    chosen = paddle.to_tensor(choose_target(output, target))
    return (output * nn.functional.one_hot(chosen, output.shape[1]).astype(output.dtype)).sum()


def _with_gradients(
    model: nn.Layer, images: paddle.Tensor, target: int | Sequence[int] | None
) -> tuple[paddle.Tensor, list[AttentionCall]]:
    images = images.detach()
    images.stop_gradient = False  # so that a model with frozen parameters has gradients too
    output, calls = record(model, images)
    return _score(output, target), calls


def gradient_rollout(model: nn.Layer, images: paddle.Tensor, target: int | Sequence[int] | None = None) -> np.ndarray:
    """Attention weighted by how much it raises the score of a class (Chefer et al. 2021, arXiv 2103.15679, equation 5).

    In each layer the weights are multiplied by their gradient, negative products dropped, heads averaged: the result C
    updates the relevance R = R + C R.

    Args:
        model: One of this library's models.
        images: [B, C, H, W], preprocessed.
        target: Class to explain: None for the predicted one, one number, or one per picture.

    Returns:
        [B, rows, columns].
    """
    score, calls = _with_gradients(model, images, target)
    gradients = paddle.grad(score, [call.weights for call in calls])
    helpful = {
        call.name: np.maximum(to_numpy(call.weights) * to_numpy(gradient), 0.0).mean(axis=1)
        for call, gradient in zip(calls, gradients)
    }
    stack = _stack(calls)
    pooling = helpful[calls[-1].name] if calls[-1].is_pooling else None

    def step(i: int) -> np.ndarray:
        matrix = stack[i].layout.matrix(helpful[stack[i].name][:, None])[:, 0]
        return np.eye(matrix.shape[-1]) + matrix

    return _descend(_start(model, stack, pooling, len(images)), stack, step)


def grad_cam(
    model: nn.Layer, images: paddle.Tensor, target: int | Sequence[int] | None = None, layer: int = -1
) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) on the tokens that enter a self-attention layer.

    Each feature is weighted by the mean over the patches of the score's gradient; what lowers the score is dropped. The
    tokens are taken after the normalisation before the attention: behind the last layer, a class token's model has no
    gradient at the patches any more.

    Args:
        model: One of this library's models.
        images: [B, C, H, W], preprocessed.
        target: Class to explain: None for the predicted one, one number, or one per picture.
        layer: Index of the self-attention layer, negative ones from the end.

    Returns:
        [B, rows, columns], 0 or more.
    """
    score, calls = _with_gradients(model, images, target)
    (call,) = select_layers([call for call in calls if not call.is_pooling], [layer])
    (gradient,) = paddle.grad(score, [call.tokens])
    prefix = call.layout.num_prefix
    tokens, gradients = (call.layout.tokens(to_numpy(x))[:, prefix:] for x in (call.tokens, gradient))  # [B, N, D]
    cam = np.einsum("bnd,bd->bn", tokens, gradients.mean(axis=1))
    return np.maximum(cam, 0.0).reshape(-1, *call.layout.grid)


def occlusion(
    model: nn.Layer,
    images: paddle.Tensor,
    target: int | Sequence[int] | None = None,
    patch_size: int | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """How much the score falls when a square of the picture is hidden (Zeiler and Fergus 2014, arXiv 1311.2901).

    Args:
        model: Anything that maps [B, C, H, W] to [B, K].
        images: [B, C, H, W], preprocessed; a hidden square is 0, the mean colour.
        target: Class to explain: None for the predicted one, one number, or one per picture.
        patch_size: Side of the squares, which lie side by side, in pixels; None is a seventh of the short side.
        batch_size: Pictures in one forward pass.

    Returns:
        [B, H / patch_size, W / patch_size], rounded up: the score of the whole picture minus that without the square.
    """
    patch_size = patch_size or max(1, round(min(images.shape[2:]) / 7))
    rows, columns = (-(-size // patch_size) for size in images.shape[2:])
    squares = [
        (slice(r * patch_size, (r + 1) * patch_size), slice(c * patch_size, (c + 1) * patch_size))
        for r in range(rows)
        for c in range(columns)
    ]
    with watch(model, {}), paddle.no_grad():
        output = model(images)
        chosen = choose_target(output, target)
        drops = []
        for image, label, full in zip(images.numpy(), chosen, to_numpy(output)):
            scores = []
            for first in range(0, len(squares), batch_size):
                hidden = np.stack([image] * len(squares[first : first + batch_size]))
                for copy, (row, column) in zip(hidden, squares[first : first + batch_size]):
                    copy[:, row, column] = 0.0
                scores.append(to_numpy(model(paddle.to_tensor(hidden)))[:, label])
            drops.append(full[label] - np.concatenate(scores))
    return np.stack(drops).reshape(-1, rows, columns)
