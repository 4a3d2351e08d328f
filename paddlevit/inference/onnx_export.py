"""The graph as an ONNX file, converted from Paddle's by paddle2onnx in a process of its own, which may crash.

Run as `python -m paddlevit.inference.onnx_export GRAPH WEIGHTS FILE`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

OPSET = 17


def check_installed(paddle_version: str, precision: str = "fp32") -> None:
    """Raise ImportError unless what ONNX export needs is there.

    Args:
        paddle_version: Each paddle2onnx reads the graphs of one major version of Paddle, and crashes on the other's.
        precision: Of the file; int8 and fp16 are made with the package onnx, which paddle2onnx 1 does not bring.
    """
    missing = [name for name in ("paddle2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if "paddle2onnx" in missing and sys.version_info >= (3, 13):
        raise ImportError("ONNX export needs paddle2onnx, which has no wheel for this Python; use 3.12 or older.")
    if missing:
        raise ImportError(f'ONNX export needs {" and ".join(missing)}: pip install "paddlevit[onnx]"')
    if precision in ("int8", "fp16") and importlib.util.find_spec("onnx") is None:
        raise ImportError(f"precision {precision} in ONNX needs onnx: pip install onnx")
    version = importlib.metadata.version("paddle2onnx")
    if paddle_version.startswith("2.") != version.startswith("1."):
        wanted = "paddle2onnx<2" if paddle_version.startswith("2.") else "paddle2onnx>=2.1"
        raise ImportError(
            f'paddle2onnx {version} does not read graphs of Paddle {paddle_version}: pip install "{wanted}"'
        )


def convert(graph: Path, weights: Path, file: Path) -> None:
    """Write an ONNX file for a graph that `paddle.jit.save` wrote.

    Raises:
        ValueError: paddle2onnx cannot, with the end of what it said.
    """
    package = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", __name__, str(graph), str(weights), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode or not file.is_file() or not file.stat().st_size:  # paddle2onnx 1 leaves an empty file
        said = " ".join((done.stderr or done.stdout).split())[-400:]
        raise ValueError(f"paddle2onnx failed with exit code {done.returncode}: {said}")


def quantize(file: Path, calibration: np.ndarray) -> None:
    """Make the products with weights of an ONNX file int8; products of two activations stay as they are.

    What a product gives is not rounded to int8 again: that loses accuracy, and OpenVINO gets the first convolution
    wrong when it is.

    Args:
        file: Is replaced.
        calibration: [n, C, H, W], pictures from which the range of every value is learned.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.pictures = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.pictures, None)
            return None if picture is None else {"image": picture[None]}

    # With the search for symbolic shapes, it leaves files of weights in the current folder when that search fails.
    quant_pre_process(str(file), str(file), skip_symbolic_shape=True)
    kinds = ["MatMul", "Gemm", "Conv"]
    quantize_static(
        str(file),
        str(file),
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        op_types_to_quantize=kinds,
        nodes_to_exclude=products_of_activations(file),
        extra_options={"OpTypesToExcludeOutputQuantization": kinds},
    )


def products_of_activations(file: Path) -> list[str]:
    """Names of the matrix products of an ONNX file that have no constant factor: scores, and weighted values."""
    import onnx

    graph = onnx.load(file).graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    return [node.name for node in graph.node if node.op_type == "MatMul" and not constants & set(node.input)]


def halve(file: Path) -> None:
    """Store an ONNX file's weights, and compute, in float16; input and outputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), file)


def main() -> None:
    """Convert; in a child process of `convert`."""
    from paddlevit import runtime

    runtime.prepare(1)
    import paddle2onnx

    graph, weights, file = sys.argv[1:]
    paddle2onnx.export(graph, weights, file, opset_version=OPSET)


if __name__ == "__main__":
    main()
