"""Make t2t_*.npz: what the authors' own T2T-ViT answers.

Needs torch and timm (the files here: torch 2.13.0, timm 1.0.31), which the project itself never does, and a clone of
T2T-ViT (the files here: commit 0f63dc9):

    git clone https://github.com/yitu-opensource/T2T-ViT
    python -m tests.golden.make_t2t T2T-ViT

The files are like those of `make_timm`, and hold `trainable` too, the parameters that are not frozen. `pos_embed`, a
table of sines, stays as the code makes it and is not in `state`. With `fill`'s own values the performer's keys are so
long that its attention underflows to 0. Where a file holds `scaled`, an entry with such a part in its name is `fill`'s
value times that number, and the attention counts.
"""

from __future__ import annotations

from tests.golden.making import fill_torch, import_from, import_timm, maker, pictures, trainable, write

SCALED = {".kqv.": 0.1, "attention1.w": 5.0, "attention2.w": 5.0}

# File, model, keywords, side of the pictures, factors.
CASES = [
    ("t2t_vit_7", "t2t_vit_7", {}, 224, None),
    ("t2t_vit_t_14", "t2t_vit_t_14", {}, 224, None),
    ("t2t_vit_14", "t2t_vit_14", {}, 224, SCALED),
    ("t2t_vit_12-img_size=96-num_classes=10", "t2t_vit_12", dict(img_size=96, num_classes=10), 96, SCALED),
]


def main(argv: list[str] | None = None) -> int:
    args = maker(__doc__, clone_of="yitu-opensource/T2T-ViT").parse_args(argv)
    torch, _ = import_timm()
    models = import_from(args.clone, "models")

    for stem, name, kwargs, side, scaled in CASES:
        model = getattr(models, name)(**kwargs)
        meta = {"model": name, "kwargs": kwargs, "input": [2, 3, side, side], "trainable": trainable(model)}
        if scaled:
            meta["scaled"] = scaled
        meta = fill_torch(model, meta, left_out={"pos_embed"})
        with torch.no_grad():
            features, logits = model.forward_features(pictures(meta)), model(pictures(meta))
        meta.update(features_mean=features.mean().item(), features_std=features.std().item())
        write(args.folder / f"{stem}.npz", meta, logits=logits.numpy())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
