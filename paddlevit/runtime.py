"""The machine: which Paddle is installed, how many cores to use, which device, and the settings that make a CPU fast.

`prepare()` has to run before the first `import paddle`; nothing happens when this module is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import sys
import time
import warnings

INSTALL_HINT = (
    'pip install -e ".[cpu]" brings the CPU version, pip install -e ".[gpu]" the one for CUDA 11.8;'
    " wheels for newer CUDA come from paddlepaddle.org.cn."
)


def check_paddle() -> None:
    """Say clearly what to do when there is no Paddle, or two of them.

    Raises:
        ImportError: No Paddle is installed.
    """
    if importlib.util.find_spec("paddle") is None:
        raise ImportError(f"PaddlePaddle is not installed. {INSTALL_HINT}")
    installed = [name for name in ("paddlepaddle", "paddlepaddle-gpu") if _is_installed(name)]
    if len(installed) == 2:
        warnings.warn(
            "Both paddlepaddle and paddlepaddle-gpu are installed and overwrite each other's files: "
            "pip uninstall -y paddlepaddle paddlepaddle-gpu, then install one of them.",
            stacklevel=2,
        )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def cpu_count() -> int:
    """Cores this process may use; processes that paddle.distributed.launch started share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // int(os.environ.get("PADDLE_LOCAL_SIZE", "1")), 1)


def _cpu_flags() -> tuple[str, set[str]]:
    """Vendor and instruction sets of the processor; empty where /proc/cpuinfo does not exist."""
    vendor, flags = "", set()
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "vendor_id":
                    vendor = value.strip()
                elif key.strip() == "flags":
                    flags = set(value.split())
                    break
    return vendor, flags


def _keep_freed_memory() -> None:
    """Make glibc keep large buffers instead of returning them to the system after every operation.

    A training step allocates the same sizes again and again; with the default settings each allocation is an mmap
    whose pages fault one by one.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    libc.mallopt(m_top_pad, 64 << 20)


def prepare(threads: int | None = None) -> None:
    """Choose the CPU settings; call it before the first `import paddle`.

    `import paddle` limits itself to one thread unless OMP_NUM_THREADS is set, and its MKL takes a slow path on AMD
    processors unless told otherwise. Variables that the user has set are left alone.

    Args:
        threads: CPU threads; None is every core that the process may use.

    Raises:
        ValueError: Fewer than one thread.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1.")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(cpu_count()))
    os.environ.setdefault("GLOG_minloglevel", "2")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # its remarks on odd files; what cannot be read, we say
    vendor, flags = _cpu_flags()
    if vendor == "AuthenticAMD" and "avx512f" in flags:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "7")
    elif vendor == "AuthenticAMD" and "avx2" in flags:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    _keep_freed_memory()
    if "paddle" not in sys.modules:
        check_paddle()
        _import_paddle_quietly()


def _import_paddle_quietly() -> None:
    """Import Paddle without its warnings about OMP_NUM_THREADS, which was set on purpose, and about compilers."""
    warnings.filterwarnings("ignore", message="No ccache found")
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        importlib.import_module("paddle")
    for line in said.getvalue().splitlines():
        if "OMP_NUM_THREADS" not in line:
            sys.stderr.write(f"{line}\n")


def pick_device(device: str = "auto") -> str:
    """Select Paddle's device and its fast CPU kernels.

    Args:
        device: `auto` (a GPU if there is one), `cpu`, `gpu` or `gpu:1`.

    Returns:
        The device chosen: `cpu`, `gpu` or `gpu:N`.

    Raises:
        ValueError: A GPU was asked for and there is none, or the name is unknown.
    """
    import paddle

    name, _, index = device.partition(":")
    if name not in ("auto", "cpu", "gpu") or (index and not index.isdigit()):
        raise ValueError(f"device is {device!r}; it must be auto, cpu, gpu or gpu:N.")
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if name == "gpu" and int(index or 0) >= gpus:
        have = f"{gpus} GPUs are visible" if paddle.is_compiled_with_cuda() else "this Paddle is built for CPU only"
        raise ValueError(f"device is {device!r}, but {have}. Use device cpu or auto.")
    chosen = device if name != "auto" else ("gpu" if gpus else "cpu")
    if chosen == "cpu":
        # Views that share memory make every later matrix product gather its operand: 9.8 ms a transpose, not 0.14.
        paddle.set_flags({"FLAGS_use_stride_kernel": False})
    paddle.set_device(chosen)
    return chosen


def outlive_this_process(seconds: float = 10.0) -> None:
    """Keep the connections of a process that fails open a while longer; does nothing when there is only one process.

    paddle.distributed.launch shows the error of the first process that it finds dead. Without this, the others crash
    at the lost connection within the same moment, and one of them is shown instead of the cause.

    Args:
        seconds: How long.
    """
    if int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1 and hasattr(os, "fork") and os.fork() == 0:
        time.sleep(seconds)
        os._exit(0)


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None on Windows, which does not tell."""
    if platform.system() == "Windows":
        return None
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if platform.system() == "Darwin" else kilobytes * 1024
