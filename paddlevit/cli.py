"""What the command line tools share: errors as one line, and exit codes."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import TextIO


def run(main: Callable[[], int | None]) -> None:
    """Run a tool's `main` and leave the process with its exit code.

    A user's mistake (ValueError, ImportError of something to install, a file that cannot be read or written) becomes
    one line on stderr and exit code 2. With PADDLEVIT_TRACEBACK=1 the traceback is shown instead. Warnings become one
    line on stderr, too.

    Args:
        main: Returns the exit code; None is 0.
    """
    shown, warnings.formatwarning = warnings.formatwarning, _warning_line
    try:
        code = main() or 0
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `tools/predict.py ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (ValueError, ImportError, OSError, MemoryError) as error:
        if os.environ.get("PADDLEVIT_TRACEBACK"):
            raise
        code = 2
        sys.stderr.write(f"error: {describe(error)}\n")
    finally:
        warnings.formatwarning = shown
    sys.stdout.flush()
    sys.exit(code)


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"warning: {' '.join(str(message).split())}\n"


def describe(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, ModuleNotFoundError) and error.name and str(error).startswith("No module named"):
        return f"{error.name} is not installed; pip install -e . in the checkout brings what paddlevit needs."
    if isinstance(error, MemoryError):
        return "Out of memory; use a smaller batch or model, or model.options.use_checkpoint=true."
    return " ".join(str(error).split()) or type(error).__name__


def claim_stdout() -> TextIO:
    """A stdout of our own; what C++ code prints from now on goes to stderr.

    Paddle 3.3's predictor prints a line to stdout, which would stand between a tool's JSON.

    Returns:
        Where to write; sys.stdout itself when that is no longer the process's own.
    """
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # replaced by something in memory
        return sys.stdout
    if number != 1:
        return sys.stdout
    sys.stdout.flush()
    own = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogateescape")  # names of files may be any bytes
    os.dup2(2, 1)
    return own
