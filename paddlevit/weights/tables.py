"""What others call our parameters: one table per family and dialect.

A name stands for a layer (its weight and bias) or for one tensor; `{i}` and `{j}` are running numbers. A tuple of names
means that the dialect keeps in several tensors what is one here: queries, keys and values, joined along the outputs.

Sources: the state dictionaries of timm 1.0.31, transformers 5.23 (as saved on disk, and as named in memory),
Microsoft's Swin-Transformer, Facebook's deit and dinov2, yitu's T2T-ViT, google-research/vision_transformer,
big_vision, PaddleViT and PaddleClas.
"""

from __future__ import annotations

from typing import Union

Names = dict[str, Union[str, tuple[str, ...]]]

# Kinds of our names, which say how a tensor is laid out and how it may be adapted:
#   patch      weight [out, in, h, w] and bias; another patch size or number of channels can be made of it
#   linear     weight, here [in, out], in torch [out, in]; bias
#   head       a linear classifier, which may be left as it is
#   norm       weight and bias
#   positions  [1, N, D], resized to another grid
#   table      [(2M - 1) ** 2, heads], resized to another window
#   tensor     the tensor itself

_VIT_LAYER = "encoder.layers.{i}."

VIT = {
    "patch_embedding.patch_embedding": "patch",
    "patch_embedding.class_token": "tensor",
    "patch_embedding.distillation_token": "tensor",
    "patch_embedding.register_tokens": "tensor",
    "patch_embedding.position_embedding": "positions",
    "pre_norm": "norm",
    _VIT_LAYER + "attn_norm": "norm",
    _VIT_LAYER + "attn.qkv": "linear",
    _VIT_LAYER + "attn.proj": "linear",
    _VIT_LAYER + "attn_scale.gamma": "tensor",
    _VIT_LAYER + "mlp_norm": "norm",
    _VIT_LAYER + "mlp.fc1": "linear",
    _VIT_LAYER + "mlp.fc2": "linear",
    _VIT_LAYER + "mlp_scale.gamma": "tensor",
    "encoder.norm": "norm",
    "attention_pool.latent": "tensor",
    "attention_pool.q": "linear",
    "attention_pool.kv": "linear",
    "attention_pool.proj": "linear",
    "attention_pool.norm": "norm",
    "attention_pool.mlp.fc1": "linear",
    "attention_pool.mlp.fc2": "linear",
    "fc_norm": "norm",
    "classifier": "head",
    "classifier_distillation": "head",
}

# timm, and with it the official DeiT, MAE and DINO files and PaddleClas.
VIT_TIMM: Names = {
    "patch_embedding.patch_embedding": "patch_embed.proj",
    "patch_embedding.class_token": "cls_token",
    "patch_embedding.distillation_token": "dist_token",
    "patch_embedding.register_tokens": "reg_token",
    "patch_embedding.position_embedding": "pos_embed",
    "pre_norm": "norm_pre",
    _VIT_LAYER + "attn_norm": "blocks.{i}.norm1",
    _VIT_LAYER + "attn.qkv": "blocks.{i}.attn.qkv",
    _VIT_LAYER + "attn.proj": "blocks.{i}.attn.proj",
    _VIT_LAYER + "attn_scale.gamma": "blocks.{i}.ls1.gamma",
    _VIT_LAYER + "mlp_norm": "blocks.{i}.norm2",
    _VIT_LAYER + "mlp.fc1": "blocks.{i}.mlp.fc1",
    _VIT_LAYER + "mlp.fc2": "blocks.{i}.mlp.fc2",
    _VIT_LAYER + "mlp_scale.gamma": "blocks.{i}.ls2.gamma",
    "encoder.norm": "norm",
    "attention_pool.latent": "attn_pool.latent",
    "attention_pool.q": "attn_pool.q",
    "attention_pool.kv": "attn_pool.kv",
    "attention_pool.proj": "attn_pool.proj",
    "attention_pool.norm": "attn_pool.norm",
    "attention_pool.mlp.fc1": "attn_pool.mlp.fc1",
    "attention_pool.mlp.fc2": "attn_pool.mlp.fc2",
    "fc_norm": "fc_norm",
    "classifier": "head",
    "classifier_distillation": "head_dist",
}
VIT_DEIT3: Names = {
    **VIT_TIMM,
    _VIT_LAYER + "attn_scale.gamma": "blocks.{i}.gamma_1",
    _VIT_LAYER + "mlp_scale.gamma": "blocks.{i}.gamma_2",
}
VIT_DINOV2: Names = {**VIT_TIMM, "patch_embedding.register_tokens": "register_tokens"}
VIT_DINOV2_SWIGLU: Names = {
    **VIT_DINOV2,
    _VIT_LAYER + "mlp.fc1": "blocks.{i}.mlp.w12",
    _VIT_LAYER + "mlp.fc2": "blocks.{i}.mlp.w3",
}

