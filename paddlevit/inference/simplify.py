"""A network made lean for export: the same answers with fewer operations.

`simplify` works on a copy. The sums are in `folding.py`, the layers that replace others in `lean.py`; here stands what
is done where.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
from paddle import nn
from paddle.nn import functional

from paddlevit.inference.folding import (
    batch_norm_as_scale_shift,
    fold_norm,
    fold_output_scale,
    fold_query_scale,
    linear_of,
    weights_of,
)
from paddlevit.inference.lean import FirstTokensBlock, LeanAttention
from paddlevit.inference.windows import (
    DynamicNeighbours,
    DynamicWindows,
    FixedNeighbours,
    FixedWindows,
    LeanStage,
    LeanWindowAttention,
)
from paddlevit.layers import DropPath, Identity
from paddlevit.models import explained_layers, foundation, foundation_layers, swin, swin_v2, t2t_module, t2t_vit, vit
from paddlevit.models.deit import DistilledVisualTransformer
from paddlevit.models.hierarchical import HierarchicalTransformer
from paddlevit.models.windows import select_bias

# Norms whose output goes into one linear layer and nowhere else.
NORM_BEFORE_LINEAR: dict[type[nn.Layer], list[tuple[str, str]]] = {
    foundation.FoundationLayer: [("attn_norm", "attn.qkv"), ("mlp_norm", "mlp.fc1")],
    foundation_layers.AttentionPool: [("norm", "mlp.fc1")],
    swin.PatchMerging: [("norm", "reduction")],
    t2t_vit.Block: [("norm1", "attn.qkv"), ("norm2", "mlp.fc1")],
    t2t_module.TokenPerformer: [("norm1", "kqv"), ("norm2", "mlp.0")],
    t2t_module.TokenTransformer: [("norm1", "attn.qkv"), ("norm2", "mlp.fc1")],
    explained_layers.Encoding: [("norm1", "attn.qkv"), ("norm2", "neuralnet.fc1")],
    explained_layers.TokenTransformer: [("norm1", "attn.qkv"), ("norm2", "neuralnet.fc1")],
    vit.EncoderLayer: [("attn_norm", "attn.qkv"), ("mlp_norm", "mlp.fc1")],
}
SWIN_NORMS = [("norm1", "attn.qkv"), ("norm2", "mlp.fc1")]


def simplify(network: nn.Layer, dynamic_size: bool = False) -> nn.Layer:
    """A lean copy of a network in eval mode.

    Args:
        network: Made by `create_model`.
        dynamic_size: Whether the picture may have any size.

    Returns:
        A network with the same forward methods and answers.
    """
    network = copy.deepcopy(network)
    if isinstance(network, HierarchicalTransformer):
        simplify_stages(network, dynamic_size)
    replace(network, (nn.Dropout, DropPath), lambda layer: Identity())
    for layer in network.sublayers(include_self=True):
        if isinstance(layer, foundation.FoundationLayer):
            fold_layer_scales(layer)
        fold_norms(layer)
    replace(network, (nn.BatchNorm1D,), batch_norm_as_scale_shift)
    replace(network, (vit.Attention, t2t_vit.Attention), lean_attention)
    shorten_last_block(network)
    network.eval()
    return network


def replace(network: nn.Layer, kinds: tuple[type[nn.Layer], ...], build: Callable[[nn.Layer], nn.Layer]) -> None:
    """Put build(layer) in the place of every sub-layer of exactly these classes."""
    for parent in network.sublayers(include_self=True):
        for name, child in list(parent.named_children()):
            if type(child) in kinds:
                parent.add_sublayer(name, build(child))


def get_path(layer: nn.Layer, path: str) -> nn.Layer:
    """The sub-layer of a dotted path."""
    for name in path.split("."):
        layer = layer._sub_layers[name]
    return layer


def set_path(layer: nn.Layer, path: str, value: nn.Layer) -> None:
    """Replace the sub-layer of a dotted path."""
    owner, _, name = path.rpartition(".")
    (get_path(layer, owner) if owner else layer).add_sublayer(name, value)


def fold_norms(layer: nn.Layer) -> None:
    """Fold the norms of a block into the linear layers behind them, where `NORM_BEFORE_LINEAR` knows the block."""
    if getattr(layer, "norm_first", True):
        fold_paths(layer, NORM_BEFORE_LINEAR.get(type(layer), []))


def fold_paths(layer: nn.Layer, pairs: Sequence[tuple[str, str]]) -> None:
    """Fold some norms, by their paths in a block, into the linear layers behind them."""
    for norm_path, linear_path in pairs:
        norm, linear = fold_norm(get_path(layer, norm_path), get_path(layer, linear_path))
        set_path(layer, norm_path, norm)
        set_path(layer, linear_path, linear)


def fold_layer_scales(layer: foundation.FoundationLayer) -> None:
    """Fold both LayerScales into the linear layers that end their branches."""
    for scale_path, linear_path in (("attn_scale", "attn.proj"), ("mlp_scale", "mlp.fc2")):
        scale = get_path(layer, scale_path)
        if isinstance(scale, foundation_layers.LayerScale):
            set_path(layer, linear_path, fold_output_scale(get_path(layer, linear_path), scale.gamma.numpy()))
            set_path(layer, scale_path, Identity())


def lean_attention(attn: nn.Layer) -> LeanAttention:
    """The attention of a ViT or T2T-ViT with its scale in the weights."""
    scale = attn.scales if isinstance(attn, vit.Attention) else attn.scale
    return LeanAttention(attn.qkv, attn.proj, attn.num_heads, scale)


def shorten_last_block(network: nn.Layer) -> None:
    """Compute in the last block only the tokens that are classified, where these are the first ones."""
    if getattr(network, "pool", "token") != "token":
        return
    rows = 2 if isinstance(network, DistilledVisualTransformer) else 1
    blocks = network.blocks if isinstance(network, t2t_vit.T2TViT) else getattr(network, "encoder", network)
    blocks = getattr(blocks, "layers", blocks)
    if not isinstance(blocks, nn.LayerList) or not len(blocks):
        return
    last = blocks[len(blocks) - 1]
    if isinstance(last, t2t_vit.Block):
        names = ("norm1", "attn", "norm2", "mlp")
    elif isinstance(last, (vit.EncoderLayer, foundation.FoundationLayer)) and getattr(last, "norm_first", True):
        names = ("attn_norm", "attn", "mlp_norm", "mlp")
    else:
        return
    norm, attention, mlp_norm, mlp = (get_path(last, name) for name in names)
    blocks[len(blocks) - 1] = FirstTokensBlock(norm, attention, mlp_norm, mlp, rows)


def simplify_stages(network: HierarchicalTransformer, dynamic_size: bool) -> None:
    """Give Swin's blocks lists of tokens for their windows, and one constant to add to their scores."""
    height, width = network.patch_embed.map_size(network.preprocessing.image_size)
    stages = []
    for stage in network.layers:
        own = [block.windows for block in list(stage.blocks)[:2]]
        if dynamic_size:
            windows = [DynamicWindows(each.window_size, each.shift_size) for each in own]
            masks = [None] * len(own)
        else:
            windows = [FixedWindows(each, height, width) for each in own]
            masks = [each.mask for each in windows]
        for i, block in enumerate(stage.blocks):
            block.attn = lean_window_attention(block.attn, masks[i % 2])
            if isinstance(block, swin.SwinTransformerBlock):
                # Padding is 0 after the norm, so where there is some, it must not get the norm's shift.
                fold_paths(block, SWIN_NORMS[int(windows[i % 2].pads) :])
        neighbours = None
        if stage.downsample is not None:
            neighbours = DynamicNeighbours() if dynamic_size else FixedNeighbours(height, width)
        stages.append(LeanStage(stage, windows, neighbours))
        height, width = (height + 1) // 2, (width + 1) // 2
    network.layers = nn.LayerList(stages)


