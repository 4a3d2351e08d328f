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
    load_engines,
    paddle_graph,
)
from paddlevit.inference.folder import ExportInfo, TensorInfo, file_sizes, whole_folder, write_info
from paddlevit.inference.graph import Graph
from paddlevit.inference.parity import ExportReport, compare, expected_outputs, measure_reduced, sample_inputs
from paddlevit.inference.picture_input import PictureInput
from paddlevit.inference.simplify import simplify

FORMATS = ("paddle", "onnx", "both")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
CHUNK = 16  # pictures computed at a time when many are tried


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
        network: Made by `paddlevit.create_model` or restored from a checkpoint; its attribute `task` says what it
            predicts: `classes` (also without it), `multi_label` or `regression`.
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
            each other, a folder that is something else, or an export that is off by more than 1e-5 of its scale.
        ImportError: ONNX needs something that is not installed.
    """
    check_network(network)
    check_options(network, format, dynamic_size, precision, with_preprocess, attention, calibration)
    check_classes(network, features, softmax)
    with eval_mode(network), whole_folder(folder) as temporary:
        graph = build_graph(network, dynamic_size, with_preprocess, features, attention, softmax)
        spec = input_spec(network, dynamic_size, with_preprocess)
        save_graph(graph, spec, temporary)
        multiple = size_multiple(network) if dynamic_size else None
        inputs = sample_inputs(network, multiple, with_preprocess)
        expected = [expected_outputs(network, graph, batch) for batch in inputs]
        class_names = choose_class_names(network, class_names, expected[0][0].shape[1])
        report, names = verify(Path(folder), temporary, format, inputs, expected)
        outputs = list(zip(graph.output_names, names, expected[0]))
        if precision != "fp32":
            engines = reduced_engines(temporary, precision, calibration, with_preprocess)
            report = try_reduced(report, network, graph, engines, inputs, calibration)
        info = ExportInfo(
            model_name=network.model_name,
            model_options=network.model_options,
            class_names=class_names,
            task=getattr(network, "task", "classes"),
            preprocessing=network.preprocessing,
            input=TensorInfo(spec.name, free_sizes(spec.shape), "uint8" if with_preprocess else "float32"),
            outputs={meaning: TensorInfo(name, (None, *array.shape[1:])) for meaning, name, array in outputs},
            files=file_sizes(temporary),
            precision=precision,
            size_multiple=multiple,
            parity=report.to_dict(),
            versions=versions(report.engines, format),
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
    if calibration is not None and with_preprocess:
        raise ValueError("calibration and with_preprocess exclude each other; leave one out.")
    shape = (network.preprocessing.channels, *network.preprocessing.image_size)
    if calibration is not None and (calibration.shape[1:] != shape or not len(calibration)):
        raise ValueError(f"calibration has shape {calibration.shape}; it must be pictures [n, {str(shape)[1:-1]}].")
    if format != "paddle":
        onnx_export.check_installed(paddle.__version__, precision)


def check_classes(network: nn.Layer, features: bool, softmax: bool) -> None:
    """Raise ValueError for options that need more classes than there are, or one class per picture."""
    num_classes, task = getattr(network, "num_classes", None), getattr(network, "task", "classes")
    if softmax and task != "classes":
        raise ValueError(f"softmax is for one class per picture, and this network's task is {task}; leave it out.")
    if features and num_classes == 0:
        raise ValueError(f"{network.model_name} has no classifier, so features come out anyway; leave out features.")
    if softmax and num_classes in (0, 1):
        raise ValueError(f"softmax needs two classes, and {network.model_name} has {num_classes}; leave it out.")


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
        How far the engines are off, and what the graph calls its outputs.

    Raises:
        ValueError: An engine is too far off, or the conversion fails.
    """
    engines: dict[str, Engine] = {"paddle": PaddleEngine(temporary, device=paddle.device.get_device())}
    if format != "paddle":
        onnx_export.convert(paddle_graph(temporary), temporary / "model.pdiparams", temporary / ONNX_FILE)
        engines["onnxruntime"] = OnnxRuntimeEngine(temporary, device="cpu")
    report = compare(folder, inputs, expected, answers_of(engines, inputs))
    if format == "onnx":
        for file in temporary.iterdir():
            if file.name != ONNX_FILE:
                file.unlink()
    return report, list(engines.values())[-1].output_names


def answers_of(engines: dict[str, Engine], inputs: list[np.ndarray]) -> dict[str, list[list[np.ndarray]]]:
    """For each engine and each input, each output."""
    return {name: [engine.run(batch) for batch in inputs] for name, engine in engines.items()}


def reduced_engines(
    folder: Path, precision: str, calibration: np.ndarray | None, with_preprocess: bool
) -> dict[str, Engine]:
    """Change the export to a lower precision where a file has to change, and load all that run it here.

    Raises:
        ValueError: Nothing here runs it.
    """
    if precision == "int8":
        assert calibration is not None
        onnx_export.quantize(folder / ONNX_FILE, calibration)
    elif precision == "fp16" and (folder / ONNX_FILE).is_file():
        onnx_export.halve(folder / ONNX_FILE)
    return load_engines("auto", folder, None, paddle.device.get_device(), precision, with_preprocess)


def try_reduced(
    report: ExportReport,
    network: nn.Layer,
    graph: Graph,
    engines: dict[str, Engine],
    inputs: list[np.ndarray],
    calibration: np.ndarray | None,
) -> ExportReport:
    """The report with what the engines answer in a lower precision, to the calibration pictures if there are any."""
    if calibration is not None:
        inputs = [calibration[i : i + CHUNK] for i in range(0, len(calibration), CHUNK)]
    expected = [expected_outputs(network, graph, batch) for batch in inputs]
    compared = calibration is not None and getattr(network, "task", "classes") != "regression"
    return measure_reduced(report, expected, answers_of(engines, inputs), compared)


def choose_class_names(network: nn.Layer, class_names: Sequence[str] | None, num_outputs: int) -> list[str]:
    """Names of the outputs; none where the outputs are features."""
    names = list(getattr(network, "class_names", ()) if class_names is None else class_names)
    if getattr(network, "num_classes", num_outputs) == 0:
        return []
    if names and len(names) != num_outputs:
        raise ValueError(f"There are {len(names)} class names for {num_outputs} outputs; give one for each.")
    return names or [str(index) for index in range(num_outputs)]


def versions(engines: Sequence[str], format: str) -> dict[str, str]:
    """What makes an export, and what ran it."""
    found = {"paddlevit": paddlevit.__version__, "paddle": paddle.__version__, "numpy": np.__version__}
    packages = ["paddle2onnx"] * (format != "paddle") + [name for name in engines if name != "paddle"]
    found.update({name: importlib.metadata.version(name) for name in packages})
    return {**found, "python": platform.python_version()}
