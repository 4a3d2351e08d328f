"""Make `torch_zip.pth` and `torch_legacy.pth`: what torch itself saves, in its format and in that before version 1.6.

Needs torch (the files here: torch 2.13.0): python -m tests.golden.make_torch_files

Each holds {"state_dict", "epoch", "args", "optimizer"}; the tensors are views and types of `fill("tensor", [6, 4])`.
"""

from __future__ import annotations

import argparse
import collections
from pathlib import Path

from tests.golden.fill import fill
from tests.golden.making import maker


def main(argv: list[str] | None = None) -> int:
    folder = maker(__doc__).parse_args(argv).folder
    import torch

    tensor = torch.from_numpy(fill("tensor", (6, 4)))
    state = collections.OrderedDict(
        plain=tensor,
        parameter=torch.nn.Parameter(tensor.clone()),
        transposed=tensor.t(),
        rows=tensor[1:5:2],
        column=tensor[:, 2],
        bfloat16=tensor.bfloat16(),
        float16=tensor.half(),
        float64=tensor.double(),
        int64=(tensor * 100).long(),
        boolean=tensor > 0,
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
    )
    state._metadata = {"version": 1}
    parameter = torch.nn.Parameter(tensor.clone())
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = tensor
    optimizer.step()
    checkpoint = {
        "state_dict": state,
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, output=Path("out")),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(checkpoint, folder / "torch_zip.pth")
    torch.save(checkpoint, folder / "torch_legacy.pth", _use_new_zipfile_serialization=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
