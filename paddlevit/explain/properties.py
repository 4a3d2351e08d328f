"""What a model has learned, and what its tokens hold: positions, filters, distances, norms, dense features.

Shapes: B batch, C image channels, H W image height and width, P patch side, N tokens, D width, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn

from paddlevit.explain.recording import AttentionCall, record, to_numpy, token_grid
from paddlevit.hooks import watch


def position_similarity(model: nn.Layer) -> np.ndarray:
    """How alike the position embeddings of two patches are (ViT paper, figure 7, centre).

    Args:
        model: A model with an absolute position for each patch, learned or not.

    Returns:
        [rows, columns, rows, columns], cosines between -1 and 1.

    Raises:
        ValueError: The model adds no positions to its tokens.
    """
    table = position_table(model)
    if table is None:
        raise ValueError(
            f"{type(model).__name__} adds no position embedding to its tokens (Swin has relative positions);"
            " leave this method out."
        )
    rows, columns = token_grid(model, len(table))
    positions = _unit(table[len(table) - rows * columns :])  # the patches are last
    return (positions @ positions.T).reshape(rows, columns, rows, columns)


def position_table(model: nn.Layer) -> np.ndarray | None:
    """[N, D], what a model adds to its tokens for their positions; None when it adds nothing."""
    for layer in model.sublayers(include_self=True):
        table = getattr(layer, "position_embedding", getattr(layer, "pos_embed", None))
        if isinstance(table, paddle.Tensor):
            return to_numpy(table)[0]
    return None


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def patch_filters(model: nn.Layer, count: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the filters that see the pixels (ViT paper, figure 7, left).

    They are the kernels of the first convolution or, where squares are cut out by Unfold, the weights of the first
    linear layer after it.

    Args:
        model: One of this library's models.
        count: How many components, strongest first; at most all.

    Returns:
        The components, [count, C, P, P], each of length 1 with a positive largest value, and the share of the filters'
        variance that each explains, [count].

    Raises:
        ValueError: No layer of the model sees pixels, or a count below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1.")
    filters = _pixel_filters(model)  # [D, C, P, P]
    flat = filters.reshape(len(filters), -1)
    _, strengths, components = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    components, shares = components[:count], strengths**2 / max(float((strengths**2).sum()), 1e-30)
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return (components * np.sign(largest)).reshape(-1, *filters.shape[1:]), shares[:count]


def _pixel_filters(model: nn.Layer) -> np.ndarray:
    side = None
    for layer in model.sublayers():
        if isinstance(layer, nn.Conv2D):
            return to_numpy(layer.weight)
        if isinstance(layer, nn.Unfold) and side is None:
            side = layer.kernel_sizes
        if isinstance(layer, nn.Linear) and side is not None:
            return to_numpy(layer.weight).T.reshape(layer.weight.shape[1], -1, side, side)
    raise ValueError(f"{type(model).__name__} has no convolution or Unfold that sees pixels; leave this method out.")


def attention_distance(model: nn.Layer, images: paddle.Tensor) -> np.ndarray:
    """Mean distance between a patch and those it looks at, weighted by attention (ViT paper, figure 7, right).

    What a patch gives to class token, registers or padding counts as no distance.

    Args:
        model: One of this library's models.
        images: [B, C, H, W], preprocessed.

    Returns:
        [layers, h], in pixels, averaged over the patches that look and over the pictures; self-attention layers only,
        first layer first, and NaN where a layer has fewer heads than another.
    """
    totals: dict[str, np.ndarray] = {}
    for image in images:  # one at a time: the weights of all layers are large
        with paddle.no_grad():
            _, calls = record(model, image.unsqueeze(0))
        for call in calls:
            if not call.is_pooling:
                totals[call.name] = totals.get(call.name, 0.0) + _mean_distance(call, images.shape[2:])
    result = np.full((len(totals), max(map(len, totals.values()))), np.nan)
    for row, total in zip(result, totals.values()):
        row[: len(total)] = total / len(images)
    return result


def _mean_distance(call: AttentionCall, image_size: Sequence[int]) -> np.ndarray:
    """[h], for one picture."""
    (rows, columns), places = call.layout.grid, call.layout.places  # [nW, n]
    height, width = image_size
    points = np.stack([places // columns * (height / rows), places % columns * (width / columns)], axis=-1)
    distances = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)  # [nW, n, n]
    patches = places >= 0
    distances *= patches[:, :, None] & patches[:, None]
    return np.einsum("whij,wij->h", to_numpy(call.weights), distances) / patches.sum()


def dense_features(model: nn.Layer, images: paddle.Tensor, layer: int = -1) -> np.ndarray:
    """A layer's patch tokens.

    Args:
        model: A model with `feature_maps`.
        images: [B, C, H, W], preprocessed.
        layer: Index as `feature_maps` counts: encoder layers, for Swin stages; negative ones from the end.

    Returns:
        [B, rows, columns, D], before the last normalisation.
    """
    with watch(model, {}), paddle.no_grad():
        maps = [to_numpy(model.feature_maps(image.unsqueeze(0), [layer])[0]) for image in images]
    return np.concatenate(maps).transpose(0, 2, 3, 1)


def token_norms(model: nn.Layer, images: paddle.Tensor, layer: int = -1) -> np.ndarray:
    """Length of each patch token; a few very long ones in flat regions are what registers cure (arXiv 2309.16588).

    Args:
        model: A model with `feature_maps`.
        images: [B, C, H, W], preprocessed.
        layer: See `dense_features`.

    Returns:
        [B, rows, columns].
    """
    return np.linalg.norm(dense_features(model, images, layer), axis=-1)


def feature_components(model: nn.Layer, images: paddle.Tensor, layer: int = -1, count: int = 3) -> np.ndarray:
    """Principal components of the patch tokens of all pictures together (DINOv2, arXiv 2304.07193, figure 1).

    Each token is normalised first, so that a few long ones do not decide. A part that means the same gets the same
    values in every picture.

    Args:
        model: A model with `feature_maps`.
        images: [B, C, H, W], preprocessed.
        layer: See `dense_features`.
        count: How many components, strongest first.

    Returns:
        [B, rows, columns, count], each component from 0 to 1 over the batch.
    """
    features = dense_features(model, images, layer)
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    flat = _unit(flat - flat.mean(axis=1, keepdims=True))
    flat -= flat.mean(axis=0)
    _, _, directions = np.linalg.svd(flat, full_matrices=False)
    directions = directions[:count]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    values = flat @ (directions * np.sign(largest)).T  # [B * N, count]
    low, high = values.min(axis=0), values.max(axis=0)
    return ((values - low) / np.maximum(high - low, 1e-12)).reshape(*features.shape[:3], -1)


def patch_similarity(model: nn.Layer, images: paddle.Tensor, point: tuple[int, int], layer: int = -1) -> np.ndarray:
    """How alike every patch's token is to that of one patch of the first picture.

    Args:
        model: A model with `feature_maps`.
        images: [B, C, H, W], preprocessed.
        point: x and y of a pixel of the first picture; its patch is compared with all patches of all pictures.
        layer: See `dense_features`.

    Returns:
        [B, rows, columns], cosines between -1 and 1.

    Raises:
        ValueError: The point lies outside the picture.
    """
    height, width = images.shape[2:]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"point is {x},{y}; the network's input is {width} pixels wide and {height} high.")
    features = _unit(dense_features(model, images, layer))  # [B, rows, columns, D]
    rows, columns = features.shape[1:3]
    return features @ features[0, y * rows // height, x * columns // width]
