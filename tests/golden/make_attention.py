"""Make attention.npz: attention weights of timm's models with the weights of `fill` and the pictures of `image`.

Needs torch and timm (the file here: torch 2.13.0, timm 1.0.31), which the project itself never does:

    python -m tests.golden.make_attention

For each case there is MODEL/LAYER, float32 [2, h, 3, N]: what three tokens look at in one layer, in the order of the
picture (class token first, then the grid row by row); and `meta`, a JSON string: per case `model`, `kwargs` (timm's
words), `input`, `layer` (counted over all attention layers), `queries` (the three tokens) and `state` (name and shape
of every entry that `fill` made).
"""

from __future__ import annotations

import numpy as np

from tests.golden.fill import fill, image
from tests.golden.making import import_timm, maker, write

# Model, picture height and width, layer, path of the layer in timm, tokens.
CASES = [
    ("vit_tiny_patch16_224", (96, 160), 11, "blocks.11.attn", (0, 7, 60)),
    ("deit_tiny_distilled_patch16_224", (64, 112), 6, "blocks.6.attn", (0, 1, 29)),
    ("swin_tiny_patch4_window7_224", (224, 224), 0, "layers.0.blocks.0.attn", (0, 1234, 3135)),
    ("swin_tiny_patch4_window7_224", (224, 224), 5, "layers.2.blocks.1.attn", (0, 97, 195)),
]


def put_back(weights: np.ndarray, block, heads: int) -> np.ndarray:
    """Swin's [2 * nW, h, 49, 49] -> [2, h, N, N]: token numbers go the way that timm sends its tokens."""
    import torch
    from timm.models.swin_transformer import window_partition

    rows, columns = block.input_resolution
    numbers = torch.arange(rows * columns).reshape(1, rows, columns, 1)
    numbers = torch.roll(numbers, (-block.shift_size[0], -block.shift_size[1]), (1, 2))
    order = window_partition(numbers, block.window_size).reshape(-1, weights.shape[-1]).numpy()  # [nW, 49]
    full = np.zeros((2, heads, rows * columns, rows * columns), np.float32)
    for picture in range(2):
        for window, tokens in enumerate(order):
            full[picture][:, tokens[:, None], tokens[None]] = weights[picture * len(order) + window]
    return full


def main(argv: list[str] | None = None) -> int:
    args = maker(__doc__).parse_args(argv)
    torch, timm = import_timm()
    from timm.layers import set_fused_attn

    set_fused_attn(False)
    arrays, meta = {}, []
    for name, size, layer, path, queries in CASES:
        kwargs = {"img_size": list(size)}
        model = timm.create_model(name, pretrained=False, **kwargs).eval()
        state = {key: value for key, value in model.state_dict().items() if value.is_floating_point()}
        filled = {key: torch.from_numpy(fill(key, tuple(value.shape))) for key, value in state.items()}
        model.load_state_dict(filled, strict=False)

        kept = []
        attention = model.get_submodule(path)
        attention.attn_drop.register_forward_hook(lambda _module, inputs, _output, kept=kept: kept.append(inputs[0]))
        shape = (2, 3, *size)
        with torch.no_grad():
            model(torch.from_numpy(image(shape)))
        weights = kept[0].numpy()
        if name.startswith("swin"):
            weights = put_back(weights, model.get_submodule(path.removesuffix(".attn")), weights.shape[1])
        arrays[f"{name}/{layer}"] = weights[:, :, list(queries)]
        entries = {key: list(value.shape) for key, value in state.items()}
        case = dict(model=name, kwargs=kwargs, input=shape, layer=layer, queries=queries, state=entries)
        meta.append(case)
    write(args.folder / "attention.npz", meta, **arrays)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
