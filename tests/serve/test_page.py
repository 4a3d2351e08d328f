"""The page in a real browser. Needs Chromium (Debian: apt-get install chromium); without one these are skipped."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from paddlevit.inference import Predictor, export_model
from tests.data.pictures import encoded, picture
from tests.inference.conftest import build
from tests.serve.browser import Browser, find_chromium
from tests.serve.client import serving
from tests.tools import ROOT

DIGIT = ROOT / "docs" / "digits" / "three.png"
BARS = """[...document.querySelectorAll("#bars li")].map((item) => ({
    name: item.querySelector(".name").textContent,
    share: item.querySelector(".share").textContent,
    width: item.querySelector(".bar").offsetWidth / item.querySelector(".track").offsetWidth,
}))"""
MAP = """(() => {
    const map = document.getElementById("map"), box = map.getBoundingClientRect();
    const stage = document.getElementById("stage").getBoundingClientRect();
    return {
        pixels: [...map.getContext("2d").getImageData(0, 0, map.width, map.height).data],
        shape: [map.height, map.width],
        region: [(box.x - stage.x) / stage.width, (box.y - stage.y) / stage.height,
                 box.width / stage.width, box.height / stage.height],
        opacity: Number(getComputedStyle(map).opacity),
        visible: map.offsetParent !== null,
    };
})()"""
LEAST, MOST = (0, 34, 78), (254, 232, 56)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_chromium()
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def client(predictor):
    with serving(predictor, max_pixels=100_000) as client:
        yield client


@pytest.fixture
def page(browser, client):
    """The page, just opened, in English."""
    browser.speak("en-GB,en")
    browser.resize(1000, 800)
    browser.events.clear()
    browser.open("about:blank")
    browser.open(client.url)
    return browser


def shown(page: Browser, name: str) -> str:
    """What an element says once it says anything."""
    element = f"document.getElementById({name!r})"
    return page.wait(f"{element}.offsetParent !== null && {element}.innerText")


def finished(page: Browser, start: str = "Most likely") -> str:
    page.wait(f"document.getElementById('status').textContent.startsWith({start!r})")
    return page.evaluate("document.getElementById('status').textContent")


def check_bars(page: Browser, expected) -> None:
    bars = page.evaluate(BARS)
    assert [bar["name"] for bar in bars] == list(expected.names)
    np.testing.assert_allclose([bar["width"] for bar in bars], expected.probabilities, atol=0.02)
    for bar, share in zip(bars, expected.probabilities):
        assert float(bar["share"].rstrip("%")) == pytest.approx(100 * share, abs=0.06)


def test_a_dropped_picture_gets_its_classes_and_its_map(page, client, predictor):
    assert shown(page, "model") == "vit_tiny_patch16_224 · 5 classes · paddle"
    page.drop(DIGIT, "#drop")
    (expected,) = predictor.predict(DIGIT)
    assert finished(page) == f"Most likely {expected.names[0]}, {100 * expected.probabilities[0]:.1f}%."
    check_bars(page, expected)
    assert any("<i>" in bar["name"] for bar in page.evaluate(BARS))  # a class's name is text, never markup
    seen = page.evaluate(MAP)
    assert (seen["visible"], seen["shape"]) == (True, [4, 4])
    colours = np.reshape(seen["pixels"], (16, 4))[:, :3]
    np.testing.assert_allclose(colours[expected.attention.argmax()], MOST, atol=1)
    np.testing.assert_allclose(colours[expected.attention.argmin()], LEAST, atol=1)
    brightness = colours.sum(axis=1)
    assert (np.diff(brightness[expected.attention.ravel().argsort()]) >= -2).all()
    assert shown(page, "caption") == "Yellow is where the last layer looks most."
    assert page.evaluate("document.getElementById('picture').naturalWidth") == 8
    assert page.complaints() == []
    assert len(page.requested()) >= 4
    for address in page.requested():
        assert address.startswith((client.url, f"blob:{client.url}", "about:blank"))


def test_the_map_lies_on_what_the_network_saw(page, predictor, tmp_path):
    (tmp_path / "wide.png").write_bytes(encoded(picture(20, 44, seed=3)))
    page.choose(tmp_path / "wide.png", "#file")
    finished(page)
    seen = page.evaluate(MAP)
    np.testing.assert_allclose(seen["region"], [22 / 77, 2 / 35, 32 / 77, 32 / 35], atol=0.01)
    ratio = page.evaluate(
        "(() => { const b = document.getElementById('stage').getBoundingClientRect(); return b.width / b.height; })()"
    )
    assert ratio == pytest.approx(44 / 20, rel=0.02)
    assert seen["opacity"] == pytest.approx(0.55)
    page.evaluate(
        "(() => { const s = document.getElementById('strength'); s.value = 20;"
        " s.dispatchEvent(new Event('input')); })()"
    )
    assert page.evaluate(MAP)["opacity"] == pytest.approx(0.2)


def test_a_pasted_picture(page, predictor):
    data = encoded(picture(30, 30, seed=5))
    page.evaluate(
        f"""(() => {{
            const transfer = new DataTransfer();
            const file = new File([new Uint8Array({json.dumps(list(data))})], "pasted.png", {{type: "image/png"}});
            transfer.items.add(file);
            document.dispatchEvent(new ClipboardEvent("paste", {{clipboardData: transfer}}));
        }})()"""
    )
    finished(page)
    check_bars(page, predictor.predict(data)[0])


def test_bad_files_and_then_a_good_one(page, predictor, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    page.drop(tmp_path / "notes.png", "footer")  # anywhere on the page
    assert re.fullmatch(
        r"This file is not a picture that the server knows\.\nnotes\.png is no picture that can be read; .*",
        shown(page, "error"),
    )
    assert page.evaluate("document.getElementById('result').hidden")
    (tmp_path / "large.png").write_bytes(encoded(picture(400, 400)))
    page.drop(tmp_path / "large.png", "#drop")
    page.wait("document.getElementById('error').innerText.startsWith('The picture is too large.')")
    assert "large.png has 400 x 400 pixels; at most 100000 are allowed." in shown(page, "error")
    page.drop(DIGIT, "#drop")
    finished(page)
    assert page.evaluate("document.getElementById('error').hidden")
    check_bars(page, predictor.predict(DIGIT)[0])


def test_a_picture_that_only_the_server_can_show(page, predictor, tmp_path):
    (tmp_path / "page.tiff").write_bytes(encoded(picture(), "TIFF"))
    page.choose(tmp_path / "page.tiff", "#file")
    finished(page)
    assert shown(page, "caption") == "The browser cannot show this kind of picture; the server can read it."
    check_bars(page, predictor.predict(tmp_path / "page.tiff")[0])
    assert not page.evaluate(MAP)["visible"]


def test_chinese(page, client, tmp_path):
    page.speak("fr,zh-TW,zh,en")
    page.open(f"{client.url}/?again")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.drop(DIGIT, "#drop")
    assert re.fullmatch(r"最可能是 .*，\d+\.\d%。", finished(page, "最可能是"))
    (tmp_path / "notes.png").write_text("no picture")
    page.drop(tmp_path / "notes.png", "#drop")
    assert shown(page, "error").startswith("这个文件不是服务器认识的图片。\nnotes.png is no picture")
    english = set(re.findall(r"[A-Za-z]{3,}", page.evaluate("document.body.innerText.split('notes.png')[0]")))
    assert english <= {"HTTP", "vit", "tiny", "patch", "paddle"}


def test_numbers_of_a_regression(browser, tmp_path):
    network = build("vit", num_classes=2)
    network.task, network.class_names = "regression", ["age", "<b>weight</b>"]
    export_model(network, tmp_path / "export")
    predictor = Predictor(tmp_path / "export", engine="paddle")
    (expected,) = predictor.predict(DIGIT)
    with serving(predictor) as client:
        for language, heading, start in (("en", "Predicted values", "age: "), ("zh", "预测的数值", "age：")):
            browser.speak(language)
            browser.open(f"{client.url}/?{language}")
            browser.drop(DIGIT, "#drop")
            said = finished(browser, start)
            assert shown(browser, "kind") == heading
            assert float(re.search(r"-?[\d.]*\d", said.replace(",", "")).group()) == pytest.approx(
                expected.values[0], rel=1e-4
            )
            lines = shown(browser, "bars").replace(",", "").splitlines()
            assert [line for line in lines if line in expected.names] == list(expected.names)
            numbers = [float(line) for line in lines if line not in expected.names]
            np.testing.assert_allclose(numbers, expected.values, rtol=1e-4)


def test_other_languages_get_english(page, client):
    page.speak("fr,de")
    page.open(f"{client.url}/?again")
    assert page.evaluate("[document.documentElement.lang, document.querySelector('h1').textContent]") == [
        "en",
        "What is in the picture?",
    ]


def test_on_a_phone_everything_fits(page):
    page.resize(360, 740)
    page.drop(DIGIT, "#drop")
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    top, below = page.evaluate(
        "['stage', 'bars'].map((name) => document.getElementById(name).getBoundingClientRect().y)"
    )
    assert below > top + 300


def test_the_keyboard_reaches_the_file_chooser(page):
    for _ in range(3):
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        if page.evaluate("document.activeElement.id") == "file":
            break
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"


def test_every_control_has_a_name(page):
    page.drop(DIGIT, "#drop")
    finished(page)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "slider", "link", "image", "heading")
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if "role" in node]
    named = [(role, name) for role, name in named if role in roles]
    assert {role for role, _ in named} >= {"slider", "link", "image", "heading"}
    assert all(name.strip() for _, name in named), named
    assert ("image", "Map of where the network looked") in named


def test_an_export_without_a_map_says_how_to_get_one(browser, plain_predictor):
    with serving(plain_predictor) as client:
        browser.speak("en")
        browser.open(client.url)
        browser.drop(DIGIT, "#drop")
        finished(browser)
        check_bars(browser, plain_predictor.predict(DIGIT)[0])
        assert "This export has no attention map." in shown(browser, "note")
        assert "export it again with tools/export.py --attention." in shown(browser, "note")
        assert not browser.evaluate(MAP)["visible"]
        assert not browser.evaluate("document.getElementById('strength').offsetParent")


def test_a_server_that_is_gone(browser, predictor):
    with serving(predictor) as client:
        browser.speak("en")
        browser.open(client.url)
        shown(browser, "model")
    browser.drop(DIGIT, "#drop")
    assert shown(browser, "error") == "The server does not answer."


def test_the_openapi_page_works_without_the_internet(page, client):
    page.events.clear()
    page.open(f"{client.url}/docs")
    page.wait("document.querySelectorAll('.opblock').length === 3")
    assert page.complaints() == []
    for address in page.requested():
        assert address.startswith((client.url, "data:")), address
