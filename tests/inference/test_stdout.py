"""What goes to stdout is the tool's alone."""

from __future__ import annotations

import json
import subprocess
import sys

from paddlevit.inference import export_model
from tests.inference.conftest import build
from tests.tools import ROOT


def test_a_predictor_prints_nothing_between_the_json(tmp_path):
    export_model(build("vit, average"), tmp_path / "export")
    pictures = [str(path) for path in sorted((ROOT / "docs" / "digits").glob("*.png"))]
    command = [sys.executable, "tools/predict.py", str(tmp_path / "export"), *pictures, "--format", "json"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import runpy; sys.argv = {command[1:]!r}; "
    code += "runpy.run_path('tools/predict.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == pictures
