"""What the server accepts, and how long it lets anybody wait."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from PIL import Image

LARGEST_PICTURE = Image.MAX_IMAGE_PIXELS or 89_478_485
"""Pillow's own limit."""


@dataclass(frozen=True)
class Limits:
    """Bounds of the server; the field names are the command line's options.

    What is being received takes at most `max_queue` times `max_megabytes` of memory.
    """

    max_batch: int = 16
    """Pictures that are computed together."""
    max_wait_ms: float = 3.0
    """Milliseconds that a picture waits for others to be computed with."""
    max_queue: int = 128
    """Pictures on their way through the server; more are refused with 503."""
    max_pictures: int = 16
    """Pictures in one request."""
    max_megabytes: float = 20.0
    """Size of one request, in millions of bytes."""
    max_pixels: int = 50_000_000
    """Pixels of one picture."""
    timeout: float = 30.0
    """Seconds for a request to arrive, and again for its answer."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value <= 0 and field.name != "max_wait_ms":
                raise ValueError(f"{field.name} is {value}; it must be above 0.")
        if self.max_wait_ms < 0:
            raise ValueError(f"max_wait_ms is {self.max_wait_ms}; it must be at least 0.")
        if self.max_pixels > LARGEST_PICTURE:
            raise ValueError(f"max_pixels is {self.max_pixels}; it can be at most {LARGEST_PICTURE}.")
        if self.max_pictures > self.max_queue:
            raise ValueError(
                f"max_pictures is {self.max_pictures} and max_queue {self.max_queue}, so that a full request never"
                " fits; raise max_queue or lower max_pictures."
            )

    @property
    def max_bytes(self) -> int:
        """Size of one request in bytes."""
        return int(self.max_megabytes * 1e6)
