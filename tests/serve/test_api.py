from __future__ import annotations

import base64
import dataclasses
import json
import re
import threading

import numpy as np
import pytest
from PIL import Image

from paddlevit.inference import Predictor, export_model
from paddlevit.serve.app import create_app
from tests.data.pictures import encoded, picture
from tests.inference.conftest import build
from tests.serve.client import BOUNDARY, form, serving
from tests.serve.conftest import NAMES, check_answer


@pytest.fixture(scope="module")
def client(predictor):
    with serving(predictor, max_pictures=12, max_wait_ms=1) as client:
        yield client


@pytest.fixture(scope="module")
def expected(predictor, files):
    return predictor.predict(files)


# Answers


def test_the_bytes_of_a_picture(client, files, expected):
    for data, answer, kind in zip(files, expected, ["image/png", "image/jpeg", "application/octet-stream", "image/*"]):
        reply = client.post(data, kind)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        (prediction,) = reply.json["predictions"]
        check_answer(prediction, answer)
        assert (prediction["name"], set(prediction)) == ("picture", {"name", "classes"})
    assert client.request("POST", "/predict", files[0]).status == 200  # without Content-Type


def test_many_files_in_order(client, files, expected):
    reply = client.post_files([(f"{number}.png", data) for number, data in enumerate(files)])
    assert reply.status == 200
    assert [answer["name"] for answer in reply.json["predictions"]] == [f"{number}.png" for number in range(len(files))]
    for answer, right in zip(reply.json["predictions"], expected):
        check_answer(answer, right)
    assert len({answer["classes"][0]["probability"] for answer in reply.json["predictions"]}) == len(files)


def test_json_with_base64(client, files, expected):
    texts = [base64.encodebytes(files[0]).decode(), "data:image/jpeg;base64," + base64.b64encode(files[1]).decode()]
    reply = client.post(json.dumps({"images": texts}).encode(), "application/json; charset=utf-8")
    assert [answer["name"] for answer in reply.json["predictions"]] == ["picture 1", "picture 2"]
    for answer, right in zip(reply.json["predictions"], expected):
        check_answer(answer, right)


