"""Make param_counts.tsv: what timm says of its models at their default settings.

Needs torch and timm (the file here: torch 2.13.0, timm 1.0.31), which the project itself never does:

    python -m tests.golden.make_param_counts

The models are those that the table already lists; they are built without memory for their parameters. A model of 0
classes has no classifier, and its parameters are counted so.
"""

from __future__ import annotations

import csv

from tests.golden.making import HERE, import_timm, maker

NAME = "param_counts.tsv"


def row(name: str) -> dict[str, str]:
    """One row of the table."""
    torch, timm = import_timm()
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    settings = model.pretrained_cfg
    return {
        "model": name,
        "params": str(sum(parameter.numel() for parameter in model.parameters())),
        "num_classes": str(model.num_classes),
        "input_size": "x".join(map(str, settings["input_size"])),
        "crop_pct": str(settings["crop_pct"]),
        "interpolation": settings["interpolation"],
        "mean": ",".join(f"{value:.6g}" for value in settings["mean"]),
        "std": ",".join(f"{value:.6g}" for value in settings["std"]),
    }


def main(argv: list[str] | None = None) -> int:
    args = maker(__doc__).parse_args(argv)
    with (HERE / NAME).open(newline="") as file:
        names = [line["model"] for line in csv.DictReader(file, delimiter="\t")]
    rows = [row(name) for name in names]
    path = args.folder / NAME
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
