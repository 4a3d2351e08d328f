"""A run as one HTML page that needs nothing else: scores, curves, mistakes, configuration."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
from PIL import Image

from paddlevit.preprocessing import Preprocessing
from paddlevit.training.answers import Answers, Mistake, class_scores, confusion_matrix, most_confused
from paddlevit.training.console import best_of
from paddlevit.training.curves import can_draw, draw_curves

TABLE_LIMIT = 20
"""Up to as many classes, the confusion matrix is a table; beyond, a picture."""
PICTURE_SIDE = 600
SHOWN_SKIPPED = 200

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .6em; text-align: right }
th:first-child, td:first-child { text-align: left } tr:nth-child(even) { background: #f6f6f6 }
figure { display: inline-block; margin: .5em; width: 10em; vertical-align: top; font-size: 13px }
figure img { width: 10em; image-rendering: pixelated } img.wide { max-width: 100% }
pre { background: #f6f6f6; padding: 1em; overflow: auto }
"""


@dataclass(frozen=True)
class RunReport:
    """What the page shows."""

    title: str
    """Name of the run."""
    config: str
    """The resolved configuration as YAML."""
    history: Sequence[dict[str, Any]]
    """One row per epoch."""
    main: str
    """The score that decides."""
    class_names: Sequence[str]
    """Names of the classes."""
    preprocessing: Preprocessing
    """Of the pictures in `answers`."""
    answers: Optional[Answers] = None
    """Of the best weights to the evaluation data; None for other tasks than classes."""
    file_names: Sequence[str] = ()
    """Of the worst mistakes, in their order."""
    skipped: Sequence[str] = field(default=())
    """Pictures that could not be read in training."""


def render_report(report: RunReport) -> str:
    """The page as HTML."""
    parts = [f"<h1>{_text(report.title)}</h1>", f"<p>{_text(best_of(report.history, report.main))}</p>"]
    parts += ["<h2>Curves</h2>", _curves(report), _section("History", _history(report.history))]
    if report.answers is not None:
        parts += _mistakes(report, report.answers)
    if report.skipped:
        names = "<br>".join(map(_text, report.skipped[:SHOWN_SKIPPED]))
        parts.append(_section(f"{len(report.skipped)} pictures could not be read", names))
    parts.append(_section("Configuration", f"<pre>{_text(report.config)}</pre>"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(report.title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _mistakes(report: RunReport, answers: Answers) -> list[str]:
    names = report.class_names
    matrix = confusion_matrix(answers.labels, answers.predictions, len(names))
    scores = class_scores(matrix)
    wrong = int((answers.labels != answers.predictions).sum())
    rows = zip(names, scores.pictures, scores.precision, scores.recall, scores.f1)
    per_class = _table(
        ("class", "pictures", "precision", "recall", "F1"),
        ((name, int(n), *(f"{100 * value:.1f} %" for value in values)) for name, n, *values in rows),
    )
    pairs = [(names[label], names[answer], count) for label, answer, count in most_confused(matrix)]
    figures = [_figure(mistake, name, report) for mistake, name in zip(answers.worst, report.file_names)]
    return [
        f"<h2>Mistakes of the best weights</h2><p>{wrong} of {len(answers.labels)} pictures.</p>",
        _section("Confusion matrix", _matrix(matrix, names), is_open=True),
        _section("Commonest mistakes", _table(("class", "taken for", "times"), pairs), is_open=True),
        _section("Classes", per_class, is_open=True),
        _section("Worst mistakes", "".join(figures), is_open=True),
    ]


def _curves(report: RunReport) -> str:
    if not can_draw():
        return '<p>pip install "paddlevit[plot]" brings matplotlib, which draws them.</p>'
    buffer = io.BytesIO()
    draw_curves(report.history, buffer, report.main)
    return f'<img class="wide" alt="loss, {report.main}, learning rate" src="{_data_url(buffer.getvalue())}">'


def _history(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return _table(columns, ([_number(row.get(column, "")) for column in columns] for row in rows))


def _matrix(matrix: np.ndarray, names: Sequence[str]) -> str:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    if len(names) > TABLE_LIMIT:
        grey = Image.fromarray((255 * (1 - shares)).astype(np.uint8))
        side = max(PICTURE_SIDE // len(names), 1) * len(names)
        picture = grey.resize((side, side), Image.Resampling.NEAREST)
        return f'<p>Rows are true classes.</p><img class="wide" alt="confusion matrix" src="{_png(picture)}">'
    head = "".join(f"<th>{_text(name)}</th>" for name in ("true \\ answer", *names))
    body = [
        f"<tr><th>{_text(name)}</th>"
        + "".join(
            f'<td style="background: rgba(0, 114, 178, {0.7 * share:.2f})">{count}</td>' for count, share in zip(*row)
        )
        + "</tr>"
        for name, *row in zip(names, matrix, shares)
    ]
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _figure(mistake: Mistake, file_name: str, report: RunReport) -> str:
    label, answer = (_text(report.class_names[index]) for index in (mistake.label, mistake.answer))
    picture = _png(to_picture(mistake.image, report.preprocessing))
    return (
        f'<figure><img alt="{label}" src="{picture}"><figcaption>{label}, taken for {answer}'
        f" ({100 * mistake.probability:.0f} %)<br>{_text(file_name)}</figcaption></figure>"
    )


def to_picture(values: np.ndarray, preprocessing: Preprocessing) -> Image.Image:
    """A network's input as a picture: [C, H, W] normalised -> L or RGB; of other channels the first is shown."""
    mean, std = (np.asarray(numbers)[:, None, None] for numbers in (preprocessing.mean, preprocessing.std))
    pixels = np.clip(np.round((values * std + mean) * 255), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0])


def _table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _section(title: str, content: str, is_open: bool = False) -> str:
    return f"<details{' open' if is_open else ''}><summary><b>{_text(title)}</b></summary>{content}</details>"


def _number(value: Any) -> Any:
    return f"{value:.5g}" if isinstance(value, float) else value


def _text(value: Any) -> str:
    return html.escape(str(value))


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return _data_url(buffer.getvalue())


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