VIT_PADDLEVIT: Names = {
    "patch_embedding.patch_embedding": "patch_embedding.patch_embedding",
    "patch_embedding.class_token": "cls_token",
    "patch_embedding.distillation_token": "dist_token",
    "patch_embedding.position_embedding": "position_embedding",
    _VIT_LAYER + "attn_norm": "encoder.layers.{i}.attn_norm",
    _VIT_LAYER + "attn.qkv": "encoder.layers.{i}.attn.qkv",
    _VIT_LAYER + "attn.proj": "encoder.layers.{i}.attn.out",
    _VIT_LAYER + "mlp_norm": "encoder.layers.{i}.mlp_norm",
    _VIT_LAYER + "mlp.fc1": "encoder.layers.{i}.mlp.fc1",
    _VIT_LAYER + "mlp.fc2": "encoder.layers.{i}.mlp.fc2",
    "encoder.norm": "encoder.encoder_norm",
    "classifier": "classifier",
    "classifier_distillation": "classifier_dist",
}
# Fine-tuned from its MAE.
VIT_PADDLEVIT_MAE: Names = {
    **VIT_PADDLEVIT,
    "patch_embedding.class_token": "patch_embedding.cls_token",
    "patch_embedding.position_embedding": "patch_embedding.position_embedding",
}


def _parts(template: str, *names: str) -> tuple[str, ...]:
    return tuple(template.replace("*", name) for name in names)


# transformers: ViT and DeiT. The prefix (`vit.`, `deit.`) is not part of the table.
VIT_HF: Names = {
    "patch_embedding.patch_embedding": "embeddings.patch_embeddings.projection",
    "patch_embedding.class_token": "embeddings.cls_token",
    "patch_embedding.distillation_token": "embeddings.distillation_token",
    "patch_embedding.position_embedding": "embeddings.position_embeddings",
    _VIT_LAYER + "attn_norm": "encoder.layer.{i}.layernorm_before",
    _VIT_LAYER + "attn.qkv": _parts("encoder.layer.{i}.attention.attention.*", "query", "key", "value"),
    _VIT_LAYER + "attn.proj": "encoder.layer.{i}.attention.output.dense",
    _VIT_LAYER + "mlp_norm": "encoder.layer.{i}.layernorm_after",
    _VIT_LAYER + "mlp.fc1": "encoder.layer.{i}.intermediate.dense",
    _VIT_LAYER + "mlp.fc2": "encoder.layer.{i}.output.dense",
    "encoder.norm": "layernorm",
    "classifier": "classifier",
}
DEIT_HF: Names = {
    **VIT_HF,
    "classifier": "cls_classifier",
    "classifier_distillation": "distillation_classifier",
}
VIT_HF_MEMORY: Names = {
    **VIT_HF,
    _VIT_LAYER + "attn_norm": "layers.{i}.layernorm_before",
    _VIT_LAYER + "attn.qkv": _parts("layers.{i}.attention.*_proj", "q", "k", "v"),
    _VIT_LAYER + "attn.proj": "layers.{i}.attention.o_proj",
    _VIT_LAYER + "mlp_norm": "layers.{i}.layernorm_after",
    _VIT_LAYER + "mlp.fc1": "layers.{i}.mlp.fc1",
    _VIT_LAYER + "mlp.fc2": "layers.{i}.mlp.fc2",
}
DEIT_HF_MEMORY: Names = {
    **VIT_HF_MEMORY,
    "classifier": "cls_classifier",
    "classifier_distillation": "distillation_classifier",
}
DINOV2_HF: Names = {
    **VIT_HF,
    "patch_embedding.register_tokens": "embeddings.register_tokens",
    _VIT_LAYER + "attn_norm": "encoder.layer.{i}.norm1",
    _VIT_LAYER + "attn_scale.gamma": "encoder.layer.{i}.layer_scale1.lambda1",
    _VIT_LAYER + "mlp_norm": "encoder.layer.{i}.norm2",
    _VIT_LAYER + "mlp.fc1": "encoder.layer.{i}.mlp.fc1",
    _VIT_LAYER + "mlp.fc2": "encoder.layer.{i}.mlp.fc2",
    _VIT_LAYER + "mlp_scale.gamma": "encoder.layer.{i}.layer_scale2.lambda1",
}
DINOV2_HF_SWIGLU: Names = {
    **DINOV2_HF,
    _VIT_LAYER + "mlp.fc1": "encoder.layer.{i}.mlp.weights_in",
    _VIT_LAYER + "mlp.fc2": "encoder.layer.{i}.mlp.weights_out",
}
DINOV2_HF_MEMORY: Names = {
    **DINOV2_HF,
    _VIT_LAYER + "attn.qkv": _parts("encoder.layer.{i}.attention.*_proj", "q", "k", "v"),
    _VIT_LAYER + "attn.proj": "encoder.layer.{i}.attention.o_proj",
}
DINOV2_HF_MEMORY_SWIGLU: Names = {
    **DINOV2_HF_MEMORY,
    _VIT_LAYER + "mlp.fc1": _parts("encoder.layer.{i}.mlp.*_proj", "gate", "up"),
    _VIT_LAYER + "mlp.fc2": "encoder.layer.{i}.mlp.down_proj",
}


