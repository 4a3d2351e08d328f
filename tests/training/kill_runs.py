"""Runs that are killed, resumed and compared with one that was not: python -m tests.training.kill_runs FOLDER

Every run is a fork of this process, so that Paddle is imported once. Prints one JSON object per killed run.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from paddlevit import cli, runtime

runtime.prepare(1)

from paddlevit.training.trainer import Trainer  # noqa: E402
from paddlevit.weights import checkpoint as checkpoints  # noqa: E402
from tests.training.toy import load_tool, write_toy_config  # noqa: E402

BATCHES = 18  # 3 epochs of 6
WRITES = 24  # checkpoints, histories and the configuration
RUNS = 20
RESULTS = ("last.safetensors", "best.safetensors", "history.jsonl", "history.csv", "config.yaml")


def in_fork(work: Callable[[], None]) -> int:
    """Run `work` in a fork of this process; return its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr
        try:
            work()
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code or 0)
        os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(arguments: list[str], folder: Path) -> None:
    """The training tool, in a folder of its own."""
    os.chdir(folder)
    cli.run(lambda: load_tool("train").main(arguments))


def at_batch(number: int, act: Callable[[], None]) -> None:
    """Let the batch of this number act once it has been trained on."""
    plain, seen = Trainer.train_batch, []

    def counted(self: Trainer, *args: object, **options: object) -> object:
        result = plain(self, *args, **options)
        seen.append(1)
        if len(seen) == number:
            act()
        return result

    Trainer.train_batch = counted


def at_write(number: int, where: str) -> None:
    """Die at a file's writing: with half of it written, before it gets its name, or after."""
    plain_sync, plain_replace, seen = os.fsync, os.replace, []

    def sync(file: int) -> None:
        plain_sync(file)
        seen.append(1)
        if len(seen) == number and where != "renamed":
            if where == "half":
                os.ftruncate(file, os.fstat(file).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(*args: object) -> None:
        plain_replace(*args)
        if len(seen) >= number:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.os.fsync = sync
    if where == "renamed":
        checkpoints.os.replace = replace


def die(how: str) -> None:
    """End this process, or make its next checkpoint fail."""
    if how == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    else:
        os.kill(os.getpid(), signal.SIGKILL if how == "SIGKILL" else signal.SIGTERM)


def killed_run(how: str, place: int, arguments: list[str], folder: Path) -> None:
    """Train until killed."""
    if how in ("SIGKILL", "SIGTERM", "full"):
        at_batch(place, lambda: die(how))
    else:
        at_write(place, how)
    train(arguments, folder)


def main(folder: Path) -> None:
    """Kill and resume RUNS times."""
    config = write_toy_config(folder / "toy.yaml")
    arguments = ["-c", str(config), "-o", "run.output=run"]
    whole = folder / "whole"
    whole.mkdir()
    assert in_fork(lambda: train(arguments, whole)) == 0
    expected = {name: (whole / "run" / name).read_bytes() for name in RESULTS}
    chance = random.Random(0)
    ways = [("SIGKILL", BATCHES), ("SIGTERM", BATCHES), ("full", BATCHES)]
    ways += [("half", WRITES), ("unnamed", WRITES), ("renamed", WRITES)]
    for number in range(RUNS):
        how, places = ways[number % len(ways)]
        place, work = chance.randint(1, places), folder / f"killed_{number}"
        work.mkdir()
        ended = in_fork(partial(killed_run, how, place, arguments, work))
        run = work / "run"
        unfinished = (run / "last.safetensors").exists() or (run / "previous.safetensors").exists()
        resumed = in_fork(partial(train, ["--resume", "run"] if unfinished else arguments, work))
        different = [name for name in RESULTS if (run / name).read_bytes() != expected[name]]
        different += {file.name for file in run.iterdir()} ^ {file.name for file in (whole / "run").iterdir()}
        row = {"how": how, "place": place, "ended": ended, "resumed": resumed, "different": different}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
