"""Runs that are killed, resumed and compared with one that was not: python -m tests.training.kill_runs FOLDER [RUNS]

Every run is a fork of this process, so that Paddle is imported once. Prints one JSON object per killed run.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from paddlevit import cli, runtime

runtime.prepare(1)

from paddlevit.training import run_folder  # noqa: E402
from paddlevit.training.trainer import Trainer  # noqa: E402
from paddlevit.weights import files  # noqa: E402
from paddlevit.weights.checkpoint import read_checkpoint  # noqa: E402
from tests.training.toy import load_tool, write_toy_config  # noqa: E402

BATCHES = 18  # 3 epochs of 6
WRITES = 17  # checkpoints, histories and the configuration
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
    """Die at a file's writing (half of it written, before it gets its name, after), or get a SIGTERM there."""
    plain_sync, plain_replace, seen = os.fsync, os.replace, []

    def sync(file: int) -> None:
        plain_sync(file)
        seen.append(1)
        if len(seen) == number and where == "SIGTERM while writing":
            os.kill(os.getpid(), signal.SIGTERM)
        elif len(seen) == number and where != "renamed":
            if where == "half":
                os.ftruncate(file, os.fstat(file).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(*args: object) -> None:
        plain_replace(*args)
        if len(seen) >= number:
            os.kill(os.getpid(), signal.SIGKILL)

    files.os.fsync = sync
    if where == "renamed":
        files.os.replace = replace


def fill_disk(room: int) -> None:
    """Let files take only so many bytes from now on; the write that fills the disk is cut short."""
    left = [room]

    class OnDisk(io.FileIO):
        def write(self, content: object) -> int:
            view = memoryview(content).cast("B")
            if view.nbytes and not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken = super().write(view[: left[0]])
            left[0] -= taken
            return taken

    def open_on_disk(path: object, mode: str = "r", buffering: int = -1, **options: object) -> object:
        if "r" in mode:
            return builtins.open(path, mode, buffering, **options)
        return OnDisk(path, mode) if buffering == 0 else io.BufferedWriter(OnDisk(path, mode))

    files.open = run_folder.open = open_on_disk


def killed_run(how: str, place: int, arguments: list[str], folder: Path) -> None:
    """Train until killed; what the tool says of an error goes to a file beside the folder."""
    sys.stderr = open(folder.with_suffix(".said"), "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
    if how in ("SIGKILL", "SIGTERM"):
        at_batch(place, lambda: os.kill(os.getpid(), getattr(signal, how)))
    elif how == "full disk":
        fill_disk(place)
    elif how != "full file system":
        at_write(place, how)
    train(arguments, folder)


@contextmanager
def file_system(folder: Path, room: int) -> Iterator[Callable[[], None]]:
    """Mount a file system of so many bytes; gives a function that makes it large. Needs to be root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True, capture_output=True)
    finally:
        subprocess.run(["umount", folder], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this process may mount file systems."""
    try:
        with file_system(folder, 1 << 20):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def damage(folder: Path) -> list[str]:
    """Files of a run that was killed that are not whole."""
    bad = []
    for file in folder.iterdir() if folder.exists() else ():
        try:
            if file.suffix == ".safetensors" and not file.name.startswith("."):
                read_checkpoint(file)
            elif file.name == "history.jsonl":
                list(map(json.loads, file.read_text().splitlines()))
            elif file.name == "log.txt" and not file.read_text().endswith("\n") and file.stat().st_size:
                bad.append(file.name)
        except ValueError:
            bad.append(file.name)
    return bad


def story(run: Path) -> list[str]:
    """The epochs that log.txt tells of, without the times and without what a resumed run did again."""
    lines = (line.split(" ", 2)[2] for line in (run / "log.txt").read_text().splitlines())
    return list(dict.fromkeys(line for line in lines if "train loss" in line))


def compare(run: Path, whole: Path) -> list[str]:
    """What of a resumed run differs from one never interrupted."""
    different = [name for name in RESULTS if (run / name).read_bytes() != (whole / name).read_bytes()]
    different += ["log.txt"] * (story(run) != story(whole))
    return different + sorted({file.name for file in run.iterdir()} ^ {file.name for file in whole.iterdir()})


def kill_and_resume(
    how: str, place: int, arguments: list[str], work: Path, whole: Path, make_room: Callable[[], object]
) -> dict[str, object]:
    """One killed run: how it ended, what it left behind, and how the resumed one compares."""
    run = work / "run"
    ended = in_fork(partial(killed_run, how, place, arguments, work))
    row = {"how": how, "place": place, "ended": ended, "damage": damage(run)}
    row["said"] = work.with_suffix(".said").read_text()
    make_room()
    unfinished = (run / "last.safetensors").exists() or (run / "previous.safetensors").exists()
    row["resumed"] = in_fork(partial(train, ["--resume", "run"] if unfinished else arguments, work))
    return {**row, "from": "last" if unfinished else "nothing", "different": compare(run, whole)}


def main(folder: Path, runs: int) -> None:
    """Kill and resume so many times."""
    config = write_toy_config(folder / "toy.yaml")
    arguments = ["-c", str(config), "-o", "run.output=run"]
    whole = folder / "whole"
    whole.mkdir()
    assert in_fork(lambda: train(arguments, whole)) == 0
    last, best = ((whole / "run" / f"{name}.safetensors").stat().st_size for name in ("last", "best"))
    room = 3 * last + best  # at its fullest: last, previous, the one being written, best
    ways = [("SIGKILL", BATCHES), ("full disk", 6 * last), ("SIGTERM", BATCHES), ("half", WRITES)]
    ways += [("unnamed", WRITES), ("full file system", room), ("renamed", WRITES), ("SIGTERM while writing", WRITES)]
    if not can_mount(folder):
        ways.remove(("full file system", room))
    chance = random.Random(0)
    for number in range(runs):
        how, places = ways[number % len(ways)]
        place, work = chance.randint(1, places), folder / f"killed_{number}"
        work.mkdir()
        disk = file_system(work, place) if how == "full file system" else nullcontext(lambda: None)
        with disk as make_room:
            print(json.dumps(kill_and_resume(how, place, arguments, work, whole / "run", make_room)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else RUNS)
