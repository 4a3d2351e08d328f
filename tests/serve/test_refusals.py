"""What is not answered: every refusal says why, in JSON, and the server lives on."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from paddlevit.serve.limits import Limits
from tests.data.pictures import encoded, picture
from tests.serve.client import BOUNDARY, form, serving, until
from tests.serve.conftest import check_answer

FORM = f"multipart/form-data; boundary={BOUNDARY}"
PNG = encoded(picture())


def bomb(width: int, height: int) -> bytes:
    """A PNG of some bytes that says it is huge."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def array_file(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def as_json(content: object) -> bytes:
    return json.dumps(content).encode()


@pytest.fixture(scope="module")
def client(predictor):
    with serving(predictor, max_pictures=3, max_megabytes=0.2, max_pixels=200_000) as client:
        yield client


BAD = {
    "no body": (b"", "image/png", 400, "The request is empty; send a picture itself"),
    "another kind": (b"a=1", "application/x-www-form-urlencoded", 415, "Content-Type is 'application/x-www-form-url"),
    "text": (b"hello", "text/plain", 415, "Content-Type is 'text/plain'; send a picture itself .image/.*, multipart"),
    "text that says it is a picture": (b"hello", "image/png", 415, "picture is no picture that can be read; suppor"),
    "a PDF": (b"%PDF-1.4\n", "image/png", 415, "no picture that can be read; supported are JPEG"),
    "EPS": (encoded(picture(), "EPS"), "image/png", 415, "no picture that can be read"),
    "half a PNG": (encoded(picture(40, 40))[:900], "image/png", 422, "picture cannot be read: "),
    "half a JPEG": (encoded(picture(90, 90), "JPEG")[:900], "image/jpeg", 422, "picture cannot be read: "),
    "many pixels": (encoded(Image.new("1", (500, 500))), "image/png", 413, "500 x 500 pixels; at most 200000 are allo"),
    "a bomb": (bomb(12_000, 12_000), "image/png", 413, "pixels; at most 200000 are allowed"),
    "a greater bomb": (bomb(60_000, 60_000), "image/png", 413, "too many pixels; at most 200000 are allowed"),
    "a strip": (encoded(Image.new("L", (5, 600))), "image/png", 422, "a strip of 5 x 600 pixels; one side may be at m"),
    "many bytes": (bytes(200_001), "image/png", 413, "The request has 200001 bytes; at most 200000 are allowed"),
    "an array of objects": (array_file(np.array([{}]), allow_pickle=True), "image/x", 422, "picture cannot be read"),
    "an array of the wrong shape": (array_file(np.zeros((4, 4, 2))), "image/x", 422, r"its shape is \(4, 4, 2\)"),
    "no boundary": (form([("a", PNG)]), "multipart/form-data", 400, "boundary"),
    "another boundary": (form([("a", PNG)]), "multipart/form-data; boundary=x", 400, "."),
    "a form cut off": (form([("a", PNG), ("b", PNG)])[:-30], FORM, 400, "The form is cut off: its last boundary is m"),
    "an empty form": (form([]), FORM, 400, "."),
    "an empty file": (form([("a.png", PNG), ("b.png", b"")]), FORM, 422, "b.png is empty"),
    "one bad file": (form([("a.png", PNG), ("b.png", b"x")]), FORM, 415, "b.png is no picture"),
    "many files": (form([("a.png", PNG)] * 4), FORM, 413, "The request holds 4 pictures; at most 3 go in one"),
    "a text field": (form([("a", PNG)]).replace(b'; filename="a"', b""), FORM, 400, "field 'files' is text; every f"),
    "not JSON": (b"{", "application/json", 400, "The JSON cannot be read"),
    "not text": (b"\xff\xfe\xff", "application/json", 400, "The JSON cannot be read"),
    "deep JSON": (b"[" * 100_000, "application/json", 400, "The JSON cannot be read"),
    "other JSON": (as_json([1]), "application/json", 400, 'The JSON must be {"images": .*and nothing else'),
    "other keys": (as_json({"images": [], "topk": 3}), "application/json", 400, "and nothing else"),
    "other values": (as_json({"images": [3]}), "application/json", 400, "The JSON must be"),
    "no images": (as_json({"images": []}), "application/json", 400, "The request holds no picture; send at least one"),
    "not base64": (as_json({"images": ["äö"]}), "application/json", 400, "Picture 1 is not base64"),
    "base64 of text": (as_json({"images": [base64.b64encode(b"x").decode()]}), "application/json", 415, "picture 1 is"),
}


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_requests(client, case):
    body, kind, status, message = BAD[case]
    reply = client.post(body, kind)
    assert reply.status == status, reply.body
    assert re.search(message, reply.error), reply.error
    assert "Traceback" not in reply.error
    assert client.post(PNG).status == 200


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?topk=0", "topk is '0': Input should be greater than or equal to 1"),
        ("?topk=two", "topk is 'two': Input should be a valid integer"),
        ("?attention=perhaps", "attention is 'perhaps': Input should be a valid boolean"),
        ("?topK=3", "There is no parameter 'topK'; there are topk and attention. Did you mean \"topk\"?"),
    ],
)
def test_wrong_parameters(client, query, message):
    reply = client.post(PNG, query=query)
    assert reply.status == 422
    assert reply.error.startswith(message)


