"""Show a model layer by layer: python tools/summary.py vit_base_patch16_224"""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Layers, shapes, parameters and multiply-adds of a model.")
    parser.add_argument("source", help="name of a model, YAML config, folder of a run, or checkpoint")
    parser.add_argument("--batch-size", type=int, default=1, help="of the shapes in the table (default 1)")
    parser.add_argument("--complexity", action="store_true", help="parameters, multiply-adds, activations per layer")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import runtime

    runtime.prepare()

    import paddle

    from paddlevit import complexity
    from paddlevit.inference.source import open_network

    runtime.pick_device("cpu")
    network = open_network(args.source, fresh=True)
    shape = (args.batch_size, network.preprocessing.channels, *network.preprocessing.image_size)
    if args.complexity:
        print(complexity.format_table(complexity.layer_table(network, shape)))
    else:
        paddle.summary(network, shape)
    print(f"Parameters: {complexity.count_parameters(network):,}")
    print(f"Multiply-adds, attention included: {complexity.count_multiply_adds(network, shape):,}")
    return 0


if __name__ == "__main__":
    from paddlevit.cli import run

    run(main)
