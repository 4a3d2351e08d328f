"""Layers for a graph that takes pictures of any size: positions are worked out when it runs.

Learned positions are resized as `paddlevit.load_weights` resizes them (bicubic, antialiased), so the graph answers as
the network built for that size with the same weights; only a grid of as many patches in another shape (2 x 8 for 4 x 4)
is resized here, where loading takes it as it is. Heights and widths are tensors [] here.

Shapes: B batch, C image channels, H W image height and width, N tokens, D width.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

from paddlevit.inference.resample import count_up, real, resize_matrix
from paddlevit.inference.windows import DynamicPatchEmbed
from paddlevit.models.deit import DistilledVisualTransformer
from paddlevit.models.foundation import FoundationTransformer
from paddlevit.models.hierarchical import HierarchicalTransformer
from paddlevit.models.t2t_module import SOFT_SPLITS
from paddlevit.models.t2t_vit import T2TViT
from paddlevit.models.vit import VisualTransformer


class ResizedPositions(nn.Layer):
    """Learned positions of a grid of patches, resized to the grid of the picture at hand.

    Args:
        positions: [rows * columns, D] for the grid that the network was built for.
        grid_size: Its rows and columns.
    """

    def __init__(self, positions: np.ndarray, grid_size: tuple[int, int]) -> None:
        super().__init__()
        self.grid_size = grid_size
        grid = positions.astype(np.float32).reshape(*grid_size, -1)
        self.register_buffer("grid", paddle.to_tensor(grid), persistable=True)

    def forward(self, rows: paddle.Tensor, columns: paddle.Tensor) -> paddle.Tensor:
        """-> [1, rows * columns, D]."""
        dim = self.grid.shape[2]
        down = resize_matrix(self.grid_size[0], rows, count_up(rows)).astype("float32")  # [rows, old rows]
        across = resize_matrix(self.grid_size[1], columns, count_up(columns)).astype("float32")
        x = paddle.matmul(down, self.grid.flatten(1))  # [rows, old columns * D]
        x = x.reshape([-1, self.grid_size[1], dim])  # [rows, old columns, D]
        return paddle.matmul(across, x).reshape([1, -1, dim])  # [1, rows * columns, D]


class SinePositions(nn.Layer):
    """`paddlevit.layers.sinusoid_table` for as many patches as there are.

    Args:
        dim: Width D.
        first: Position of the first patch.
    """

    def __init__(self, dim: int, first: int) -> None:
        super().__init__()
        self.first = first
        columns = np.arange(dim)
        frequency = np.power(10000.0, -2.0 * (columns // 2) / dim)
        self.register_buffer("frequency", paddle.to_tensor(frequency), persistable=True)
        self.register_buffer("even", paddle.to_tensor((columns % 2 == 0).astype(np.float32)), persistable=True)

    def forward(self, rows: paddle.Tensor, columns: paddle.Tensor) -> paddle.Tensor:
        """-> [1, rows * columns, D]."""
        places = count_up(rows * columns) + real(self.first)
        angles = places.reshape([-1, 1]) * self.frequency  # [N, D]; float32 would be off by 1e-4 far out
        sine, cosine = paddle.sin(angles).astype("float32"), paddle.cos(angles).astype("float32")
        return (self.even * sine + (1.0 - self.even) * cosine).reshape([1, -1, self.even.shape[0]])


class DynamicEmbedding(nn.Layer):
    """Patches of a picture of any size as tokens, with positions and the tokens that stand before them.

    Args:
        patches: [B, C, H, W] -> [B, D, rows, columns].
        positions: (rows, columns) -> [1, N, D]; None has none.
        prefix: [1, prefix, D], tokens before the patches, their positions already in them; None has none.
        concat: Whether positions stand beside the patches' features instead of being added.
    """

    def __init__(
        self, patches: nn.Layer, positions: nn.Layer | None, prefix: np.ndarray | None, concat: bool = False
    ) -> None:
        super().__init__()
        self.patches, self.positions, self.concat = patches, positions, concat
        self.num_prefix = 0 if prefix is None else prefix.shape[1]
        self.register_buffer("prefix", None if prefix is None else paddle.to_tensor(prefix), persistable=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, prefix + N, D]."""
        x = self.patches(x)  # [B, D, rows, columns]
        size = paddle.shape(x)
        rows, columns = size[2], size[3]
        x = x.flatten(2).transpose([0, 2, 1])  # [B, N, D]
        if self.positions is not None and self.concat:
            positions = self.positions(rows, columns).expand([size[0], -1, -1])
            x = paddle.concat([x, positions], axis=2)
        elif self.positions is not None:
            x = x + self.positions(rows, columns)
        if self.prefix is not None:
            x = paddle.concat([self.prefix.expand([size[0], -1, -1]), x], axis=1)
        return x