def test_other_addresses_and_methods(client):
    for method, path, status in [("GET", "/nothing", 404), ("GET", "/predict", 405), ("DELETE", "/health", 405)]:
        reply = client.request(method, path)
        assert reply.status == status
        assert reply.error.startswith(f"There is no {method} {path}; there are POST /predict, GET /health, ")


def test_a_body_of_unknown_length_is_bounded_too(client):
    pieces = (bytes(50_000) for _ in range(5))  # sent without Content-Length
    reply = client.request("POST", "/predict", pieces, Content_Type="image/png")
    assert (reply.status, reply.error) == (413, "The request has more than 200000 bytes, which is what is allowed.")


# Time and room


@pytest.fixture
def held(predictor, monkeypatch):
    """A predictor that computes nothing until the event is set."""
    go_on, outputs = threading.Event(), predictor.outputs

    def waiting(batch):
        assert go_on.wait(30)
        return outputs(batch)

    monkeypatch.setattr(predictor, "outputs", waiting)
    yield go_on
    go_on.set()


def test_a_full_server_says_so_at_once(predictor, held, files):
    with serving(predictor, max_queue=3, max_pictures=3, max_batch=1) as client, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(client.post, files[0]) for _ in range(3)]
        until(lambda: b"paddlevit_queue_length 2.0" in client.get("/metrics").body)
        reply = client.post(files[0])
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        assert reply.error == "The server is busy with 3 pictures, its limit; try again in 1 s."
        held.set()
        for future in waiting:
            check_answer(future.result().json["predictions"][0], predictor.predict(files[0])[0])
        for _ in range(2):
            assert client.post_files([("a", files[0])] * 3).status == 200  # all places are free again


def test_a_request_of_many_pictures_needs_as_many_places(predictor, held, files):
    with serving(predictor, max_queue=3, max_pictures=3, max_batch=1) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, files[0])
        time.sleep(0.05)
        reply = client.post_files([("a", files[0])] * 3)
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        held.set()
        assert waiting.result().status == 200


def test_an_answer_that_takes_too_long(predictor, held, files):
    with serving(predictor, timeout=2.0, max_batch=1) as client, ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(client.post, files[:2]))
        for reply in replies:
            assert (reply.status, reply.error) == (503, "No answer within 2 s; try again later.")
            assert int(reply.headers["Retry-After"]) >= 1
        assert b"paddlevit_queue_length 1.0" in client.get("/metrics").body  # given up, and not taken out yet
        held.set()
        check_answer(client.post(files[0]).json["predictions"][0], predictor.predict(files[0])[0])
        assert b"paddlevit_batch_pictures_sum 2.0" in client.get("/metrics").body  # one of the two was not computed


def test_a_request_that_does_not_arrive(predictor):
    with serving(predictor, timeout=0.3) as client:
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbegun")
            reply = connection.makefile("rb").read()  # to the end: the server closes the connection
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"The request did not arrive within 0.3 s." in reply


def test_a_client_that_leaves_does_no_harm(predictor, files):
    with serving(predictor, max_queue=16) as client:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", client.port)) as connection:
                connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbegun")
        until(lambda: client.post(files[0]).status == 200)


def test_an_engine_that_breaks_gives_no_traceback(predictor, monkeypatch, files):
    outputs = predictor.outputs
    with serving(predictor) as client:
        monkeypatch.setattr(predictor, "outputs", lambda batch: 1 / 0)
        reply = client.post(files[0])
        assert (reply.status, reply.error) == (500, "The server failed; its log says why.")
        monkeypatch.setattr(predictor, "outputs", outputs)
        assert client.post(files[0]).status == 200
        assert b'paddlevit_requests_total{status="500"} 1.0' in client.get("/metrics").body


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch is 0; it must be above 0"),
        ({"max_megabytes": -1.0}, r"max_megabytes is -1\.0; it must be above 0"),
        ({"timeout": 0.0}, r"timeout is 0\.0; it must be above 0"),
        ({"max_wait_ms": -1.0}, r"max_wait_ms is -1\.0; it must be at least 0"),
        ({"max_pixels": 10**9}, "max_pixels is 1000000000; it can be at most 89478485"),
        ({"max_queue": 4}, "max_pictures is 16 and max_queue 4, so that a full request never fits; raise max_queue"),
    ],
)
def test_limits_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Limits(**options)
