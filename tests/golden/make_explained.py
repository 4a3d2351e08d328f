"""Make explained_*.npz: what the code of the article "Vision Transformers, Explained" answers.

Needs torch and timm (the files here: torch 2.13.0, timm 1.0.31), which the project itself never does, and a clone of
the article's code (the files here: commit 3cdf23f):

    git clone https://github.com/lanl/vision_transformers_explained
    python -m tests.golden.make_explained vision_transformers_explained

The files are like those of `make_t2t`: `pos_embed` is not in `state`. `kwargs` are timm's words where there are any.
"""

from __future__ import annotations

from tests.golden.making import fill_torch, import_from, import_timm, maker, pictures, trainable, write

VIT, T2T = ("vit", "ViT_Model"), ("t2t_vit", "T2T_ViT")
WALK_THROUGH = dict(img_size=(1, 60, 100), patch_size=20, num_heads=4)

# File, our name, module and class, its keywords, ours, shape of one picture.
CASES = [
    ("explained_vit-num_classes=10", "explained_vit", VIT, WALK_THROUGH, {}, (1, 60, 100)),
    (
        "explained_t2t_vit-img_size=60x100-num_classes=10",
        "explained_t2t_vit",
        T2T,
        dict(img_size=(1, 60, 100), softsplit_kernels=(7, 3, 3), num_heads=4, depth=3),
        dict(img_size=(60, 100), softsplit_kernels=(7, 3, 3), num_heads=4, depth=3),
        (1, 60, 100),
    ),
    (
        "explained_t2t_vit-num_classes=10-depth=2",
        "explained_t2t_vit",
        T2T,
        dict(depth=2),
        dict(depth=2),
        (1, 1700, 500),
    ),
]


def main(argv: list[str] | None = None) -> int:
    args = maker(__doc__, clone_of="lanl/vision_transformers_explained").parse_args(argv)
    torch, _ = import_timm()

    for stem, name, (module, architecture), keywords, kwargs, shape in CASES:
        model = getattr(import_from(args.clone / "modules", module), architecture)(preds=10, **keywords)
        meta = {"model": name, "kwargs": {"num_classes": 10, **kwargs}, "input": [2, *shape]}
        meta = fill_torch(model, {**meta, "trainable": trainable(model)}, left_out={"pos_embed"})
        with torch.no_grad():
            logits = model(pictures(meta)).numpy()
        write(args.folder / f"{stem}.npz", meta, logits=logits)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
