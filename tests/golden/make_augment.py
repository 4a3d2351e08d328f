"""Makes augment.npz, what timm's augmentations do to a generated picture: python -m tests.golden.make_augment

Needs torch, torchvision and timm (made with timm 1.0.31, Pillow 13.0). The picture has the pixels
clip(128 + 60 * image((1, 3, 18, 22), "augment")[0], 0, 255) as uint8, channels last; grey is its green channel.
"""

from __future__ import annotations

import random
from unittest import mock

import numpy as np
from PIL import Image

from tests.golden.fill import image
from tests.golden.making import import_timm, maker, write

import_timm()
from timm.data import auto_augment as timm_augment  # noqa: E402
from torchvision.transforms import functional as F  # noqa: E402

LEVELS = (0.0, 5.5, 9.0, 10.0)
HUES = (-0.5, -0.3, 0.11, 0.4)
NAMES = sorted(set(timm_augment.NAME_TO_OP) - {"TranslateX", "TranslateY", "GaussianBlurRand"})


def apply(picture, name, level, sign, resample, fill):
    """The picture after one of timm's operations, its random sign decided."""
    hparams = {"img_mean": fill, "interpolation": resample}
    operation = timm_augment.AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)
    with mock.patch.object(random, "random", return_value=0.9 if sign < 0 else 0.1):
        try:
            return np.asarray(operation(picture))
        except ValueError:  # new Pillow refuses to keep 0 bits; to timm that is a black picture
            return np.zeros_like(np.asarray(picture))


def policies():
    """Sub-policies by name, and the operations of RandAugment with their weights."""
    automatic = {
        name: [[(op.name, op.prob, op.magnitude) for op in steps] for steps in timm_augment.auto_augment_policy(name)]
        for name in ("original", "originalr", "v0", "v0r")
    }
    sets = {}
    for text in ("rand-m9", "rand-m9-inc1", "rand-m9-t3a", "rand-m9-t3aw", "rand-m9-tweights"):
        made = timm_augment.rand_augment_transform(text, {})
        weights = [1 / len(made.ops)] * len(made.ops) if made.choice_weights is None else list(made.choice_weights)
        sets[text] = {op.name: weight for op, weight in zip(made.ops, weights)}
    return {"automatic": automatic, "sets": sets}


def main(argv: list[str] | None = None) -> int:
    args = maker(__doc__).parse_args(argv)
    pixels = np.clip(128 + 60 * image((1, 3, 18, 22), "augment")[0], 0, 255).astype(np.uint8).transpose(1, 2, 0)
    colour, grey = Image.fromarray(pixels), Image.fromarray(pixels[:, :, 1])
    cases, outputs = [], {}
    for name in NAMES:
        for level in LEVELS:
            for sign in (1, -1):
                kind = "bilinear" if level == 5.5 else "bicubic"
                filter_ = Image.Resampling[kind.upper()]
                cases.append({"name": name, "level": level, "sign": sign, "resample": kind, "fill": [124, 116, 104]})
                outputs[f"colour{len(cases) - 1}"] = apply(colour, name, level, sign, filter_, (124, 116, 104))
                if level == 9.0:
                    outputs[f"grey{len(cases) - 1}"] = apply(grey, name, level, sign, filter_, 124)
    for place, hue in enumerate(HUES):
        outputs[f"hue{place}"] = np.asarray(F.adjust_hue(colour, hue))
    # Identical outputs (a sign that does not matter) are stored once.
    stored, same = {}, {}
    for key, value in outputs.items():
        same[key] = next((other for other, known in stored.items() if np.array_equal(known, value)), key)
        stored.setdefault(same[key], value)
    meta = {"cases": cases, "same": same, "hues": HUES, **policies()}
    write(args.folder / "augment.npz", meta, **stored)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
