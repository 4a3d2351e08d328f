"""Imports point downward only, and nothing costly happens at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "paddlevit"

# What each part may import from the package besides itself; the public names in __init__ are loaded on use.
BASE = {"errors", "preprocessing", "layers", "hooks"}
ALLOWED: dict[str, set[str]] = {
    "__init__": {"runtime"},
    "errors": set(),
    "preprocessing": {"errors"},
    "runtime": set(),
    "cli": set(),
    "layers": {"errors"},
    "hooks": set(),
    "config": {"errors", "preprocessing"},
    "models": BASE,
    "complexity": BASE | {"models"},
    "weights": BASE | {"models"},
    "data": BASE | {"config", "models"},
    "training": BASE | {"config", "models", "weights", "data", "runtime", "complexity"},
    "inference": BASE | {"config", "models", "weights", "data", "training", "runtime", "complexity"},
    "explain": BASE | {"config", "models", "weights", "data", "complexity"},
    "serve": {"errors", "preprocessing", "data", "inference", "runtime", "cli"},
    "dev_run": BASE | {"config", "models", "data", "training", "inference", "runtime"},
    "ablation": BASE | {"config", "data", "training"},
    "benchmarks": BASE | {"config", "models", "weights", "data", "training", "inference", "runtime", "complexity"},
}


PUBLIC = {"create_model": "models", "list_models": "models", "load_weights": "weights", "Predictor": "inference"}


def _imports(path: Path, lazy: bool) -> set[str]:
    """Parts of the package that a file imports; with `lazy`, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if lazy else tree.body
    names = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "paddlevit":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {PUBLIC.get(a.name, a.name) for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("paddlevit.")}
    return names


def _part(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    part = _part(path)
    assert part in ALLOWED, f"{part} has no place in the order of imports; give it one"
    upward = _imports(path, lazy=part != "models") - ALLOWED[part] - {part}
    assert not upward, f"{path.relative_to(ROOT)} imports {sorted(upward)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").glob("*.py")), ids=lambda path: path.name)
def test_models_know_nothing_of_configs_data_or_training(path):
    assert not _imports(path, lazy=False) & {"config", "data", "training", "inference", "weights"}


@pytest.mark.parametrize("module", ["paddlevit", "paddlevit.config", "paddlevit.runtime", "paddlevit.cli"])
def test_import_without_paddle(module):
    code = f"import sys, {module}; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("tool", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_help_does_not_import_paddle(tool):
    code = (
        "import runpy, sys\n"
        "class Block:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'paddle': raise RuntimeError('paddle was imported')\n"
        "sys.meta_path.insert(0, Block())\n"
        f"sys.argv = ['{tool.name}', '--help']\n"
        f"runpy.run_path({str(tool)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
