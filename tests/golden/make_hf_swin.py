"""Make a golden file from Hugging Face's Swin-T for pictures of a size that needs padding, which timm pads otherwise.

Needs torch and transformers (the file here: torch 2.13.0, transformers 5.23), which the project itself never does:

    python -m tests.golden.make_hf_swin --image-size 230 302

The file is like those of `make_timm`, with the names of Hugging Face's state dict. A new model is built for each size,
because theirs keeps the shift that it chose for the first one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from tests.golden.fill import fill, image


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), required=True)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where to write; default: here")
    args = parser.parse_args(argv)

    from tests.golden.making import import_timm

    torch, _ = import_timm()
    from transformers.models.swin.configuration_swin import SwinConfig
    from transformers.models.swin.modeling_swin import SwinForImageClassification

    model = SwinForImageClassification(SwinConfig(num_labels=1000)).eval()
    state = {key: list(value.shape) for key, value in model.state_dict().items() if value.is_floating_point()}
    filled = {key: torch.from_numpy(fill(key, tuple(shape))) for key, shape in state.items()}
    model.load_state_dict(filled, strict=False)
    shape = [2, 3, *args.image_size]
    with torch.no_grad():
        logits = model(torch.from_numpy(image(tuple(shape)))).logits.numpy()

    name = "swin_tiny_patch4_window7_224"
    params = sum(parameter.numel() for parameter in model.parameters())
    meta = {
        "model": name,
        "kwargs": {},
        "input": shape,
        "format": "safetensors-hf",
        "params": params,
        "state": state,
    }
    path = args.folder / f"hf-{name}-input={shape[2]}x{shape[3]}.npz"
    np.savez_compressed(path, logits=logits, meta=json.dumps(meta))
    print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
