"""What the plain Vision Transformers share: one grid of patches, one encoder of equal layers.

Shapes: B batch, C image channels, H W image height and width, P patch side, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import paddle
from paddle import nn
from paddle.nn.initializer import Initializer


@dataclass(frozen=True)
class Initialization:
    """What the parameters of a new network are drawn from; every other bias starts at 0, every norm at 1 and 0."""

    patch: Initializer
    """Weight of the patch projection."""
    patch_bias: Initializer
    """Its bias."""
    token: Initializer
    """Class token and other learned tokens."""
    position: Initializer
    """Learned positions."""
    attention: Initializer
    """Weights of queries, keys and values, and of the output."""
    mlp: Initializer
    """Weights of the MLP."""
    mlp_bias: Initializer
    """Its biases."""
    classifier_std: float
    """Standard deviation of the classifier's weights; 0 makes training start from equal probabilities."""


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches; ValueError when the patches do not fill the picture."""
    if any(size % patch for size, patch in zip(image_size, patch_size)):
        raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch_size}.")
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]


def check_picture(x: paddle.Tensor, in_channels: int, image_size: tuple[int, int]) -> None:
    """Raise ValueError unless the batch has the shape that the network was built for, as far as it is known."""
    wanted, given = (in_channels, *image_size), x.shape[1:]
    known = [isinstance(size, int) and size >= 0 for size in given]  # in a program, others come with the picture
    if len(given) != 3 or any(fixed and size != want for fixed, size, want in zip(known, given, wanted)):
        raise ValueError(
            f"The input has shape {list(x.shape)}; this model was built for [batch, {in_channels}, {image_size[0]},"
            f" {image_size[1]}]. Build it with another image_size or in_channels, or resize the picture."
        )


def layer_maps(
    layers: nn.LayerList,
    x: paddle.Tensor,
    indices: Iterable[int] | None,
    num_prefix: int,
    grid_size: tuple[int, int],
) -> list[paddle.Tensor]:
    """What the patch tokens are after some encoder layers, as maps.

    Args:
        layers: The encoder's layers.
        x: [B, N, D], the embedded tokens.
        indices: Of layers, negative ones from the end; None is all of them.
        num_prefix: Tokens before the patches.
        grid_size: Rows and columns of patches.

    Returns:
        One [B, D, rows, columns] per index, in the order asked for.

    Raises:
        ValueError: An index outside the encoder.
    """
    depth = len(layers)
    wanted = list(range(depth)) if indices is None else list(indices)
    if any(not -depth <= index < depth for index in wanted):
        raise ValueError(f"layers is {wanted}; this encoder has {depth} layers, 0 to {depth - 1}.")
    maps = []
    for layer in layers:
        x = layer(x)
        patches = x[:, num_prefix:].transpose([0, 2, 1])  # [B, D, N]
        maps.append(patches.reshape([0, 0, *grid_size]))  # [B, D, H / P, W / P]
    return [maps[index] for index in wanted]


def parameter_depth(name: str, depth: int) -> int:
    """Depth of a parameter for layer-wise learning rates: 0 the embedding, 1.. the layers, then norm and head."""
    if name.startswith("patch_embedding."):
        return 0
    if name.startswith("encoder.layers."):
        return int(name.split(".")[2]) + 1
    return depth + 1
