"""Make golden files from timm: what its models answer with the weights of `fill` and the pictures of `image`.

Needs torch and timm (the files here: torch 2.13.0, timm 1.0.31), which the project itself never does:

    pip install torch==2.13.0 && pip install --no-deps timm==1.0.31 torchvision
    python -m tests.golden.make_timm swin_small_patch4_window7_224
    python -m tests.golden.make_timm vit_tiny_patch16_224 --image-size 96 160 --num-classes 10

Each NAME[-option=value...].npz holds `logits`, float32, for two pictures, and `meta`, a JSON string: `model`, `kwargs`
(timm's own words for the options), `input` (shape of the batch), `params` (parameter count), `features_mean` and
`features_std` (of `forward_features`) and `state` (every floating-point entry of the state dict: name and shape).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from tests.golden.fill import fill, image


def import_timm():
    """torch and timm, also where torchvision came without compiled kernels: the two that it asks for are declared."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for kernel in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{kernel}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    import timm

    return torch, timm


def make(name: str, kwargs: dict, folder: Path) -> Path:
    """Write one golden file.

    Args:
        name: A model of timm.
        kwargs: timm's keywords where they differ from the model's own: img_size, num_classes, in_chans.
        folder: Where the file goes.

    Returns:
        The file.
    """
    torch, timm = import_timm()
    model = timm.create_model(name, pretrained=False, **kwargs).eval()
    state = {key: list(value.shape) for key, value in sorted(model.state_dict().items()) if value.is_floating_point()}
    filled = {key: torch.from_numpy(fill(key, tuple(shape))) for key, shape in state.items()}
    missing, unexpected = model.load_state_dict(filled, strict=False)
    if unexpected or any(model.state_dict()[key].is_floating_point() for key in missing):
        raise RuntimeError(f"{name}: the entries {missing + unexpected} were not filled.")

    channels, height, width = model.pretrained_cfg["input_size"]
    size = kwargs.get("img_size", (height, width))
    height, width = (size, size) if isinstance(size, int) else size
    shape = [2, kwargs.get("in_chans", channels), height, width]
    with torch.no_grad():
        x = torch.from_numpy(image(tuple(shape)))
        features, logits = model.forward_features(x), model(x)
    meta = {
        "model": name,
        "kwargs": kwargs,
        "input": shape,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "features_mean": features.mean().item(),
        "features_std": features.std().item(),
        "state": state,
    }
    words = {key: "x".join(map(str, value)) if isinstance(value, list) else value for key, value in kwargs.items()}
    path = folder / ("-".join([name, *(f"{key}={value}" for key, value in words.items())]) + ".npz")
    np.savez_compressed(path, logits=logits.numpy(), meta=json.dumps(meta))
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="models of timm, for example deit3_base_patch16_224")
    parser.add_argument("--image-size", type=int, nargs="+", metavar="N", help="one side, or height and width")
    parser.add_argument("--num-classes", type=int, metavar="N", help="another number of outputs; 0 for features")
    parser.add_argument("--in-channels", type=int, metavar="N", help="another number of channels")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where to write; default: here")
    args = parser.parse_args(argv)
    if args.image_size is not None and len(args.image_size) > 2:
        parser.error("--image-size takes one number, or height and width")

    size = args.image_size
    if size is not None and len(size) == 1:
        size = size[0]
    kwargs = {"img_size": size, "num_classes": args.num_classes, "in_chans": args.in_channels}
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    for name in args.names:
        print(make(name, kwargs, args.folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
