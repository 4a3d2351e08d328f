"""Run a command line tool inside the test's process, as a user's shell would see it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import NamedTuple

from paddlevit import cli

ROOT = Path(__file__).resolve().parent.parent


class Result(NamedTuple):
    """What a tool said and how it ended."""

    code: int
    out: str
    err: str


def call(tool: str, *arguments: object) -> Result:
    """`python tools/TOOL.py ARGUMENTS` without the cost of a new process."""
    spec = importlib.util.spec_from_file_location(f"tool_{tool}", ROOT / "tools" / f"{tool}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.run(lambda: module.main([str(argument) for argument in arguments]))
        except SystemExit as end:
            code = end.code or 0
    return Result(code, out.getvalue(), err.getvalue())


def one_line(result: Result) -> str:
    """The error of a tool that refused to work: exit code 2 and exactly one line on stderr."""
    assert result.code == 2, result
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("error: ")
    return result.err
