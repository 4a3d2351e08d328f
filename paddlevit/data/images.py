"""Reading pictures: any file becomes upright 8-bit pixels with the number of channels that the network takes."""

from __future__ import annotations

import io
import os
from typing import IO, Any, Optional, Union

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 89_478_485
"""Larger pictures are refused unread, as in Pillow: a small file can unpack to more memory than a machine has."""

FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""No others are decoded: some, such as EPS, are programs that Pillow would start an interpreter for."""

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".npy"),
)

ORIENTATION = 0x0112
Picture = Union[Image.Image, np.ndarray]
Readable = Union[str, "os.PathLike[str]", bytes, IO[bytes]]


def load_image(
    source: Readable,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    least_side: Optional[int] = None,
    name: Optional[str] = None,
) -> Picture:
    """Read a picture, turn it upright and give it the wanted channels.

    A plain colour or grey picture has the pixels of Pillow's `convert`. Transparency is laid over white, 16 bits are
    scaled to 8, and the rotation that a camera notes beside the pixels is carried out.

    Args:
        source: A path, the bytes of a file, or an open file.
        channels: 3 for colour, 1 for grey; any other number needs a NumPy file (.npy).
        max_pixels: Larger pictures are refused before they are decoded.
        least_side: A large JPEG may be decoded at a half, a quarter or an eighth of its size, which takes a fraction of
            the time, while its shorter side keeps this many pixels; None decodes every pixel.
        name: What an error calls the picture; None is its path.

    Returns:
        A Pillow picture of mode RGB or L; from a .npy file of floats or other channels, an array [H, W, C].

    Raises:
        ValueError: The file is missing, damaged, too large or of a kind that cannot be shown; the message names it.
    """
    try:
        if is_array_file(source):
            return _load_array(source, channels, max_pixels)
        with open_image(source, max_pixels) as image:
            if least_side is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (least_side, least_side))
            return to_channels(upright(image), channels)
    # Decoders of damaged files raise nearly anything: OSError, SyntaxError, struct.error, IndexError, TypeError...
    except Exception as error:
        raise ValueError(f"{name or describe_source(source)} cannot be read: {_reason(error)}.") from error


def open_image(source: Readable, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture without decoding it.

    Args:
        source: A path, the bytes of a file, or an open file.
        max_pixels: Larger pictures are refused.

    Returns:
        A Pillow picture whose size is known and whose pixels are not read yet.

    Raises:
        ValueError: Too many pixels, or a format that is not supported.
        OSError: Missing, or not a picture; decoders may raise other errors too.
    """
    image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    if image.format not in FORMATS:
        image.close()
        raise ValueError(f"it is {image.format}; supported are {', '.join(FORMATS)}")
    if image.width * image.height > max_pixels:
        image.close()
        raise ValueError(f"it has {image.width} x {image.height} pixels, and the limit is {max_pixels}")
    return image


def upright(image: Image.Image) -> Image.Image:
    """Carry out the rotation noted in the EXIF data, if there is any that can be read."""
    if image.format == "TIFF":
        return image  # Pillow has turned it when it is loaded
    if "exif" not in image.info and image.format not in ("PNG", "WEBP", "MPO"):
        return image
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Damaged EXIF data beside sound pixels raise anything; such a picture is taken as it lies.
        return image
    if orientation in (2, 3, 4, 5, 6, 7, 8):
        return ImageOps.exif_transpose(image)
    return image


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """A Pillow picture of any mode as RGB (3 channels) or L (1 channel); no copy when it is that already."""
    if channels not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels; for {channels}, save arrays as .npy")
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = _from_deep(image)
    elif "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = _over_white(image)
    return image.convert(mode)


def describe_source(source: Any) -> str:
    """How to name a picture in a message."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return str(getattr(source, "name", "")) or "the picture"


def is_array_file(source: Readable) -> bool:
    """Whether the source is a NumPy file, by its name or its first bytes."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source).lower().endswith(".npy")
    return isinstance(source, bytes) and source.startswith(b"\x93NUMPY")


def array_picture(array: np.ndarray, channels: int) -> Picture:
    """An array as a picture: grey [H, W], [H, W, C] or [C, H, W] of bytes, 16-bit numbers or floats in 0..1.

    Args:
        array: The values.
        channels: C; where both layouts fit, the last axis is taken as the channels.

    Returns:
        A Pillow picture for bytes of 1 or 3 channels, else float32 [H, W, C] of values in 0..1.

    Raises:
        ValueError: Another shape or type.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3 and array.shape[2] != channels and array.shape[0] == channels:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != channels or 0 in array.shape:
        raise ValueError(f"its shape is {array.shape}; it must be [H, W, {channels}] or [{channels}, H, W]")
    if array.dtype == np.uint8 and channels in (1, 3):
        return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if channels == 1 else array))
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.iinfo(array.dtype).max
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"its type is {array.dtype}; it must be uint8, uint16 or floats in 0..1")
    if not np.isfinite(array).all():
        raise ValueError("it holds infinite or undefined values")
    return array.astype(np.float32)


def _load_array(source: Readable, channels: int, max_pixels: int) -> Picture:
    if isinstance(source, bytes):
        array = np.load(io.BytesIO(source), allow_pickle=False)
    else:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
    if array.size > max_pixels * max(channels, 3):
        raise ValueError(f"it has {array.size} values, and the limit is {max_pixels} pixels")
    return array_picture(np.asarray(array), channels)


def _from_deep(image: Image.Image) -> Image.Image:
    """16-bit grey, which Pillow would clip at 255, scaled to 8 bits."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        kind = image.mode
        raise ValueError(f"its pixels are {kind} numbers without a known range; save it as 8 or 16 bits or as .npy")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _reason(error: BaseException) -> str:
    """An exception as the end of a sentence."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if "cannot identify image file" in str(error):
        return "it is not a picture, or of a kind that Pillow does not know"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