class DynamicTokens(nn.Layer):
    """T2T's soft splits of a picture of any size.

    Args:
        module: `T2TModule` of the network.
    """

    def __init__(self, module: nn.Layer) -> None:
        super().__init__()
        self.splits = nn.LayerList([module.soft_split0, module.soft_split1, module.soft_split2])
        self.attentions = nn.LayerList([module.attention1, module.attention2])
        self.project = module.project

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, D, rows, columns]."""
        mixers = [self.attentions[0], self.attentions[1], self.project]
        for split, mixer, (kernel, stride, padding) in zip(self.splits, mixers, SOFT_SPLITS):
            size = paddle.shape(x)
            rows = (size[2] + 2 * padding - kernel) // stride + 1
            columns = (size[3] + 2 * padding - kernel) // stride + 1
            x = mixer(split(x).transpose([0, 2, 1]))  # [B, rows * columns, t]
            x = x.transpose([0, 2, 1]).reshape([0, 0, rows, columns])  # [B, t, rows, columns]
        return x


class DynamicT2T(nn.Layer):
    """T2T-ViT around an embedding for pictures of any size.

    Args:
        network: The network; its blocks, norm and head are used.
        embedding: [B, C, H, W] -> [B, 1 + N, D].
    """

    def __init__(self, network: T2TViT, embedding: DynamicEmbedding) -> None:
        super().__init__()
        self.embedding, self.blocks, self.norm, self.head = embedding, network.blocks, network.norm, network.head

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, 1 + N, D]; after `simplify` only the class token."""
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_head(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, 1 + N, D] -> [B, K]."""
        return self.head(x[:, 0])


def make_dynamic(network: nn.Layer) -> nn.Layer:
    """A network that takes pictures of any size, built of the parts of `simplify(network, dynamic_size=True)`.

    Raises:
        ValueError: A family whose positions belong to one size.
    """
    if isinstance(network, HierarchicalTransformer):
        network.patch_embed = DynamicPatchEmbed(network.patch_embed)
        return network
    if isinstance(network, T2TViT):
        positions = network.pos_embed.numpy()[0]
        prefix = network.cls_token.numpy() + positions[:1]
        resized = ResizedPositions(positions[1:], network.grid_size)
        return DynamicT2T(network, DynamicEmbedding(DynamicTokens(network.tokens_to_token), resized, prefix))
    if isinstance(network, (VisualTransformer, DistilledVisualTransformer, FoundationTransformer)):
        network.patch_embedding = dynamic_embedding(network.patch_embedding)
        return network
    raise ValueError(f"{network.model_name} cannot be exported with a dynamic size; leave out dynamic_size.")


def dynamic_embedding(embedding: nn.Layer) -> DynamicEmbedding:
    """The embedding of a plain Vision Transformer for pictures of any size."""
    tokens = [
        getattr(embedding, name).numpy()
        for name in ("class_token", "distillation_token", "register_tokens")
        if getattr(embedding, name, None) is not None
    ]
    prefix = np.concatenate(tokens, axis=1) if tokens else None  # [1, prefix, D]
    table, concat = embedding.position_embedding, getattr(embedding, "concat", False)
    patches = embedding.patch_embedding
    if table is None:
        return DynamicEmbedding(patches, None, prefix)
    table = table.numpy()
    count = table.shape[1] - embedding.grid_size[0] * embedding.grid_size[1]  # tokens with a position of their own
    if "position_embedding" in embedding._parameters:
        positions: nn.Layer = ResizedPositions(table[0, count:], embedding.grid_size)
    else:
        positions = SinePositions(table.shape[2], count)
    if prefix is not None and concat:
        prefix = np.concatenate([prefix, table[:, :count]], axis=2)
    elif prefix is not None:
        prefix[:, :count] += table[:, :count]
    return DynamicEmbedding(patches, positions, prefix, concat)


def size_multiple(network: nn.Layer) -> tuple[int, int]:
    """What height and width of a picture must be multiples of."""
    if isinstance(network, HierarchicalTransformer):
        return network.patch_embed.patch_size
    if isinstance(network, T2TViT):
        return (16, 16)
    return network.patch_embedding.patch_size