def test_a_file_may_be_large_and_hold_anything(client, predictor):
    noise = np.random.default_rng(0).integers(0, 256, (900, 700, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "BMP")  # every byte there is, and more than stays in memory
    reply = client.post_files([("große Datei.bmp", data)])
    assert reply.json["predictions"][0]["name"] == "große Datei.bmp"
    check_answer(reply.json["predictions"][0], predictor.predict(data)[0])


def test_topk(client, files, expected):
    for topk in (1, 3, 99):
        (answer,) = client.post(files[0], query=f"?topk={topk}").json["predictions"]
        assert len(answer["classes"]) == min(topk, len(NAMES))
        check_answer(answer, expected[0], topk)


def test_an_attention_map_if_it_is_asked_for(client, predictor, files, expected):
    (answer,) = client.post(files[0], query="?attention=true").json["predictions"]
    np.testing.assert_allclose(answer["attention"], expected[0].attention, atol=1e-5)
    assert np.shape(answer["attention"]) == (4, 4)
    # Of 20 x 44 pixels resized to 35 x 77, the network sees 32 x 32 in the middle.
    short = int(32 / predictor.preprocessing.crop_pct)
    assert short == 35
    np.testing.assert_allclose(answer["region"], [round(45 / 2) / 77, round(3 / 2) / 35, 32 / 77, 32 / 35])


def test_no_attention_map_in_the_export(plain_predictor, files):
    with serving(plain_predictor) as client:
        assert client.post(files[0]).status == 200
        reply = client.post(files[0], query="?attention=true")
        assert reply.status == 422
        assert reply.error == "This export has no attention map; export again with tools/export.py --attention."
        assert client.get("/health").json["attention"] is False


def test_an_export_that_prepares_pictures_itself(tmp_path):
    export_model(build("vit"), tmp_path / "export", class_names=NAMES, with_preprocess=True, softmax=True)
    predictor = Predictor(tmp_path / "export", threads=1, engine="paddle")
    sizes = [(20, 30), (50, 40), (20, 30), (33, 35)]
    pictures = [encoded(picture(*size, seed)) for seed, size in enumerate(sizes)]
    with serving(predictor) as client:
        answers = client.post_files([("a", data) for data in pictures]).json["predictions"]
    for answer, right in zip(answers, predictor.predict(pictures)):
        check_answer(answer, right)


def test_an_export_without_classes_cannot_be_served(plain_predictor, monkeypatch):
    monkeypatch.setattr(plain_predictor, "info", dataclasses.replace(plain_predictor.info, class_names=[]))
    with pytest.raises(ValueError, match="gives numbers, not classes; export a network with a classifier"):
        create_app(plain_predictor)


def test_no_thread_outlives_the_server(predictor, files):
    before = set(threading.enumerate())
    with serving(predictor) as client:
        client.post(files[0])
        names = {thread.name.rpartition("_")[0] or thread.name for thread in set(threading.enumerate()) - before}
        assert names >= {"paddlevit-batcher", "paddlevit-decode"}
    assert set(threading.enumerate()) <= before


def test_what_stands_around_a_form_means_nothing(client, files, expected):
    body = b"preamble\r\n" + form([("a", files[0])]) + b"epilogue\r\n--" + BOUNDARY.encode() + b"\r\n"
    for kind in (
        f"multipart/form-data; boundary={BOUNDARY}",
        f'Multipart/Form-Data; charset=utf-8; boundary="{BOUNDARY}"',
    ):
        (given,) = client.post(body, kind).json["predictions"]
        check_answer(given, expected[0])


# Information


@pytest.mark.parametrize("address", ["/", "/health", "/metrics"])
def test_head_is_get_without_its_body(client, address):
    head, get = client.request("HEAD", address), client.get(address)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


def test_health(client):
    assert client.get("/health").json == {
        "status": "ok",
        "model": "vit_tiny_patch16_224",
        "task": "classes",
        "classes": 5,
        "attention": True,
        "engine": "paddle",
    }


def test_metrics(predictor, files):
    with serving(predictor, max_batch=2) as client:
        for query in ("", "?topk=1", "?topk=0"):
            client.post(files[0], query=query)
        client.post_files([("a", data) for data in files[:3]])
        client.get("/health")
        reply = client.get("/metrics")
        assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        figures = dict(re.findall(r"^(\S+) (\S+)$", reply.body.decode(), flags=re.MULTILINE))
    assert float(figures['paddlevit_requests_total{status="200"}']) == 3
    assert float(figures['paddlevit_requests_total{status="422"}']) == 1
    assert float(figures["paddlevit_request_seconds_count"]) == 3
    assert 0 < float(figures["paddlevit_request_seconds_sum"]) < 30
    assert float(figures["paddlevit_batch_pictures_sum"]) == 5
    assert float(figures["paddlevit_batch_pictures_count"]) in (4, 5)  # at most two at a time
    assert float(figures["paddlevit_queue_length"]) == 0


def test_openapi_describes_what_there_is(client):
    content = client.get("/openapi.json").json
    assert set(content["paths"]) == {"/predict", "/health", "/metrics"}
    predict = content["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/json"}
    assert set(predict["responses"]) == {"200", "400", "408", "413", "415", "422", "503"}
    assert {parameter["name"] for parameter in predict["parameters"]} == {"topk", "attention"}


@pytest.mark.parametrize("address", ["/", "/docs"])
def test_pages_need_nothing_from_elsewhere(client, address):
    reply = client.get(address)
    text = reply.body.decode()
    assert reply.headers["Content-Type"].startswith("text/html")
    used = re.findall(r"(?:src|href)=[\"']([^\"']*)", text) + re.findall(r"url\(([^)]*)\)", text)
    assert used
    for target in used:
        assert not re.match(r"https?:|//", target), target
        if not target.startswith("data:"):
            assert client.get(f"/{target.lstrip('/')}").status == 200, target


def test_the_page_is_forbidden_to_load_anything_from_elsewhere(client):
    policy = client.get("/").headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
