"""`python -m paddlevit.serve`: its options, its errors, its end."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from paddlevit import cli
from paddlevit.serve import __main__ as command
from paddlevit.serve.limits import Limits
from tests.data.pictures import encoded, picture
from tests.serve.client import Client, process, until
from tests.serve.conftest import check_answer
from tests.tools import ROOT, Result, one_line


@pytest.fixture
def refuse():
    """Run the command in this process, where it has to fail; gives its one line."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def _refuse(*arguments: object) -> str:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.run(lambda: command.main([str(argument) for argument in arguments]))
            except SystemExit as end:
                code = end.code or 0
        return one_line(Result(code, out.getvalue(), err.getvalue()))

    yield _refuse
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_help_needs_neither_paddle_nor_the_extra():
    code = (
        "import runpy, sys\n"
        "for name in ('paddle', 'fastapi', 'uvicorn'): sys.modules[name] = None\n"
        "sys.argv = ['serve', '--help']\n"
        "runpy.run_module('paddlevit.serve', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for field in dataclasses.fields(Limits):
        assert f"--{field.name.replace('_', '-')} " in done.stdout
        assert f"(default {field.default})" in " ".join(done.stdout.split())


def test_a_folder_that_is_no_export(refuse, tmp_path):
    assert "is not an export: it has no inference.yml. tools/export.py makes one." in refuse(tmp_path, "--port", 0)


def test_a_port_in_use(refuse, export):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = refuse(export, "--port", port)
    assert line == f"error: Port {port} of 127.0.0.1 cannot be had: another program uses it; choose another --port.\n"


def test_addresses_that_cannot_be_had(refuse, export):
    assert "port is 70000; it must be from 0 to 65535." in refuse(export, "--port", 70_000)
    assert "host is 'no such host', which is not known: " in refuse(export, "--host", "no such host")
    assert "Port 0 of 192.0.2.1 cannot be had: " in refuse(export, "--host", "192.0.2.1", "--port", 0)


@pytest.mark.parametrize("module", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_extra(refuse, export, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    line = refuse(export, "--port", 0)
    assert line == f'error: The server needs {module}: pip install -e ".[serve]"\n'


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--engine", "tensorflow", "engine is 'tensorflow'; it must be one of auto, paddle, onnxruntime, openvino"),
        ("--engine", "openvino", "cannot run in fp32 here. openvino: "),
        ("--threads", "0", "threads is 0; it must be at least 1"),
        ("--device", "tpu", "device is 'tpu'; it must be auto, cpu, gpu or gpu:N"),
        ("--precision", "int8", "precision is 'int8', but .* was exported in fp32"),
        ("--max-batch", "0", "max_batch is 0; it must be above 0"),
    ],
)
def test_what_cannot_be_run(refuse, export, option, value, message):
    assert re.search(message, refuse(export, "--port", 0, option, value))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_is_loading(refuse, export, monkeypatch, number):
    monkeypatch.setattr(command, "bind", lambda host, port: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as end:
        command.main([str(export)])
    assert end.value.code == 0


def test_the_address_of_a_socket():
    with contextlib.closing(command.bind("127.0.0.1", 0)) as listener:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", command.address(listener))
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port))  # it is not listened at before everything is ready
    if socket.has_ipv6:
        with contextlib.closing(command.bind("::1", 0)) as listener:
            assert re.fullmatch(r"http://\[::1\]:\d+", command.address(listener))


