"""Set up and check a clean checkout: python3 tools/dev.py demo|test|lint

Needs nothing but Python 3.9 or newer: it makes its own virtual environments beside the checkout's files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PADDLE = "2.6.2"


def environment(name: str, extras: str, constraints: Sequence[str] = ()) -> Path:
    """Python of a virtual environment with the package and some extras; made when it is not there."""
    folder = ROOT / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = json.dumps([extras, *constraints, (ROOT / "pyproject.toml").read_text(encoding="utf-8")])
    stamp = folder / "installed.json"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"Making {folder.name} with {extras} {' '.join(constraints)} ...", flush=True)
    if folder.exists():
        shutil.rmtree(folder)
    if subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True, check=False).returncode:
        sys.exit("error: this Python cannot make virtual environments; on Debian: apt-get install python3-venv")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call([*install, "-e", f"{ROOT}[{extras}]", *constraints])
    stamp.write_text(wanted, encoding="utf-8")
    return python


def call(command: Sequence[str | Path], show: bool = False, **variables: str) -> None:
    """Run a command in the checkout; end with its exit code if it fails."""
    if show:
        print("\n$ python " + " ".join(str(part) for part in command[1:]), flush=True)
    code = subprocess.run([str(part) for part in command], cwd=ROOT, env={**os.environ, **variables}, check=False)
    if code.returncode:
        sys.exit(code.returncode)


def demo() -> None:
    """Train, evaluate, predict, export, and predict again from the export."""
    python = environment(".venv", "cpu,plot")
    output = ROOT / "output" / "demo"
    shutil.rmtree(output, ignore_errors=True)
    run, export = "output/demo/run", "output/demo/export"
    pictures = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "digits").glob("*.png"))

    def tool(name: str, *arguments: str) -> None:
        call([python, f"tools/{name}.py", *arguments], show=True)

    tool("train", "-c", "configs/vit_digits.yaml", "-o", f"run.output={run}")
    tool("eval", run)
    tool("predict", run, *pictures, "--topk", "2")
    tool("export", run, "-o", export)
    tool("predict", export, *pictures, "--topk", "2")
    answers = []
    for source in (run, export):
        file = output / f"{Path(source).name}.json"
        call([python, "tools/predict.py", source, *pictures, "--format", "json", "--output", file])
        answers.append([json.loads(line)["top"] for line in file.read_text(encoding="utf-8").splitlines()])
    for of_run, of_export in zip(*answers):
        for one, other in zip(of_run, of_export):
            if one["class"] != other["class"] or abs(one["probability"] - other["probability"]) > 1e-5:
                sys.exit("error: the export answers differently from the run")
    print("\nThe export gives the same answers as the run.")


def test(paddle: str | None, arguments: Sequence[str]) -> None:
    """The whole suite on the newest Paddle, or on a given version."""
    name, constraints = (".venv-test", []) if paddle is None else (f".venv-test-{paddle}", [f"paddlepaddle=={paddle}"])
    engines = ",onnx,openvino" if paddle is None and sys.version_info < (3, 13) else ""  # as paddle2onnx supports
    python = environment(name, f"cpu,plot,hub,serve,test{engines}", constraints)
    call([python, "-m", "pytest", "-n", str(os.cpu_count() or 1), *arguments], OMP_NUM_THREADS="1")


def lint() -> None:
    """Style and types."""
    python = environment(".venv-lint", "lint")
    call([python, "-m", "ruff", "check"])
    call([python, "-m", "ruff", "format", "--check"])
    call([python, "-m", "mypy"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Set up and check a clean checkout.")
    parser.add_argument("command", choices=("demo", "test", "lint"))
    parser.add_argument("--paddle", help=f"version to test on, for example {OLDEST_PADDLE}, the oldest supported")
    args, rest = parser.parse_known_args(argv)
    if args.command == "demo":
        demo()
    elif args.command == "test":
        test(args.paddle, rest)
    else:
        lint()
    return 0


if __name__ == "__main__":
    sys.exit(main())
