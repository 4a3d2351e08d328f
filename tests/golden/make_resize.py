"""Make `resize.npz`: what timm makes of weights for other sizes.

Needs torch and timm, see `make_timm`:

    python -m tests.golden.make_resize

Inputs are `fill(case, shape)`; each output is kept under the name of its case, which is a JSON list: function, shape of
the input, and further arguments.
"""

from __future__ import annotations

import json

import numpy as np

from tests.golden.fill import fill
from tests.golden.making import import_timm, maker

CASES = [
    # positions: shape, old grid, new grid, tokens before the patches
    ("positions", [1, 197, 4], [14, 14], [24, 24], 1),
    ("positions", [1, 197, 4], [14, 14], [10, 10], 1),
    ("positions", [1, 197, 4], [14, 14], [6, 10], 1),
    ("positions", [1, 198, 4], [14, 14], [9, 20], 2),
    ("positions", [1, 60, 4], [6, 10], [8, 8], 0),
    ("positions", [1, 1370, 2], [37, 37], [16, 16], 1),
    # patches: shape, new size
    ("patches", [2, 3, 16, 16], [8, 8]),
    ("patches", [2, 3, 8, 8], [16, 16]),
    ("patches", [2, 3, 16, 16], [14, 14]),
    ("patches", [2, 1, 16, 16], [12, 20]),
    ("patches", [2, 3, 32, 32], [16, 16]),
    # channels: shape, how many
    *(("channels", [2, 3, 4, 4], count) for count in (1, 2, 4, 6, 10)),
    # bias_table: shape, window
    ("bias_table", [169, 3], 12),
    ("bias_table", [529, 4], 7),
    ("bias_table", [169, 3], 6),
]


def resize(function: str, x, *arguments):
    """The answer of timm's function for one case."""
    from timm.layers.patch_embed import resample_patch_embed
    from timm.layers.pos_embed import resample_abs_pos_embed
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
    from timm.models._manipulate import adapt_input_conv

    if function == "positions":
        old, new, num_prefix = arguments
        return resample_abs_pos_embed(x, new_size=new, old_size=old, num_prefix_tokens=num_prefix)
    if function == "patches":
        return resample_patch_embed(x, *arguments)
    if function == "channels":
        return adapt_input_conv(*arguments, x)
    (window,) = arguments
    return resize_rel_pos_bias_table_simple(x, (window, window), ((2 * window - 1) ** 2, x.shape[1]))


def main(argv: list[str] | None = None) -> int:
    args = maker(__doc__).parse_args(argv)
    torch, _ = import_timm()
    outputs = {}
    for case in CASES:
        name = json.dumps(case)
        function, shape, *arguments = case
        outputs[name] = resize(function, torch.from_numpy(fill(name, shape)), *arguments).numpy()
    np.savez_compressed(args.folder / "resize.npz", **outputs)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
