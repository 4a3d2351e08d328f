"""A network of stages whose maps grow smaller and wider: what Swin and Swin V2 share around their blocks.

Shapes: B batch, C image channels, H W height and width of the picture or of a map of tokens, P patch side, N tokens,
D width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn

from paddlevit.layers import set_classifier

INIT_STD = 0.02


def per_stage(name: str, value: int | Sequence[int], depths: Sequence[int]) -> list[int]:
    """One value for each stage, from one for all or from one each; ValueError for another number of them."""
    values = [value] * len(depths) if isinstance(value, int) else list(value)
    if len(values) != len(depths):
        raise ValueError(f"{name} has {len(values)} values and depths has {len(depths)}; each needs one per stage.")
    return values


class HierarchicalTransformer(nn.Layer):
    """Patches, stages, a last normalisation, the mean of the tokens and a linear head.

    Args:
        patch_embed: [B, C, H, W] -> [B, N, D], and height and width of the map.
        layers: The stages, each with `blocks`, `run_blocks`, `downsample` (the last one's is None) and `forward`.
        num_features: Width of the last stage.
        dropout: Probability of dropping a value of the embedded tokens.
        num_classes: K.
    """

    def __init__(
        self, patch_embed: nn.Layer, layers: Sequence[nn.Layer], num_features: int, dropout: float, num_classes: int
    ) -> None:
        super().__init__()
        self.num_layers, self.num_features = len(layers), num_features
        self.patch_embed = patch_embed
        self.pos_drop = nn.Dropout(dropout)
        self.layers = nn.LayerList(layers)
        self.norm = nn.LayerNorm(num_features, epsilon=1e-5)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """A new classifier of `num_classes` outputs; 0 lets the features through."""
        set_classifier(self, num_classes, name="head", init_std=INIT_STD)

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, N, D], the normalised tokens of the last stage."""
        x, height, width = self.patch_embed(x)
        x = self.pos_drop(x)
        for layer in self.layers:
            x, height, width = layer(x, height, width)
        return self.norm(x)

    def forward_head(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, K]."""
        return self.head(x.mean(axis=1))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, K], the logits."""
        return self.forward_head(self.forward_features(x))

    def feature_maps(self, x: paddle.Tensor, layers: Sequence[int] | None = None) -> list[paddle.Tensor]:
        """The pyramid for detectors: what the tokens are after some stages, before merging, as maps.

        Args:
            x: [B, C, H, W].
            layers: Indices of stages, negative ones from the end; None is all of them.

        Returns:
            One [B, D * 2 ** i, H / (P * 2 ** i), W / (P * 2 ** i)] per index i, in the order asked for, sizes rounded
            up, before the last normalisation.

        Raises:
            ValueError: An index outside the network.
        """
        stages = self.num_layers
        wanted = list(range(stages)) if layers is None else list(layers)
        if any(not -stages <= index < stages for index in wanted):
            raise ValueError(f"layers is {wanted}; this network has {stages} stages, 0 to {stages - 1}.")
        x, height, width = self.patch_embed(x)
        x, maps = self.pos_drop(x), []
        for layer in self.layers:
            x = layer.run_blocks(x, height, width)
            maps.append(x.transpose([0, 2, 1]).reshape([0, 0, height, width]))  # [B, D, H, W]
            if layer.downsample is not None:
                x, height, width = layer.downsample(x, height, width), (height + 1) // 2, (width + 1) // 2
        return [maps[index] for index in wanted]

    def layer_index(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 the embedding, 1.. the blocks, then norm and head.

        A merging belongs to the block before it.
        """
        depths = [len(layer.blocks) for layer in self.layers]
        part = name.split(".")
        if part[0] == "patch_embed":
            return 0
        if part[0] != "layers":
            return sum(depths) + 1
        stage = int(part[1])
        return sum(depths[:stage]) + (int(part[3]) + 1 if part[2] == "blocks" else depths[stage])
