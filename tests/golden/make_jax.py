"""Make jax-*.npz: what timm answers with weights that its reader took from a file of google-research's JAX code.

Needs torch and timm (the file here: torch 2.13.0, timm 1.0.31), which the project itself never does:

    python -m tests.golden.make_jax

`state` has the names and shapes of JAX, `format` is npz-jax. The values follow their own rule, because `fill` knows
neither the names nor the layout: see `making.values`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tests.golden.making import import_timm, maker, pictures, values, write

NAME = "vit_tiny_patch16_224"
WIDTH, DEPTH, HEADS, HIDDEN, PATCH, TOKENS, CLASSES = 192, 12, 3, 768, 16, 197, 1000


def state() -> dict[str, list[int]]:
    """Names and shapes of the JAX checkpoint."""
    shapes = {
        "embedding/kernel": [PATCH, PATCH, 3, WIDTH],
        "embedding/bias": [WIDTH],
        "cls": [1, 1, WIDTH],
        "Transformer/posembed_input/pos_embedding": [1, TOKENS, WIDTH],
        "Transformer/encoder_norm/scale": [WIDTH],
        "Transformer/encoder_norm/bias": [WIDTH],
        "head/kernel": [WIDTH, CLASSES],
        "head/bias": [CLASSES],
    }
    inside = {
        "LayerNorm_0/scale": [WIDTH],
        "LayerNorm_0/bias": [WIDTH],
        "LayerNorm_2/scale": [WIDTH],
        "LayerNorm_2/bias": [WIDTH],
        "MultiHeadDotProductAttention_1/out/kernel": [HEADS, WIDTH // HEADS, WIDTH],
        "MultiHeadDotProductAttention_1/out/bias": [WIDTH],
        "MlpBlock_3/Dense_0/kernel": [WIDTH, HIDDEN],
        "MlpBlock_3/Dense_0/bias": [HIDDEN],
        "MlpBlock_3/Dense_1/kernel": [HIDDEN, WIDTH],
        "MlpBlock_3/Dense_1/bias": [WIDTH],
    }
    for part in ("query", "key", "value"):
        inside[f"MultiHeadDotProductAttention_1/{part}/kernel"] = [WIDTH, HEADS, WIDTH // HEADS]
        inside[f"MultiHeadDotProductAttention_1/{part}/bias"] = [HEADS, WIDTH // HEADS]
    for block in range(DEPTH):
        shapes.update({f"Transformer/encoderblock_{block}/{name}": shape for name, shape in inside.items()})
    return shapes


def main(argv: list[str] | None = None) -> int:
    args = maker(__doc__).parse_args(argv)
    torch, timm = import_timm()
    model = timm.create_model(NAME, pretrained=False).eval()
    params = sum(parameter.numel() for parameter in model.parameters())
    meta = {"model": NAME, "kwargs": {}, "input": [2, 3, 224, 224], "format": "npz-jax", "params": params}
    meta["state"] = state()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.npz"
        np.savez(checkpoint, **values(meta))
        model.load_pretrained(checkpoint)
    with torch.no_grad():
        logits = model(pictures(meta)).numpy()
    write(args.folder / f"jax-{NAME}.npz", meta, logits=logits)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
