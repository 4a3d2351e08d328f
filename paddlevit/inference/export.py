"""From a network in Python to a folder that runs without its code, compared with the network before it is kept.

Shapes: B batch, C image channels, H W image height and width, K classes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

import paddlevit
from paddlevit.errors import check_choice
from paddlevit.inference import onnx_export
from paddlevit.inference.dynamic_size import make_dynamic, size_multiple
from paddlevit.inference.engines import (
    ONNX_FILE,
    Engine,
    OnnxRuntimeEngine,
    PaddleEngine,
    choose_engines,
    load_engine,
    paddle_graph,
)
from paddlevit.inference.folder import ExportInfo, TensorInfo, file_sizes, whole_folder, write_info
from paddlevit.inference.graph import Graph
from paddlevit.inference.parity import ExportReport, compare, expected_outputs, measure_reduced, sample_inputs
from paddlevit.inference.picture_input import PictureInput
from paddlevit.inference.simplify import simplify

FORMATS = ("paddle", "onnx", "both")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")


def export_model(
    network: nn.Layer,
    folder: str | Path,
    class_names: Sequence[str] | None = None,
    format: str = "paddle",
    dynamic_size: bool = False,
    precision: str = "fp32",
    with_preprocess: bool = False,
    features: bool = False,
    attention: bool = False,
    softmax: bool = False,
    calibration: np.ndarray | None = None,
) -> ExportReport:
    """Export a network, run the export, and keep it if it answers as the network does.

    The network itself is not changed; what is exported is a simplified copy in eval mode.

    Args:
        network: Made by `paddlevit.create_model` or restored from a checkpoint.
        folder: Becomes the export; an earlier export of that name is replaced.
        class_names: Names of the outputs; None takes the network's own, or else their numbers.
        format: `paddle`, `onnx` (needs the extra onnx) or `both`.
        dynamic_size: Take pictures of any size that is a multiple of the patches.
        precision: What it is computed in: `fp32`; `bf16` by Paddle or OpenVINO on processors that have it; `fp16` by
            Paddle on a GPU, or as an ONNX file of half the size; `int8` as an ONNX file.
        with_preprocess: Take pictures as bytes [B, H, W, C] of any size, and resize, crop and normalise in the graph.
        features: Give the vector that is classified, too.
        attention: Give a map of the last layer's attention, too.
        softmax: Give probabilities in place of logits.
        calibration: [n, C, H, W] preprocessed pictures, from which int8 learns the range of every value.

    Returns:
        Where it is, and how far it is from the network.

    Raises:
        ValueError: A network without name and preprocessing, names that do not fit its outputs, options that exclude
            each other, a folder that is something else, or an export whose values in fp32 differ by more than 1e-5 of
            the largest (of 1, where all are smaller).
        ImportError: ONNX needs something that is not installed.
    """
    check_network(network)
    check_options(network, format, dynamic_size, precision, with_preprocess, attention, calibration)
    with eval_mode(network), whole_folder(folder) as temporary:
        graph = build_graph(network, dynamic_size, with_preprocess, features, attention, softmax)
        spec = input_spec(network, dynamic_size, with_preprocess)
        save_graph(graph, spec, temporary)
        multiple = size_multiple(network) if dynamic_size else None
        inputs = sample_inputs(network, multiple, with_preprocess)
        expected = [expected_outputs(network, graph, batch) for batch in inputs]
        report, names = verify(Path(folder), temporary, format, inputs, expected)
        if precision != "fp32":
            engine = reduced_engine(temporary, precision, calibration)
            if calibration is not None:
                inputs = [calibration[i : i + 16] for i in range(0, len(calibration), 16)]
                expected = [expected_outputs(network, graph, batch) for batch in inputs]
            report = measure_reduced(report, expected, [engine.run(batch) for batch in inputs])
        outputs = zip(graph.output_names, names, expected[0])
        info = ExportInfo(
            model_name=network.model_name,
            model_options=network.model_options,
            class_names=choose_class_names(network, class_names, expected[0][0].shape[1]),
            preprocessing=network.preprocessing,
            input=TensorInfo(spec.name, free_sizes(spec.shape), "uint8" if with_preprocess else "float32"),
            outputs={meaning: TensorInfo(name, (None, *array.shape[1:])) for meaning, name, array in outputs},
            files=file_sizes(temporary),
            precision=precision,
            size_multiple=multiple,
            parity=report.to_dict(inputs),
            versions=versions(format),
        )
        write_info(temporary, info)
    return report


def check_network(network: nn.Layer) -> None:
    """Raise ValueError unless the network says how it was made and fed."""
    for attribute in ("model_name", "model_options", "preprocessing"):
        if not hasattr(network, attribute):
            raise ValueError(
                f"{type(network).__name__} has no {attribute}; build it with paddlevit.create_model, which notes it."
            )


def check_options(
    network: nn.Layer,
    format: str,
    dynamic_size: bool,
    precision: str,
    with_preprocess: bool,
    attention: bool,
    calibration: np.ndarray | None,
) -> None:
    """Raise ValueError for options that are unknown or exclude each other, ImportError for what is not installed."""
    check_choice("format", format, FORMATS)
    check_choice("precision", precision, PRECISIONS)
    if dynamic_size and (with_preprocess or attention):
        other = "with_preprocess" if with_preprocess else "attention"
        raise ValueError(f"dynamic_size and {other} exclude each other; leave one out.")
    if with_preprocess and network.preprocessing.channels not in (1, 3):
        raise ValueError(f"with_preprocess needs pictures of 1 or 3 channels, not {network.preprocessing.channels}.")
    if precision == "int8" and (format != "onnx" or calibration is None or with_preprocess):
        raise ValueError("precision 'int8' needs format 'onnx', calibration pictures, and no with_preprocess.")
    if precision == "fp16" and format != "onnx" and not paddle.device.get_device().startswith("gpu"):
        raise ValueError("precision 'fp16' needs format 'onnx', or a GPU for Paddle; on a CPU use bf16.")
    if calibration is not None and precision == "fp32":
        raise ValueError("calibration is for precision bf16, fp16 and int8; fp32 learns nothing from pictures.")
    if format != "paddle":
        onnx_export.check_installed()


def build_graph(
    network: nn.Layer, dynamic_size: bool, with_preprocess: bool, features: bool, attention: bool, softmax: bool
) -> Graph:
    """The simplified copy of a network that is exported, in eval mode."""
    lean = simplify(network, dynamic_size)
    if dynamic_size:
        lean = make_dynamic(lean)
    picture_input = PictureInput(network.preprocessing) if with_preprocess else None
    graph = Graph(lean, picture_input, softmax, features, attention)
    graph.eval()
    return graph


def input_spec(network: nn.Layer, dynamic_size: bool, with_preprocess: bool) -> paddle.static.InputSpec:
    """What the graph takes: any number of pictures."""
    preprocessing = network.preprocessing
    if with_preprocess:
        return paddle.static.InputSpec([None, None, None, preprocessing.channels], "uint8", "image")
    size = (None, None) if dynamic_size else preprocessing.image_size
    return paddle.static.InputSpec([None, preprocessing.channels, *size], "float32", "image")


def free_sizes(shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """A shape of Paddle's with None where any size fits, which may also be called -1."""
    return tuple(None if side in (-1, None) else side for side in shape)


