"""The report of a run is one page that needs nothing else."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from paddlevit.preprocessing import Preprocessing
from paddlevit.training import curves
from paddlevit.training.answers import Answers, Mistake, collect_answers
from paddlevit.training.console import best_of, duration
from paddlevit.training.report import RunReport, render_report, to_picture
from tests.training.toy import toy_run

ROWS = [
    {"epoch": 1, "update": 5, "lr": 0.1, "train_loss": 2.0, "train_top1": 0.1, "val_loss": 2.5, "val_top1": 0.2},
    {"epoch": 2, "update": 10, "lr": 0.05, "train_loss": 1.0, "train_top1": 0.3, "val_loss": 1.5, "val_top1": 0.25}
    | {"ema_loss": 1.2, "ema_top1": 0.5},
]


class Pages(HTMLParser):
    """Fails at tags that do not match; collects texts, links and pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(page: str) -> Pages:
    pages = Pages()
    pages.feed(page)
    assert not pages.open
    return pages


def report(num_classes: int = 3, **changes) -> RunReport:
    names = [f"<class {index}>" for index in range(num_classes)]
    image = np.zeros((3, 4, 6), np.float32)
    worst = [Mistake(3.0, 4, 0, 1, 0.9, image), Mistake(2.0, 1, 1, 2, 0.6, image)]
    answers = Answers(np.array([0, 1, 1, 2, 0]), np.array([0, 2, 1, 2, 1]), worst)
    values = dict(title="run & co", config="run: {seed: 3}", history=ROWS, main="top1", class_names=names)
    values.update(preprocessing=Preprocessing((4, 6)), answers=answers, file_names=["a<b>.png", "c.png"])
    return RunReport(**{**values, **changes})


def test_the_page_is_whole_and_loads_nothing():
    page = render_report(report(skipped=["broken.jpg"], facts=[("model", "<small>")]))
    pages = parsed(page)
    assert all(source.startswith("data:image/png;base64,") for source in pages.sources)
    assert len(pages.sources) == 1 + 2
    for source in pages.sources:
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).verify()
    text = " ".join(pages.texts)
    for expected in ("run & co", "2 of 5 pictures", "<class 1>", "a<b>.png", "run: {seed: 3}", "broken.jpg", "<small>"):
        assert expected in text
    assert "<class 0>, taken for <class 1> (90 %)" in text
    assert "Best top1 50.00 % in epoch 2 with averaged weights (--ema)." in text
    assert "50.0 %" in text  # precision of class 1 and 2
    assert not re.search(r"(href|src)=.(?!data:)|url\(|@import|<script|<link", page)


def test_the_weakest_class_comes_first_and_mistakes_stand_out():
    page = render_report(report())
    table = page[page.index("Classes, the weakest first") :]
    assert [table.index(f"<td>&lt;class {index}&gt;</td>") for index in (1, 0, 2)] == sorted(
        table.index(f"<td>&lt;class {index}&gt;</td>") for index in range(3)
    )
    matrix = page[page.index("Confusion matrix") : page.index("Commonest mistakes")]
    assert matrix.count("rgba(213, 94, 0") == 2
    assert matrix.count("rgba(0, 114, 178") == 3
    assert matrix.count('class="none"') == 4


def test_only_small_pictures_keep_their_pixels():
    def kept(side: int) -> bool:
        mistake = Mistake(3.0, 4, 0, 1, 0.9, np.zeros((3, side, side), np.float32))
        answers = Answers(np.array([0, 1, 2]), np.array([1, 1, 2]), [mistake])
        return 'class="pixels"' in render_report(report(answers=answers, file_names=["a.png"]))

    assert kept(8)
    assert not kept(96)


def test_nothing_wrong_is_said():
    answers = Answers(np.array([0, 1, 2]), np.array([0, 1, 2]), [])
    page = render_report(report(answers=answers, file_names=()))
    assert "0 of 3 pictures" in page
    assert "Worst mistakes" not in page


