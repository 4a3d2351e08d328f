"""The machine: settings before Paddle's import, one clear line when Paddle is missing or doubled."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paddlevit import runtime
from tests.tools import ROOT

BLOCK_PADDLE = (
    "import importlib.util as u, sys\n"
    "find = u.find_spec\n"
    "u.find_spec = lambda name, *rest: None if name == 'paddle' else find(name, *rest)\n"
)


def python(code, **variables):
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_paddle_one_line_says_what_to_install():
    code = BLOCK_PADDLE + (
        "import runpy\nsys.argv = ['predict.py', 'run', 'a.png']\n"
        "runpy.run_path('tools/predict.py', run_name='__main__')"
    )
    done = python(code)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith('error: PaddlePaddle is not installed. pip install -e ".[cpu]"')


def test_without_paddle_the_library_says_the_same():
    done = python(BLOCK_PADDLE + "import paddlevit\npaddlevit.create_model")
    assert "PaddlePaddle is not installed." in done.stderr.splitlines()[-1]


def test_two_paddles_are_reported(monkeypatch):
    monkeypatch.setattr(runtime, "_is_installed", lambda distribution: True)
    with pytest.warns(UserWarning, match="Both paddlepaddle and paddlepaddle-gpu are installed"):
        runtime.check_paddle()


def test_a_tool_warns_in_one_line():
    both = "from paddlevit import cli, runtime\nruntime._is_installed = lambda name: True\n"
    done = python(both + "cli.run(runtime.check_paddle)")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("warning: Both paddlepaddle and paddlepaddle-gpu are installed")


def test_prepare_uses_all_cores_and_leaves_what_the_user_set():
    code = "import os\nfrom paddlevit import runtime\nruntime.prepare({})\nprint(os.environ['OMP_NUM_THREADS'])"
    assert python(code.format("")).stdout.strip() == str(runtime.cpu_count())
    assert python(code.format("3")).stdout.strip() == "3"
    assert python(code.format(""), OMP_NUM_THREADS="5").stdout.strip() == "5"


def test_prepare_is_quiet():
    done = python("from paddlevit import runtime\nruntime.prepare(2)\nimport paddle\npaddle.ones([1])")
    assert (done.stdout, done.stderr) == ("", "")


def test_the_slow_path_on_amd_is_left(monkeypatch):
    monkeypatch.delenv("MKL_DEBUG_CPU_TYPE", raising=False)
    monkeypatch.setattr(runtime, "_cpu_flags", lambda: ("AuthenticAMD", {"avx2", "avx512f"}))
    runtime.prepare()
    assert os.environ["MKL_DEBUG_CPU_TYPE"] == "7"
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "")
    del os.environ["MKL_DEBUG_CPU_TYPE"]
    monkeypatch.setattr(runtime, "_cpu_flags", lambda: ("GenuineIntel", {"avx2", "avx512f"}))
    runtime.prepare()
    assert "MKL_DEBUG_CPU_TYPE" not in os.environ


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", "device is 'tpu'; it must be auto, cpu, gpu or gpu:N."),
        ("gpu:x", "device is 'gpu:x'; it must be auto"),
        ("gpu", "device is 'gpu', but .* Use device cpu or auto."),
        ("gpu:7", "device is 'gpu:7', but"),
    ],
)
def test_devices_that_are_not_there(device, message, monkeypatch):
    monkeypatch.setattr("paddle.device.cuda.device_count", lambda: 0)
    with pytest.raises(ValueError, match=message):
        runtime.pick_device(device)


def test_cpu_is_chosen_without_a_gpu(monkeypatch):
    monkeypatch.setattr("paddle.device.cuda.device_count", lambda: 0)
    assert runtime.pick_device("auto") == "cpu"


def test_threads_must_be_positive():
    with pytest.raises(ValueError, match="threads is 0; it must be at least 1"):
        runtime.prepare(0)


def test_peak_memory_grows():
    before = runtime.peak_memory()
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    assert runtime.peak_memory() >= before > 10 << 20