def save_graph(graph: Graph, spec: paddle.static.InputSpec, folder: Path) -> None:
    """Trace a graph into `folder`: graph and weights, called `model`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="paddle")  # advice to Paddle's own developers
        paddle.jit.save(graph, str(folder / "model"), input_spec=[spec])


@contextlib.contextmanager
def eval_mode(network: nn.Layer) -> Iterator[None]:
    """Put a network into eval mode and afterwards give every layer the mode that it had.

    Stochastic depth decides in Python what to do, so a graph traced in training mode would keep it for ever.
    """
    modes = [(layer, layer.training) for layer in network.sublayers(include_self=True)]
    network.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def verify(
    folder: Path, temporary: Path, format: str, inputs: list[np.ndarray], expected: list[list[np.ndarray]]
) -> tuple[ExportReport, list[str]]:
    """Run the graph in Paddle, and as an ONNX file if that is wanted, and compare.

    Args:
        folder: For the report.
        temporary: Where the graph is; afterwards it holds what `format` says.
        format: See `export_model`.
        inputs: What to run.
        expected: What should come out.

    Returns:
        The report of the engine that is further off, and what the graph calls its outputs.

    Raises:
        ValueError: An engine is too far off, or the conversion fails.
    """
    engines: list[Engine] = [PaddleEngine(temporary, device=paddle.device.get_device())]
    if format != "paddle":
        onnx_export.convert(paddle_graph(temporary), temporary / "model.pdiparams", temporary / ONNX_FILE)
        engines.append(OnnxRuntimeEngine(temporary, device="cpu"))
    reports = [compare(folder, expected, [engine.run(batch) for batch in inputs]) for engine in engines]
    if format == "onnx":
        for file in temporary.iterdir():
            if file.name != ONNX_FILE:
                file.unlink()
    return max(reports, key=lambda report: report.relative_difference), engines[-1].output_names


def reduced_engine(folder: Path, precision: str, calibration: np.ndarray | None) -> Engine:
    """Change the export to a lower precision where a file has to change, and load what runs it.

    Raises:
        ValueError: Nothing here runs it.
    """
    if precision == "int8":
        assert calibration is not None
        onnx_export.quantize(folder / ONNX_FILE, calibration)
    elif precision == "fp16" and (folder / ONNX_FILE).is_file():
        onnx_export.halve(folder / ONNX_FILE)
    device = paddle.device.get_device()
    return load_engine(choose_engines("auto", folder, precision, device)[0], folder, None, device, precision)


def choose_class_names(network: nn.Layer, class_names: Sequence[str] | None, num_outputs: int) -> list[str]:
    """Names of the outputs; none where the outputs are features."""
    names = list(getattr(network, "class_names", ()) if class_names is None else class_names)
    if getattr(network, "num_classes", num_outputs) == 0:
        return []
    if names and len(names) != num_outputs:
        raise ValueError(f"There are {len(names)} class names for {num_outputs} outputs; give one for each.")
    return names or [str(index) for index in range(num_outputs)]


def versions(format: str) -> dict[str, str]:
    """What makes an export."""
    found = {"paddlevit": paddlevit.__version__, "paddle": paddle.__version__, "numpy": np.__version__}
    if format != "paddle":
        found["paddle2onnx"] = importlib.metadata.version("paddle2onnx")
    return {**found, "python": platform.python_version()}