def _jax(attention: str, second_norm: str, mlp: str, positions: str) -> Names:
    block = "Transformer/encoderblock_{i}/"
    pool = "MAPHead_0/"
    return {
        "patch_embedding.patch_embedding": "embedding",
        "patch_embedding.class_token": "cls",
        "patch_embedding.position_embedding": positions,
        _VIT_LAYER + "attn_norm": block + "LayerNorm_0",
        _VIT_LAYER + "attn.qkv": _parts(block + attention + "/*", "query", "key", "value"),
        _VIT_LAYER + "attn.proj": block + attention + "/out",
        _VIT_LAYER + "mlp_norm": block + second_norm,
        _VIT_LAYER + "mlp.fc1": block + mlp + "/Dense_0",
        _VIT_LAYER + "mlp.fc2": block + mlp + "/Dense_1",
        "encoder.norm": "Transformer/encoder_norm",
        "attention_pool.latent": pool + "probe",
        "attention_pool.q": pool + "MultiHeadDotProductAttention_0/query",
        "attention_pool.kv": _parts(pool + "MultiHeadDotProductAttention_0/*", "key", "value"),
        "attention_pool.proj": pool + "MultiHeadDotProductAttention_0/out",
        "attention_pool.norm": pool + "LayerNorm_0",
        "attention_pool.mlp.fc1": pool + "MlpBlock_0/Dense_0",
        "attention_pool.mlp.fc2": pool + "MlpBlock_0/Dense_1",
        "classifier": "head",
    }


VIT_JAX = _jax(
    "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3", "Transformer/posembed_input/pos_embedding"
)
VIT_BIG_VISION = _jax("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0", "pos_embedding")

# Swin and Swin V2: our names are Microsoft's, and so are PaddleClas's.

_BLOCK = "layers.{i}.blocks.{j}."

SWIN = {
    "patch_embed.proj": "patch",
    "patch_embed.norm": "norm",
    _BLOCK + "norm1": "norm",
    _BLOCK + "attn.relative_position_bias_table": "table",
    _BLOCK + "attn.qkv": "linear",
    _BLOCK + "attn.proj": "linear",
    _BLOCK + "norm2": "norm",
    _BLOCK + "mlp.fc1": "linear",
    _BLOCK + "mlp.fc2": "linear",
    "layers.{i}.downsample.norm": "norm",
    "layers.{i}.downsample.reduction": "linear",
    "norm": "norm",
    "head": "head",
}
SWIN_V2 = {
    **{name: kind for name, kind in SWIN.items() if kind != "table"},
    _BLOCK + "attn.logit_scale": "tensor",
    _BLOCK + "attn.q_bias": "tensor",
    _BLOCK + "attn.v_bias": "tensor",
    _BLOCK + "attn.cpb_mlp.0": "linear",
    _BLOCK + "attn.cpb_mlp.2": "linear",
}
# timm counts a merging to the stage after it: {i+1} is one more than our stage.
_SWIN_MOVED: Names = {
    "layers.{i}.downsample.norm": "layers.{i+1}.downsample.norm",
    "layers.{i}.downsample.reduction": "layers.{i+1}.downsample.reduction",
    "head": "head.fc",
}
SWIN_TIMM: Names = {**{name: name for name in SWIN}, **_SWIN_MOVED}
SWIN_V2_TIMM: Names = {**{name: name for name in SWIN_V2}, **_SWIN_MOVED}