def lean_window_attention(attn: nn.Layer, mask: np.ndarray | None = None) -> LeanWindowAttention:
    """The attention of a Swin block with its scale in the weights, and bias and mask in one constant.

    Args:
        attn: Of Swin or Swin V2.
        mask: [nW, N, N], what shifted windows add to the scores.
    """
    if isinstance(attn, swin.WindowAttention):
        qkv, cosine_scale = fold_query_scale(attn.qkv, attn.scale), None
        table = attn.relative_position_bias_table
    else:
        cosine_scale = np.exp(np.minimum(attn.logit_scale.numpy(), swin_v2.MAX_LOGIT_SCALE))
        table = 16.0 * functional.sigmoid(attn.cpb_mlp(attn.relative_coords_table.reshape([-1, 2])))
        qkv = attn.qkv
        if attn.q_bias is not None:
            query_bias, value_bias = attn.q_bias.numpy(), attn.v_bias.numpy()
            bias = np.concatenate([query_bias, np.zeros_like(query_bias), value_bias])
            qkv = linear_of(weights_of(qkv)[0], bias)
    bias = select_bias(attn, table).numpy()  # [h, N, N]
    if mask is not None:
        bias = bias + mask[:, None]  # [nW, h, N, N]
    return LeanWindowAttention(qkv, attn.proj, bias, cosine_scale)
