"""Make eval_transform.npz: what timm's evaluation transform makes of generated pictures.

Needs torch, torchvision and timm (the file here: torch 2.13.0, timm 1.0.31), which the project itself never does:

    python -m tests.golden.make_transform

`meta["doc"]` says how the pictures are made and which part of the answers is kept, `meta["cases"]` with which settings.
"""

from __future__ import annotations

import numpy as np

from tests.golden.fill import image
from tests.golden.making import import_timm, maker, write

DOC = """\
outK is the answer for case K, every 7th row and column of it. The picture of case K, of height and width `hw`, comes
from x = image((1, 3, *hw), "pictureK")[0]: clip(128 + 60 x, 0, 255) as uint8, its channels put last, in RGB. The whole
answer, float32, has the shape `shape` and the mean `mean_of_output`.
"""

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])

# Height and width of the picture, side of the answer, crop_pct, interpolation, mean and std.
CASES = [
    ([375, 500], 224, 0.875, "bicubic", IMAGENET),
    ([375, 500], 224, 0.9, "bicubic", HALF),
    ([333, 250], 384, 1.0, "bicubic", HALF),
    ([181, 613], 224, 0.95, "bilinear", IMAGENET),
    ([100, 100], 96, 0.875, "bicubic", IMAGENET),
]


def main(argv: list[str] | None = None) -> int:
    args = maker(__doc__).parse_args(argv)
    import_timm()
    from PIL import Image
    from timm.data import create_transform

    cases, outputs = [], {}
    for number, (size, side, crop_pct, interpolation, (mean, std)) in enumerate(CASES):
        settings = dict(crop_pct=crop_pct, interpolation=interpolation, mean=mean, std=std)
        pixels = np.clip(128 + 60 * image((1, 3, *size), f"picture{number}")[0], 0, 255).astype(np.uint8)
        answer = create_transform((3, side, side), **settings)(Image.fromarray(pixels.transpose(1, 2, 0))).numpy()
        found = dict(shape=list(answer.shape), mean_of_output=float(answer.mean()))
        cases.append({"hw": size, "size": side, **settings, **found})
        outputs[f"out{number}"] = answer[:, ::7, ::7]
    write(args.folder / "eval_transform.npz", {"doc": DOC, "cases": cases}, **outputs)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
