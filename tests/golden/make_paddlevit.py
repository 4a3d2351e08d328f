"""Make paddlevit-*.npz: what PaddleViT's own code answers, with the names and the layout of its .pdparams files.

Needs Paddle (the files here: 3.3.1) and a clone of PaddleViT (the files here: commit 5ac7d89):

    git clone https://github.com/BR-IDL/PaddleViT
    python -m tests.golden.make_paddlevit PaddleViT

`state` has the parameters only, `format` is pdparams-paddlevit. A 2-D weight is `fill`'s for the reversed shape,
transposed: Paddle stores Linear weights as [in, out].
"""

from __future__ import annotations

from tests.golden.fill import image
from tests.golden.making import import_from, maker, values, write

# File, our name, folder and module and class of PaddleViT, its keywords.
CASES = [
    (
        "paddlevit-vit_tiny_patch16_224",
        "vit_tiny_patch16_224",
        ("ViT", "vit", "VisionTransformer"),
        dict(embed_dim=192, depth=12, num_heads=3),
    ),
    ("paddlevit-swin_tiny", "swin_tiny_patch4_window7_224", ("SwinTransformer", "swin", "SwinTransformer"), {}),
]


def main(argv: list[str] | None = None) -> int:
    args = maker(__doc__, clone_of="BR-IDL/PaddleViT").parse_args(argv)
    import paddle

    for stem, name, (folder, module, architecture), options in CASES:
        model = getattr(import_from(args.clone / "image_classification" / folder, module), architecture)(**options)
        model.eval()
        parameters = dict(model.named_parameters())
        meta = {
            "model": name,
            "kwargs": {},
            "input": [2, 3, 224, 224],
            "format": "pdparams-paddlevit",
            "params": sum(int(parameter.size) for parameter in parameters.values()),
            "state": {key: list(parameter.shape) for key, parameter in parameters.items()},
        }
        for key, value in values(meta).items():
            parameters[key].set_value(value)
        with paddle.no_grad():
            logits = model(paddle.to_tensor(image(tuple(meta["input"])))).numpy()
        write(args.folder / f"{stem}.npz", meta, logits=logits)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