_STAGE_BLOCK = "stages.{i}.blocks.{j}."

SWIN_PADDLEVIT: Names = {
    **{name: name.replace("layers.{i}.", "stages.{i}.") for name in SWIN},
    "patch_embed.proj": "patch_embedding.patch_embed",
    "patch_embed.norm": "patch_embedding.norm",
    "head": "fc",
}
_HF_BLOCK = "encoder.layers.{i}.blocks.{j}."
SWIN_HF: Names = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "patch_embed.norm": "embeddings.norm",
    _BLOCK + "norm1": _HF_BLOCK + "layernorm_before",
    _BLOCK + "attn.relative_position_bias_table": _HF_BLOCK + "attention.self.relative_position_bias_table",
    _BLOCK + "attn.qkv": _parts(_HF_BLOCK + "attention.self.*", "query", "key", "value"),
    _BLOCK + "attn.proj": _HF_BLOCK + "attention.output.dense",
    _BLOCK + "norm2": _HF_BLOCK + "layernorm_after",
    _BLOCK + "mlp.fc1": _HF_BLOCK + "intermediate.dense",
    _BLOCK + "mlp.fc2": _HF_BLOCK + "output.dense",
    "layers.{i}.downsample.norm": "encoder.layers.{i}.downsample.norm",
    "layers.{i}.downsample.reduction": "encoder.layers.{i}.downsample.reduction",
    "norm": "layernorm",
    "head": "classifier",
}
SWIN_HF_MEMORY: Names = {
    **SWIN_HF,
    _BLOCK + "attn.relative_position_bias_table": _HF_BLOCK
    + "attention.relative_position_bias.relative_position_bias_table",
    _BLOCK + "attn.qkv": _parts(_HF_BLOCK + "attention.*_proj", "q", "k", "v"),
    _BLOCK + "attn.proj": _HF_BLOCK + "attention.o_proj",
    _BLOCK + "mlp.fc1": _HF_BLOCK + "mlp.fc1",
    _BLOCK + "mlp.fc2": _HF_BLOCK + "mlp.fc2",
}

# T2T-ViT: our names are the official ones.

_TOKENS = ("tokens_to_token.attention1.", "tokens_to_token.attention2.")
_TOKEN_LAYERS = {
    "norm1": "norm",
    "norm2": "norm",
    "w": "tensor",
    "kqv": "linear",
    "proj": "linear",
    "mlp.0": "linear",
    "mlp.2": "linear",
    "attn.qkv": "linear",
    "attn.proj": "linear",
    "mlp.fc1": "linear",
    "mlp.fc2": "linear",
}
T2T = {
    "cls_token": "tensor",
    "pos_embed": "positions",
    **{prefix + name: kind for prefix in _TOKENS for name, kind in _TOKEN_LAYERS.items()},
    "tokens_to_token.project": "linear",
    "blocks.{i}.norm1": "norm",
    "blocks.{i}.attn.qkv": "linear",
    "blocks.{i}.attn.proj": "linear",
    "blocks.{i}.norm2": "norm",
    "blocks.{i}.mlp.fc1": "linear",
    "blocks.{i}.mlp.fc2": "linear",
    "norm": "norm",
    "head": "head",
}
T2T_PADDLEVIT: Names = {
    name: name.replace("tokens_to_token.attention", "patch_embed.attn").replace(
        "tokens_to_token.project", "patch_embed.proj"
    )
    for name in T2T
}

# Names in files that are no weights of the network, and why they are not needed.
IGNORED = (
    ("*relative_position_index", "a buffer that is computed here"),
    ("*relative_coords_table", "a buffer that is computed here"),
    ("*attn_mask", "a buffer that is computed here"),
    ("*num_batches_tracked", "a counter of batch norm"),
    ("n_averaged", "a counter of averaging"),
    ("*mask_token", "used only in masked pre-training"),
    ("decoder*", "the decoder of masked pre-training"),
    ("head.mlp.*", "the projection head of self-supervised training"),
    ("head.last_layer.*", "the projection head of self-supervised training"),
    ("*dino_head.*", "the projection head of self-supervised training"),
    ("*ibot_head.*", "the projection head of self-supervised training"),
    ("*pooler.*", "not used for classification"),
    ("opt/state/*", "state of the optimizer"),
    ("opt/step", "state of the optimizer"),
    ("params/txt/*", "the text tower"),
    ("params/[tb]", "of the contrastive loss"),
)
