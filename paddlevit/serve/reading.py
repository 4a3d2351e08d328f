"""From a request to pictures: what is sent is checked before it is decoded, and every refusal says why.

The status of a refusal: 400 for a request that is not what it claims to be, 413 for too much, 415 for a kind that
is not known, 422 for a picture that cannot be used.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from PIL import Image
from python_multipart.multipart import parse_options_header

from paddlevit.data.images import FORMATS, Picture, is_array_file, load_image, open_image
from paddlevit.data.transforms import resized_size, size_of
from paddlevit.preprocessing import Preprocessing
from paddlevit.serve.limits import Limits

KINDS = "a picture itself (image/*), multipart/form-data with files, or application/json with base64"
LONGEST = 100
"""Longest side over the shortest: the short one is brought to the network's size, and the long one grows with it."""


@dataclass(frozen=True)
class Upload:
    """A picture as it was sent."""

    name: str
    """The file's name, or which picture of the request it is."""
    data: bytes
    """The bytes of the file."""


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """The pictures of a request, not decoded yet.

    Raises:
        HTTPException: It holds none, too many, or something else.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    plain = kind.startswith("image/") or kind in ("", "application/octet-stream")
    if not plain and kind not in ("multipart/form-data", "application/json"):
        raise HTTPException(415, f"Content-Type is {kind!r}; send {KINDS}.")
    body = await _read_body(request, limits.max_bytes)
    if not body:
        raise HTTPException(400, f"The request is empty; send {KINDS}.")
    if plain:
        return [Upload("picture", body)]
    uploads = _from_json(body) if kind == "application/json" else await _from_form(request, body)
    if not uploads:
        raise HTTPException(400, "The request holds no picture; send at least one.")
    if len(uploads) > limits.max_pictures:
        raise HTTPException(413, f"The request holds {len(uploads)} pictures; at most {limits.max_pictures} go in one.")
    return uploads


async def _read_body(request: Request, max_bytes: int) -> bytes:
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > max_bytes:
        raise HTTPException(413, f"The request has {stated} bytes; at most {max_bytes} are allowed.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413, f"The request has more than {max_bytes} bytes, which is what is allowed.")
    return bytes(body)


async def _from_form(request: Request, body: bytes) -> list[Upload]:
    # The parser takes a form that was cut off for a shorter one, and stumbles over text before and after a whole one.
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if boundary:
        lines, mark = b"\n" + body, b"\n--" + boundary
        end = lines.find(mark + b"--")
        if end < 0:
            raise HTTPException(400, "The form is cut off: its last boundary is missing.")
        body = lines[lines.find(mark) + 1 : end] + mark + b"--\r\n"

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, replay).form() as form:
            uploads = []
            for number, (key, value) in enumerate(form.multi_items(), 1):
                if isinstance(value, str):
                    raise HTTPException(400, f"The form's field {key!r} is text; every field must be a file.")
                uploads.append(Upload(value.filename or f"picture {number}", await value.read()))
            return uploads
    except (ValueError, LookupError) as error:  # older parsers let their own errors through
        raise HTTPException(400, f"The form cannot be read: {error}.") from error


def _from_json(body: bytes) -> list[Upload]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"The JSON cannot be read: {error}.") from error
    images = content.get("images") if isinstance(content, dict) and set(content) == {"images"} else None
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise HTTPException(400, 'The JSON must be {"images": ["...", ...]}, pictures in base64, and nothing else.')
    return [Upload(f"picture {number}", _from_base64(text, number)) for number, text in enumerate(images, 1)]


def _from_base64(text: str, number: int) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPException(400, f"Picture {number} is not base64: {error}.") from error


def decode(upload: Upload, preprocessing: Preprocessing, max_pixels: int) -> Picture:
    """Turn what was sent into a picture.

    Args:
        upload: What was sent.
        preprocessing: What will be done to the picture.
        max_pixels: A picture that has more is refused.

    Raises:
        HTTPException: It is no picture, a damaged one, or one that is too large.
    """
    if not upload.data:
        raise HTTPException(422, f"{upload.name} is empty.")
    if not is_array_file(upload.data):
        _check_header(upload, max_pixels)
    try:
        picture = load_image(upload.data, preprocessing.channels, max_pixels, name=upload.name)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    height, width = size_of(picture)
    if max(height, width) > LONGEST * min(height, width):
        strip = f"{upload.name} is a strip of {width} x {height} pixels"
        raise HTTPException(422, f"{strip}; one side may be at most {LONGEST} times the other.")
    return picture


def _check_header(upload: Upload, max_pixels: int) -> None:
    """Refuse what is no picture, and a small file that would unpack to a huge one, before anything is decoded."""
    limit = f"; at most {max_pixels} are allowed."
    try:
        with open_image(upload.data, sys.maxsize) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise HTTPException(413, f"{upload.name} has too many pixels{limit}") from error
    # Pillow's readers raise nearly anything for what is not theirs.
    except Exception as error:
        kinds = ", ".join(FORMATS)
        raise HTTPException(415, f"{upload.name} is no picture that can be read; supported are {kinds}.") from error
    if width * height > max_pixels:
        raise HTTPException(413, f"{upload.name} has {width} x {height} pixels{limit}")


def region(picture: Picture, preprocessing: Preprocessing) -> list[float]:
    """The part of a picture that the network sees: left, top, width and height as shares of the picture's."""
    rows, columns = resized_size(size_of(picture), preprocessing)
    height, width = preprocessing.image_size
    left, top = round((columns - width) / 2), round((rows - height) / 2)
    return [left / columns, top / rows, width / columns, height / rows]
