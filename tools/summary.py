"""Show a model layer by layer: python tools/summary.py vit_base_patch16_224"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Layers, shapes, parameters and multiply-adds of a model.")
    parser.add_argument("source", help="name of a model, YAML config, folder of a run, or checkpoint")
    parser.add_argument("--batch-size", type=int, default=1, help="of the shapes in the table (default 1)")
    parser.add_argument("--complexity", action="store_true", help="parameters, multiply-adds, activations per layer")
    parser.add_argument(
        "--image-sizes", type=int, nargs="+", metavar="PIXELS", help="with --complexity: what attention costs at these"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the costs at --image-sizes")
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f"--batch-size is {args.batch_size}; it must be at least 1")
    if args.plot and not args.image_sizes:
        parser.error("--plot draws costs over the image size: give --image-sizes, for example 224 448 672 896")
    if args.image_sizes and not args.complexity:
        parser.error("--image-sizes belongs to --complexity")
    return args


def open_untrained(source: str) -> Any:
    """The network; of a configuration, the one that it trains, and published weights are not fetched for it."""
    from paddlevit.inference.source import open_network

    if Path(source).suffix not in (".yaml", ".yml"):
        return open_network(source, fresh=True)
    import dataclasses

    from paddlevit import training
    from paddlevit.config import load_config
    from paddlevit.dev_run import expected_classes
    from paddlevit.weights.restore import is_own_checkpoint

    config = load_config(source)
    weights = config.model.weights
    if isinstance(weights, str) and Path(weights).exists() and is_own_checkpoint(weights):
        return open_network(source)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=None))
    names = [str(k) for k in range(expected_classes(config))]
    return training.build_network(config, names, training.resolve_preprocessing(config))


def show_sizes(network: Any, image_sizes: Sequence[int], plot: Path | None) -> None:
    """Print, and perhaps draw, what attention costs at several image sizes; models without windows stand beside 7."""
    from paddlevit import complexity
    from paddlevit.models import create_model

    options = {key: value for key, value in network.model_options.items() if key != "image_size"}
    sides = sorted({layer.window_size for layer in network.sublayers() if hasattr(layer, "window_size")}) or [
        complexity.SWIN_WINDOW
    ]
    windows = str(sides[0]) if len(sides) == 1 else "M"
    points = complexity.attention_over_sizes(
        lambda size: create_model(network.model_name, image_size=size, **options),
        image_sizes,
        network.preprocessing.channels,
    )
    print(complexity.format_sizes(points, windows))
    if plot:
        from paddlevit.explain.plots import draw_complexity

        draw_complexity(points, plot, network.model_name, windows)
        print(f"Drawn in {plot}.")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import runtime

    runtime.prepare()

    import paddle

    from paddlevit import complexity

    runtime.pick_device("cpu")
    network = open_untrained(args.source)
    network.eval()
    shape = (args.batch_size, network.preprocessing.channels, *network.preprocessing.image_size)
    if args.complexity:
        print(complexity.format_table(complexity.layer_table(network, shape)))
    else:
        paddle.summary(network, shape)
    print(f"Parameters: {complexity.count_parameters(network):,}")
    print(f"Multiply-adds, attention included: {complexity.count_multiply_adds(network, shape):,}")
    if args.image_sizes:
        show_sizes(network, args.image_sizes, args.plot)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
