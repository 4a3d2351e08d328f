"""The graph that is exported: a network with what stands before and behind it.

Shapes: B batch, C image channels, H W image height and width, N tokens, D width, h heads, M window side, nW windows per
map, K classes.
"""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn import functional

from paddlevit.inference.folding import join_classifiers
from paddlevit.layers import Identity
from paddlevit.models.deit import DistilledVisualTransformer
from paddlevit.models.hierarchical import HierarchicalTransformer


class Graph(nn.Layer):
    """A network as it is deployed.

    Args:
        network: After `simplify`; loses its classifier to this layer.
        picture_input: [B, H, W, C] bytes -> [B, C, H, W]; None takes [B, C, H, W] itself.
        softmax: Whether probabilities come out in place of logits.
        features: Whether the vector that is classified comes out too; of a distilled DeiT, the mean of both tokens.
        attention: Whether a map of the last attention comes out too.
    """

    def __init__(
        self,
        network: nn.Layer,
        picture_input: nn.Layer | None = None,
        softmax: bool = False,
        features: bool = False,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.picture_input = network, picture_input
        self.softmax, self.features = softmax, features
        self.attention = AttentionMap(network) if attention else None
        self.distilled = isinstance(network, DistilledVisualTransformer)
        self.classifier = take_classifier(network)

    @property
    def output_names(self) -> list[str]:
        """What comes out, in order."""
        names = ["probabilities" if self.softmax else "logits"]
        return names + ["features"] * self.features + ["attention"] * (self.attention is not None)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """[B, C, H, W] or bytes [B, H, W, C] -> [B, K], and if wanted [B, D] and [B, rows, columns]."""
        if self.picture_input is not None:
            x = self.picture_input(x)  # [B, C, H, W]
        tokens = self.network.forward_features(x)  # [B, N, D]
        features = self.network.forward_head(tokens)  # [B, D], as the classifier is an Identity
        logits = self.classifier(tokens[:, :2].flatten(1) if self.distilled else features)  # [B, K]
        outputs = [functional.softmax(logits) if self.softmax else logits]
        if self.features:
            outputs.append(features)
        if self.attention is not None:
            outputs.append(self.attention())
        return outputs


def find_classifier(network: nn.Layer) -> tuple[nn.Layer, str]:
    """The layer that owns the classifier, and the classifier's name there."""
    backbone = getattr(network, getattr(network, "backbone_name", ""), network)
    for name in ("classifier", "head"):
        if name in backbone._sub_layers:
            return backbone, name
    raise ValueError(f"{type(network).__name__} has neither classifier nor head.")


def take_classifier(network: nn.Layer) -> nn.Layer:
    """Put an Identity in the classifier's place and return it; the two of a distilled DeiT become one."""
    owner, name = find_classifier(network)
    classifier = getattr(owner, name)
    if isinstance(network, DistilledVisualTransformer):
        other = network.classifier_distillation
        network.classifier_distillation = Identity()
        classifier = HalfSum() if isinstance(classifier, Identity) else join_classifiers(classifier, other)
    setattr(owner, name, Identity())
    return classifier


class HalfSum(nn.Layer):
    """[B, 2D] -> [B, D], the mean of both halves."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        first, second = x.chunk(2, axis=1)
        return (first + second) / 2


class AttentionMap(nn.Layer):
    """How much what is classified looks at each part of the picture: the last attention, averaged over heads.

    Class, distillation and learned query tokens look themselves; elsewhere all patches do, averaged.

    Args:
        network: After `simplify`, for one size of pictures; its last softmax is watched.
    """

    def __init__(self, network: nn.Layer) -> None:
        super().__init__()
        softmaxes = [layer for layer in network.sublayers() if isinstance(layer, nn.Softmax)]
        self.weights: list[paddle.Tensor] = []
        softmaxes[-1].register_forward_post_hook(lambda layer, inputs, output: self.weights.append(output))
        self.windows = None
        if isinstance(network, HierarchicalTransformer):
            stage = network.layers[len(network.layers) - 1]
            self.windows = stage.windows[(len(stage.blocks) - 1) % 2]
        self.grid = token_grid(network)
        self.class_token = getattr(network, "pool", "token") == "token"

    def forward(self) -> paddle.Tensor:
        """-> [B, rows, columns], after the network has run."""
        weights = self.weights.pop()  # [B, h, readers, N], in Swin [B * nW, h, M * M, M * M]
        patches = self.grid[0] * self.grid[1]
        if self.windows is not None:
            share = weights.shape[2] / patches  # a window's readers are so many of all
            seen = (weights.mean(axis=[1, 2]) * share).reshape([-1, self.windows.index.shape[0]])
            return seen.index_select(self.windows.inverse, axis=1).reshape([-1, *self.grid])
        prefix = weights.shape[3] - patches
        if weights.shape[2] == weights.shape[3]:
            weights = weights[:, :, :1] if self.class_token else weights[:, :, prefix:]
        return weights[:, :, :, prefix:].mean(axis=[1, 2]).reshape([-1, *self.grid])


def token_grid(network: nn.Layer) -> tuple[int, int]:
    """Rows and columns of the tokens that the last attention looks at."""
    if isinstance(network, HierarchicalTransformer):
        height, width = network.patch_embed.map_size(network.preprocessing.image_size)
        for _ in range(len(network.layers) - 1):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width
    owners = [network, *network.children()]
    return next(tuple(owner.grid_size) for owner in owners if hasattr(owner, "grid_size"))
