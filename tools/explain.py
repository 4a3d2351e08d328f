"""Show what a model sees: python tools/explain.py output/vit_digits photo.png -o explained"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# As in paddlevit.explain.gallery, which cannot be imported here: --help must not import Paddle.
METHODS = (
    "attention, rollout, gradient-rollout, grad-cam, occlusion (which part did it);"
    " heads (of the attention); norms, components, similarity (of the tokens);"
    " positions, filters, distance (of the model)"
)


def point(text: str) -> tuple[int, int]:
    x, y = text.split(",")
    return int(x), int(y)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Attention, attribution and features of a model, over pictures.")
    parser.add_argument("source", help="folder of a run, checkpoint, config with model.weights, or name of a model")
    parser.add_argument("images", nargs="+", help="pictures, folders or patterns such as 'photos/**/*.jpg'")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for pictures and arrays")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=f"{METHODS}; default: all that apply")
    parser.add_argument("--layers", nargs="+", type=int, default=[-1], help="attention layers for heads (default -1)")
    parser.add_argument("--target", help="class to explain, name or number (default: the predicted one)")
    parser.add_argument("--point", type=point, metavar="X,Y", help="pixel of the first picture, for similarity")
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu or gpu:N")
    parser.add_argument("--ema", action="store_true", help="use the averaged weights of a checkpoint")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import runtime

    runtime.prepare()

    from paddlevit.data import find_images
    from paddlevit.explain import gallery
    from paddlevit.inference.source import open_network

    runtime.pick_device(args.device)
    model = open_network(args.source, args.ema)
    batch = gallery.load_pictures(find_images(args.images), model)
    methods = args.methods or gallery.default_methods(model, args.point)
    wanted = None if args.target is None else gallery.class_index(model, args.target)
    target = gallery.predict(model, batch.images, wanted)
    arrays = gallery.compute(model, batch.images, methods, target, args.layers, args.point)
    titles = [f"{name}: {gallery.class_title(model, index)}" for name, index in zip(batch.names, target)]
    for path in gallery.write(batch, arrays, titles, args.output, args.point):
        print(path)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
