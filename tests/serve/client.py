"""Talking HTTP to a server in this process or in another, with nothing but the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn

from paddlevit.inference import Predictor
from paddlevit.serve.__main__ import bind
from paddlevit.serve.app import create_app
from paddlevit.serve.limits import Limits
from tests.tools import ROOT

BOUNDARY = "a-line-between-files"
PATIENCE = 60.0


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of a refusal, which is all that it holds."""
        assert list(self.json) == ["error"], self.json
        return self.json["error"]


class Client:
    """Requests to a port of this machine, each over a connection of its own."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port, self.host = port, host

    def request(self, method: str, path: str, body: bytes | Iterable[bytes] | None = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())

    def get(self, path: str) -> Reply:
        return self.request("GET", path)

    def post(self, body: bytes, kind: str = "image/png", query: str = "") -> Reply:
        """A body to /predict."""
        return self.request("POST", f"/predict{query}", body, Content_Type=kind)

    def post_files(self, files: Sequence[tuple[str, bytes]], query: str = "") -> Reply:
        """Files to /predict, as a browser's form sends them."""
        return self.post(form(files), f"multipart/form-data; boundary={BOUNDARY}", query)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def form(files: Sequence[tuple[str, bytes]], field: str = "files") -> bytes:
    """The body of a multipart request."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@contextlib.contextmanager
def serving(predictor: Predictor, **limits: Any) -> Iterator[Client]:
    """A server in a thread of this process."""
    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(create_app(predictor, Limits(**limits)), log_level="critical", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    listener.listen()
    client = Client(listener.getsockname()[1])
    thread.start()
    try:
        yield client
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server does not stop"


class Process:
    """`python -m paddlevit.serve` with some arguments, on a free port.

    Attributes:
        greeting: The line that says where it is.
        client: Talks to it.
    """

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "paddlevit.serve", *map(str, arguments), "--port", "0"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.greeting = self.process.stdout.readline()
        assert self.greeting, self.process.communicate()
        host, port = re.search(r"http://(.*):(\d+);", self.greeting).groups()
        self.client = Client(int(port), host)

    def end(self) -> tuple[int, str]:
        """Exit code and stderr of a process that has been told to stop, without what Paddle 3.3 says of itself."""
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, err.replace("ReduceMeanCheckIfOneDNNSupport\n", "")


@contextlib.contextmanager
def process(*arguments: object) -> Iterator[Process]:
    """A server in a process of its own, which is gone afterwards."""
    server = Process(*arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()


def until(condition: Any, seconds: float = PATIENCE) -> None:
    """Wait until a function gives something true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)
