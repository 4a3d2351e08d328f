"""Tools from a checkout that nobody installed, and errors as one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paddlevit.cli import describe
from tests.tools import ROOT

TOOLS = sorted(path for path in (ROOT / "tools").glob("*.py") if path.name != "dev.py")


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_a_tool_runs_from_a_checkout_that_is_not_installed(tool, tmp_path):
    """-S hides what is installed, so --help also shows that nothing but Python is needed for it."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-S", tool, "--help"], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: {tool.name}")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ModuleNotFoundError("No module named 'yaml'", name="yaml"), "yaml is not installed; pip install -e . in the"),
        (ImportError('Pictures need Matplotlib: pip install "x"'), 'Pictures need Matplotlib: pip install "x"'),
        (FileNotFoundError(2, "No such file or directory", "a.yaml"), "a.yaml: No such file or directory."),
        (MemoryError(), "Out of memory; use a smaller batch"),
        (ValueError("two\n lines"), "two lines"),
        (ValueError(), "ValueError"),
    ],
)
def test_errors_become_one_line(error, line):
    assert describe(error).startswith(line)