def test_options_change_what_the_server_does(export):
    options = {"max_batch": 1, "max_wait_ms": 300, "max_queue": 3, "max_pictures": 2, "max_megabytes": 0.01}
    options.update(max_pixels=500, timeout=1.5, threads=1, host="127.0.0.2")
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    small, large = encoded(picture(10, 20)), encoded(picture(20, 30))
    with process(export, *words) as server:
        assert re.match(
            r"vit_tiny_patch16_224 with paddle on http://127\.0\.0\.2:\d+; Ctrl\+C ends it", server.greeting
        )
        client = server.client
        assert client.post(large).error == "picture has 30 x 20 pixels; at most 500 are allowed."
        assert client.post_files([("a", small)] * 3).error.endswith("at most 2 go in one.")
        assert client.post(bytes(10_001)).error.endswith("at most 10000 are allowed.")
        started = time.monotonic()
        assert client.post_files([("a", small)] * 2).status == 200
        assert time.monotonic() - started < 10
        assert b"paddlevit_batch_pictures_count 2.0" in client.get("/metrics").body  # one at a time
        with socket.create_connection(("127.0.0.2", client.port)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbegun")
            others = [socket.create_connection(("127.0.0.2", client.port)) for _ in range(2)]
            for other in others:
                other.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbegun")
            until(lambda: client.post(small).status == 503)
            assert client.post(small).error.startswith("The server is busy with 3 pictures")
            assert b"did not arrive within 1.5 s" in connection.makefile("rb").read()
            for other in others:
                other.close()
        server.process.send_signal(signal.SIGINT)
        assert server.end() == (0, "")


def test_a_server_that_is_told_to_stop_answers_what_has_arrived(export, predictor, files):
    # A picture waits three seconds for company here, so that all requests are under way when the signal comes.
    with process(export, "--max-wait-ms", 3000, "--max-batch", 64, "--threads", 1) as server:
        with ThreadPoolExecutor(len(files)) as pool:
            replies = [pool.submit(server.client.post, data) for data in files]
            until(lambda: b"paddlevit_queue_length 12.0" in server.client.get("/metrics").body)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: refuses(server.client))
            assert not any(reply.done() for reply in replies)
            for reply, right in zip(replies, predictor.predict(files)):
                assert reply.result().status == 200
                check_answer(reply.result().json["predictions"][0], right)
        assert server.end() == (0, "")


def refuses(client: Client) -> bool:
    """Whether nothing listens any more."""
    try:
        client.get("/health")
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


MALFORMED = [
    (b"no picture", "image/png", 415),
    (b"", "image/png", 400),
    (b"{", "application/json", 400),
    (b"x", "text/plain", 415),
    (encoded(picture(40, 40))[:900], "image/png", 422),
]


@pytest.mark.parametrize("total", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_clients_at_once(export, predictor, files, total):
    """32 clients, one request in ten malformed: every answer right, and none waits long."""
    clients, expected = 32, predictor.predict(files)
    seconds, wrong, lock = [], [], threading.Lock()

    def ask(client: Client, number: int) -> None:
        if number % 10 == 9:
            body, kind, status = MALFORMED[number // 10 % len(MALFORMED)]
            reply = client.post(body, kind)
            assert (reply.status, bool(reply.error)) == (status, True)
            return
        started = time.monotonic()
        reply = client.post(files[number % len(files)])
        taken = time.monotonic() - started
        assert reply.status == 200, reply.body
        check_answer(reply.json["predictions"][0], expected[number % len(files)])
        with lock:
            seconds.append(taken)

    def work(client: Client, first: int) -> None:
        for number in range(first, total, clients):
            try:
                ask(client, number)
            except Exception as error:  # whatever goes wrong in a thread has to reach the test
                wrong.append((number, error))

    with process(export, "--threads", 1) as server:
        threads = [threading.Thread(target=work, args=(server.client, first)) for first in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert len(seconds) == total - total // 10
        figures = dict(re.findall(r"^(\S+) (\S+)$", server.client.get("/metrics").body.decode(), flags=re.MULTILINE))
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == (0, "")
    p50, p99 = np.percentile(seconds, [50, 99])
    per_run = float(figures["paddlevit_batch_pictures_sum"]) / float(figures["paddlevit_batch_pictures_count"])
    print(f"p50 {1e3 * p50:.1f} ms, p99 {1e3 * p99:.1f} ms, {per_run:.1f} pictures a run")  # shown by pytest -rP
    assert per_run > 1.5
    assert p99 < 3 * p50 * clients
