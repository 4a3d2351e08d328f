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
from paddlevit.training.answers import Answers, ClassScores, Mistake, class_scores, confusion_matrix, most_confused
from paddlevit.training.console import best_of
from paddlevit.training.curves import can_draw, draw_curves

TABLE_LIMIT = 20
"""Up to as many classes, the confusion matrix is a table; beyond, a picture."""
PICTURE_SIDE = 600
SHOWN_SKIPPED = 200
FEW_PIXELS = 64
"""Sides below which a picture is enlarged without smoothing."""
LONG_NAME = 4
"""Letters of a class's name beyond which the matrix writes names upright."""
LIGHT_INK = 0.6
"""Share of colour from which white text is easier to read."""
_BAR = "background: linear-gradient(90deg, #d6e8f4 {share:.1f}%, transparent 0)"

_STYLE = """
:root { --ink: #1d2733; --quiet: #66727f; --line: #dde3e9; --paper: #f5f7f9; --accent: #0072b2 }
body { font: 15px/1.55 system-ui, sans-serif; margin: 0; color: var(--ink); background: var(--paper) }
main { max-width: 68em; margin: 0 auto; padding: 2.5em 1.5em 4em }
h1 { font-size: 2em; line-height: 1.2; margin: 0; overflow-wrap: anywhere } h1 + p { margin: .3em 0 1.5em }
p { color: var(--quiet) } small { color: var(--quiet); font-size: .8em; overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(7em, 1fr)); gap: .8em; margin-bottom: 1.2em }
.tiles div, details { background: #fff; border: 1px solid var(--line); border-radius: 10px }
.tiles div { padding: .7em 1em } .tiles div:first-child { grid-column: span 2 }
.tiles b { display: block; font-size: 1.1em; overflow-wrap: anywhere }
.tiles span { color: var(--quiet); font-size: .85em }
details { padding: .9em 1.2em; margin-bottom: 1.2em; overflow-x: auto }
summary { font-weight: 600; font-size: 1.1em; cursor: pointer } details[open] > summary { margin-bottom: .8em }
.pair { display: flex; flex-wrap: wrap; gap: 0 1.2em; align-items: flex-start } .pair details { flex: 1 1 auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .25em .8em; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { font-weight: 600; color: var(--quiet) } th:first-child, td:first-child { text-align: left }
.matrix td, .matrix th { padding: .25em .5em; border: 2px solid #fff; border-radius: 4px }
.matrix td { min-width: 1.6em }
.matrix .upright { writing-mode: vertical-rl; text-align: left } .matrix .none { color: #c3cad1 }
.tall { max-height: 32em; overflow: auto } img.wide { width: 100%; max-width: 62em }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5em, 1fr)); gap: 1em }
figure { margin: 0; font-size: .9em; line-height: 1.35 } figcaption { padding-top: .3em }
figure img { width: 100%; border-radius: 6px } .pixels { image-rendering: pixelated }
pre { margin: 0; font-size: 13px; overflow: auto }
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
    facts: Sequence[tuple[str, Any]] = ()
    """What else is told of the run at the top: a word, and its value."""


def render_report(report: RunReport) -> str:
    """The page as HTML."""
    parts = [f"<h1>{_text(report.title)}</h1>", f"<p>{_text(best_of(report.history, report.main))}</p>"]
    parts += [_tiles(report), _section("Curves", _curves(report), is_open=True)]
    if report.answers is not None:
        parts += _mistakes(report, report.answers)
    parts.append(_section("History", _history(report.history)))
    if report.skipped:
        names = "<br>".join(map(_text, report.skipped[:SHOWN_SKIPPED]))
        parts.append(_section(f"{len(report.skipped)} pictures could not be read", names))
    parts.append(_section("Configuration", f"<pre>{_text(report.config)}</pre>"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_text(report.title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _tiles(report: RunReport) -> str:
    """The figures that one looks for first."""
    facts = list(report.facts)
    if report.answers is not None:
        wrong = int((report.answers.labels != report.answers.predictions).sum())
        facts.append(("are mistaken", f"{wrong} of {len(report.answers.labels)} pictures"))
    tiles = "".join(f"<div><b>{_text(value)}</b><span>{_text(word)}</span></div>" for word, value in facts)
    return f'<div class="tiles">{tiles}</div>'


def _mistakes(report: RunReport, answers: Answers) -> list[str]:
    """Confusion matrix, commonest mistakes, figures of each class, and the worst pictures."""
    names = report.class_names
    matrix = confusion_matrix(answers.labels, answers.predictions, len(names))
    scores = class_scores(matrix)
    pairs = [(names[label], names[answer], count) for label, answer, count in most_confused(matrix)]
    commonest = _table(("class", "taken for", "times"), pairs) if pairs else "<p>None.</p>"
    parts = [
        '<div class="pair">',
        _section("Confusion matrix", _matrix(matrix, names), is_open=True),
        _section("Commonest mistakes", commonest, is_open=True),
        "</div>",
        _section("Classes, the weakest first", _classes(scores, names), is_open=True),
    ]
    if answers.worst:
        figures = [_figure(mistake, name, report) for mistake, name in zip(answers.worst, report.file_names)]
        pictures = f'<div class="pictures">{"".join(figures)}</div>'
        parts.append(_section("Worst mistakes: most sure of something else", pictures, is_open=True))
    return parts


def _curves(report: RunReport) -> str:
    if not can_draw():
        return '<p>pip install "paddlevit[plot]" brings matplotlib, which draws them.</p>'
    buffer = io.BytesIO()
    draw_curves(report.history, buffer, report.main)
    return f'<img class="wide" alt="loss, {report.main}, learning rate" src="{_data_url(buffer.getvalue())}">'


def _history(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return _tall(_table(columns, ([_number(row.get(column, "")) for column in columns] for row in rows)))


def _matrix(matrix: np.ndarray, names: Sequence[str]) -> str:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    if len(names) > TABLE_LIMIT:
        grey = Image.fromarray((255 * (1 - shares)).astype(np.uint8))
        side = max(PICTURE_SIDE // len(names), 1) * len(names)
        picture = grey.resize((side, side), Image.Resampling.NEAREST)
        return f'<p>Rows are true classes.</p><img alt="confusion matrix" src="{_png(picture)}">'
    upright = ' class="upright"' if max(map(len, names)) > LONG_NAME else ""
    head = "".join(f"<th{upright}>{_text(name)}</th>" for name in names)
    body = [
        f"<tr><th>{_text(name)}</th>"
        + "".join(_cell(row == column, int(matrix[row, column]), shares[row, column]) for column in range(len(names)))
        + "</tr>"
        for row, name in enumerate(names)
    ]
    return f'<table class="matrix"><tr><th>true \\ answer</th>{head}</tr>{"".join(body)}</table>'


def _cell(is_right: bool, count: int, share: float) -> str:
    """A field of the matrix: what is right in blue, what is wrong in orange, so that single mistakes show."""
    if not count:
        return '<td class="none">0</td>'
    colour, strength = ("0, 114, 178", 0.15 + 0.7 * share) if is_right else ("213, 94, 0", 0.25 + 0.7 * share)
    ink = "; color: #fff" if strength > LIGHT_INK else ""
    return f'<td style="background: rgba({colour}, {strength:.2f}){ink}">{count}</td>'


def _classes(scores: ClassScores, names: Sequence[str]) -> str:
    head = "".join(f"<th>{word}</th>" for word in ("class", "pictures", "precision", "recall", "F1"))
    rows = []
    for place in np.argsort(scores.f1, kind="stable"):
        shares = (100 * values[place] for values in (scores.precision, scores.recall, scores.f1))
        bars = "".join(f'<td style="{_BAR.format(share=share)}">{share:.1f} %</td>' for share in shares)
        rows.append(f"<tr><td>{_text(names[place])}</td><td>{scores.pictures[place]}</td>{bars}</tr>")
    return _tall(f"<table><tr>{head}</tr>{''.join(rows)}</table>")


def _figure(mistake: Mistake, file_name: str, report: RunReport) -> str:
    label, answer = (_text(report.class_names[index]) for index in (mistake.label, mistake.answer))
    picture = to_picture(mistake.image, report.preprocessing)
    pixels = ' class="pixels"' if max(picture.size) < FEW_PIXELS else ""
    return (
        f'<figure><img{pixels} alt="{label}" src="{_png(picture)}"><figcaption>{label}, taken for {answer}'
        f" ({100 * mistake.probability:.0f} %)<br><small>{_text(file_name)}</small></figcaption></figure>"
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
    return f"<details{' open' if is_open else ''}><summary>{_text(title)}</summary>{content}</details>"


def _tall(table: str) -> str:
    """A table that may be long, in a window of its own."""
    return f'<div class="tall">{table}</div>'


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
