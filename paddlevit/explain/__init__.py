"""What a model sees: attention, attribution, features and positions, as arrays and as pictures."""

from __future__ import annotations

from paddlevit.explain.attribution import (
    attention_rollout,
    class_attention,
    grad_cam,
    gradient_rollout,
    occlusion,
    rollout,
)
from paddlevit.explain.properties import (
    attention_distance,
    dense_features,
    feature_components,
    patch_filters,
    patch_similarity,
    position_similarity,
    token_norms,
)
from paddlevit.explain.recording import LayerAttention, attention_weights

__all__ = [
    "LayerAttention",
    "attention_distance",
    "attention_rollout",
    "attention_weights",
    "class_attention",
    "dense_features",
    "feature_components",
    "grad_cam",
    "gradient_rollout",
    "occlusion",
    "patch_filters",
    "patch_similarity",
    "position_similarity",
    "rollout",
    "token_norms",
]
