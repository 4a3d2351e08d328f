"""Make golden files from timm: what its models answer with the weights of `fill` and the pictures of `image`.

Needs torch and timm (the files here: torch 2.13.0, timm 1.0.31), which the project itself never does:

    pip install torch==2.13.0 && pip install --no-deps timm==1.0.31 torchvision
    python -m tests.golden.make_timm swin_small_patch4_window7_224
    python -m tests.golden.make_timm vit_tiny_patch16_224 --image-size 96 160 --num-classes 10
    python -m tests.golden.make_timm vit_giant_patch14_reg4_dinov2 --image-size 56 --depth 2
    python -m tests.golden.make_timm vit_tiny_patch16_224 --option qkv_bias=false

Each NAME[-option=value...].npz holds `logits`, float32, for two pictures, and `meta`, a JSON string: `model`, `kwargs`
(timm's own words for the options), `input` (shape of the batch), `params` (parameter count), `features_mean` and
`features_std` (of `forward_features`) and `state` (every floating-point entry of the state dict: name and shape).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.golden.making import fill_torch, import_timm, maker, pictures, write


def make(name: str, kwargs: dict, folder: Path) -> Path:
    """Write one golden file.

    Args:
        name: A model of timm.
        kwargs: timm's keywords where they differ from the model's own, for example img_size, num_classes, in_chans.
        folder: Where the file goes.

    Returns:
        The file.
    """
    torch, timm = import_timm()
    model = timm.create_model(name, pretrained=False, **kwargs)
    channels, height, width = model.pretrained_cfg["input_size"]
    size = kwargs.get("img_size", (height, width))
    height, width = (size, size) if isinstance(size, int) else size
    shape = [2, kwargs.get("in_chans", channels), height, width]
    meta = fill_torch(model, {"model": name, "kwargs": kwargs, "input": shape})
    with torch.no_grad():
        x = pictures(meta)
        features, logits = model.forward_features(x), model(x)
    meta.update(features_mean=features.mean().item(), features_std=features.std().item())
    words = {key: "x".join(map(str, value)) if isinstance(value, list) else value for key, value in kwargs.items()}
    stem = "-".join([name, *(f"{key}={value}" for key, value in words.items())])
    return write(folder / f"{stem}.npz", meta, logits=logits.numpy())


def _option(text: str) -> tuple[str, object]:
    """`key=value`, the value as in JSON or else a word."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def main(argv: list[str] | None = None) -> int:
    parser = maker(__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="models of timm, for example deit3_base_patch16_224")
    parser.add_argument("--image-size", type=int, nargs="+", metavar="N", help="one side, or height and width")
    parser.add_argument("--num-classes", type=int, metavar="N", help="another number of outputs; 0 for features")
    parser.add_argument("--in-channels", type=int, metavar="N", help="another number of channels")
    parser.add_argument("--depth", type=int, metavar="N", help="another number of blocks")
    parser.add_argument(
        "--option", type=_option, action="append", default=[], metavar="KEY=VALUE", help="any other keyword of timm's"
    )
    args = parser.parse_args(argv)
    if args.image_size is not None and len(args.image_size) > 2:
        parser.error("--image-size takes one number, or height and width")

    size = args.image_size
    if size is not None and len(size) == 1:
        size = size[0]
    kwargs = {"img_size": size, "num_classes": args.num_classes, "in_chans": args.in_channels, "depth": args.depth}
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    for name in args.names:
        make(name, {**kwargs, **dict(args.option)}, args.folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
