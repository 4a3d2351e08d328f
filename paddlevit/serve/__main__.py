"""Serve an export over HTTP: python -m paddlevit.serve exported"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import importlib.util
import math
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from paddlevit import cli, runtime
from paddlevit.serve.limits import Limits

NEEDS = ("fastapi", "fastapi_offline", "uvicorn", "python_multipart", "prometheus_client")
LIMITS = {
    "max_batch": "pictures computed together",
    "max_wait_ms": "milliseconds that a picture waits for others to be computed with",
    "max_queue": "pictures on their way through the server; more are refused with 503",
    "max_pictures": "pictures in one request",
    "max_megabytes": "size of one request",
    "max_pixels": "pixels of one picture",
    "timeout": "seconds for a request to arrive, and again for its answer",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m paddlevit.serve", description="Serve an export over HTTP.")
    parser.add_argument("folder", help="what tools/export.py wrote")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all networks (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default 8000)")
    parser.add_argument("--engine", default="auto", help="paddle, onnxruntime, openvino, or the fastest (default auto)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu or gpu:N (default auto)")
    parser.add_argument("--precision", help="fp32, bf16 or fp16 (default: what the export is meant for)")
    for field in dataclasses.fields(Limits):
        name = "--" + field.name.replace("_", "-")
        kind = type(field.default)
        parser.add_argument(
            name, type=kind, default=field.default, help=f"{LIMITS[field.name]} (default {field.default})"
        )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl+C; requests that have arrived are answered first."""
    args = parse(argv)
    limits = Limits(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Limits)})
    check_installed()
    # Before uvicorn handles signals, and again when it is done and passes on what it has handled.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with contextlib.closing(bind(args.host, args.port)) as listener:
        serve(args, limits, listener)
    return 0


def serve(args: argparse.Namespace, limits: Limits, listener: socket.socket) -> None:
    """Load the export, say where the server is, and run it."""
    console = cli.claim_stdout()
    runtime.prepare(args.threads)

    import uvicorn

    from paddlevit.inference import Predictor
    from paddlevit.serve.app import create_app

    predictor = Predictor(args.folder, args.threads, args.device, args.engine, args.precision)
    app = create_app(predictor, limits)
    predictor.warm_up()
    patience = math.ceil(limits.timeout) + 5
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=patience)
    listener.listen(config.backlog)
    console.write(f"{predictor.info.model_name} with {predictor.engine} on {address(listener)}; Ctrl+C ends it.\n")
    console.flush()
    uvicorn.Server(config).run(sockets=[listener])


def check_installed() -> None:
    """Raise ImportError with the command to install what the server needs, unless it is there."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'The server needs {", ".join(missing)}: pip install -e ".[serve]"')


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds an address, which takes connections once it listens.

    Raises:
        ValueError: The address is taken, or not of this machine, or not ours to take.
    """
    if not 0 <= port < 1 << 16:
        raise ValueError(f"port is {port}; it must be from 0 to 65535.")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ValueError(f"host is {host!r}, which is not known: {error.strerror}.") from error
    listener = socket.socket(family, kind, protocol)
    if sys.platform != "win32":  # there it would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        reason = "another program uses it; choose another --port" if taken else error.strerror
        raise ValueError(f"Port {port} of {host} cannot be had: {reason}.") from error
    return listener


def address(listener: socket.socket) -> str:
    """Where a browser finds the server."""
    place: Any = listener.getsockname()
    host = f"[{place[0]}]" if listener.family == socket.AF_INET6 else place[0]
    return f"http://{host}:{place[1]}"


if __name__ == "__main__":
    cli.run(main)
