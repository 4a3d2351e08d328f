"""Make hf-*.npz: what Hugging Face's models answer, with the names of their state dicts.

Needs torch, timm and transformers (the files here: torch 2.13.0, timm 1.0.31, transformers 5.23.0), which the project
itself never does:

    python -m tests.golden.make_hf

The files are like those of `make_timm`; `format` is safetensors-hf. The "logits" of DINOv2, which has no classifier,
are its normalised class token. The file named after its `input` holds pictures that Swin has to pad, which timm pads
otherwise; it gets a model of its own, because theirs keeps the shift that it chose for the first size it saw.
"""

from __future__ import annotations

from tests.golden.making import fill_torch, import_timm, maker, pictures, write

# timm's epsilon; that of their configuration is 1e-12.
TINY = dict(hidden_size=192, num_attention_heads=3, intermediate_size=768, layer_norm_eps=1e-6)

# Our name, class of the model, class of its configuration, keywords of that, height and width.
CASES = [
    ("vit_tiny_patch16_224", "ViTForImageClassification", "ViTConfig", {**TINY, "num_labels": 1000}, (224, 224)),
    (
        "deit_tiny_distilled_patch16_224",
        "DeiTForImageClassificationWithTeacher",
        "DeiTConfig",
        {**TINY, "num_labels": 1000},
        (224, 224),
    ),
    ("swin_tiny_patch4_window7_224", "SwinForImageClassification", "SwinConfig", {"num_labels": 1000}, (224, 224)),
    ("swin_tiny_patch4_window7_224", "SwinForImageClassification", "SwinConfig", {"num_labels": 1000}, (230, 302)),
    (
        "vit_small_patch14_dinov2",
        "Dinov2Model",
        "Dinov2Config",
        dict(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14),
        (518, 518),
    ),
]


def main(argv: list[str] | None = None) -> int:
    args = maker(__doc__).parse_args(argv)
    torch, _ = import_timm()
    import transformers

    for name, model_class, config_class, options, (height, width) in CASES:
        config = getattr(transformers, config_class)(**options)
        model = getattr(transformers, model_class)(config)
        meta = {"model": name, "kwargs": {}, "input": [2, 3, height, width], "format": "safetensors-hf"}
        meta = fill_torch(model, meta)
        with torch.no_grad():
            output = model(pictures(meta))
        logits = output.logits if hasattr(output, "logits") else output.last_hidden_state[:, 0]
        ending = "" if height == width else f"-input={height}x{width}"
        write(args.folder / f"hf-{name}{ending}.npz", meta, logits=logits.numpy())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
