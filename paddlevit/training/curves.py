"""The curves of a run as a picture."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Union

# train, val and ema differ in stroke too, for print and for those who see no colours.
STYLES = {"train": ("--", "#0072B2"), "val": ("-", "#D55E00"), "ema": (":", "#009E73")}
MANY_POINTS = 60


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_curves(rows: Sequence[dict[str, Any]], file: Union[Path, IO[bytes]], main: str = "top1") -> None:
    """Loss, score and learning rate over epochs as a PNG.

    Args:
        rows: Of the history.
        file: Where.
        main: The score that decides.

    Raises:
        ImportError: matplotlib is not installed.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # Paddle shows every library's notes
    from matplotlib.figure import Figure  # without pyplot there is no global state and no window
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    for panel, what in zip(panels, ("loss", main)):
        for part, (stroke, colour) in STYLES.items():
            points = [(row["epoch"], row[f"{part}_{what}"]) for row in rows if f"{part}_{what}" in row]
            if points:
                marker = "." if len(points) < MANY_POINTS else None
                panel.plot(*zip(*points), stroke, color=colour, label=part, marker=marker)
        panel.legend(frameon=False)
    if main != "r2":
        panels[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[2].plot([row["epoch"] for row in rows], [row["lr"] for row in rows], color="black")
    for panel, title in zip(panels, ("loss", main, "learning rate at the epoch's end")):
        panel.set_title(title)
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110, format="png")