def test_many_classes_are_a_picture():
    page = render_report(report(num_classes=30))
    assert 'alt="confusion matrix"' in page
    assert 'alt="confusion matrix"' not in render_report(report())
    source = re.search('alt="confusion matrix" src="data:image/png;base64,([^"]+)"', page).group(1)
    matrix = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
    side = len(matrix) // 30
    assert matrix[0, 0] == matrix[side // 2, side + side // 2] == 127  # half of class 0 is taken for class 1
    assert matrix[-1, -1] == 255


def test_without_matplotlib_the_page_says_what_to_install(monkeypatch):
    monkeypatch.setattr("paddlevit.training.report.can_draw", lambda: False)
    page = render_report(report(answers=None))
    assert 'pip install "paddlevit[plot]"' in page
    assert "Mistakes" not in page
    assert not parsed(page).sources


def test_pictures_are_what_the_network_saw():
    preprocessing = Preprocessing((2, 2))
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (preprocessing.mean, preprocessing.std))
    values = (pixels.transpose(2, 0, 1) / 255 - mean) / std
    assert (np.asarray(to_picture(values, preprocessing)) == pixels).all()
    assert to_picture(values[:1], Preprocessing((2, 2), mean=(0.5,), std=(0.5,))).mode == "L"


def test_a_run_writes_its_report_curves_and_table(tmp_path):
    _, recorder = toy_run(tmp_path / "run", run={"report": True}, data={"fake_val": 30, "eval_batch_size": 7})
    page = (tmp_path / "run" / "report.html").read_text()
    wrong = round(30 * (1 - max(row["val_top1"] for row in recorder.history)))
    ema_wrong = round(30 * (1 - max(row["ema_top1"] for row in recorder.history)))
    assert f"{min(wrong, ema_wrong)} of 30 pictures<" in page
    parsed(page)
    with Image.open(tmp_path / "run" / "curves.png") as image:
        assert image.size[0] > 1000
    table = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert table[0].startswith("epoch,update,lr,train_loss,train_top1,val_loss,val_top1")
    assert len(table) == 4


def test_the_worst_mistakes_are_those_with_the_highest_loss():
    import paddle

    class Fixed(paddle.nn.Layer):
        def forward(self, x):
            return x[:, :, 0, 0]

    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((20, 4)).astype(np.float32), rng.integers(0, 4, 20)
    batches = [
        (paddle.to_tensor(logits[start : start + 6, :, None, None]), paddle.to_tensor(labels[start : start + 6]))
        for start in range(0, 20, 6)
    ]
    answers = collect_answers(Fixed(), batches, num_worst=3)
    assert (answers.predictions == logits.argmax(1)).all()
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(20), labels]
    wrong = [place for place in np.argsort(-losses) if logits[place].argmax() != labels[place]]
    assert [mistake.index for mistake in answers.worst] == wrong[:3]
    assert answers.worst[0].loss == pytest.approx(losses[wrong[0]], rel=1e-5)
    assert (answers.worst[0].image[:, 0, 0] == logits[wrong[0]]).all()


def test_curves_show_every_part(tmp_path):
    curves.draw_curves(ROWS, tmp_path / "curves.png")
    without = io.BytesIO()
    curves.draw_curves([{k: v for k, v in row.items() if "ema" not in k} for row in ROWS], without)
    assert (tmp_path / "curves.png").read_bytes() != without.getvalue()


def test_words():
    assert [duration(s) for s in (5, 245, 3723, 3 * 86400 + 60)] == ["0:05", "4:05", "1:02:03", "3 days 0:01:00"]
    assert best_of(ROWS[:1], "top1") == "Best top1 20.00 % in epoch 1."
    assert best_of([{"epoch": 1, "val_r2": -0.5}], "r2") == "Best r2 -0.5000 in epoch 1."
