"""Images from outside: decoded within limits of size, whatever the bytes say."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError, UnsupportedError
from whet.llm.architecture import Array

MOST_BYTES = 20 << 20
"""Bytes of an encoded image."""

MOST_PIXELS = 32 << 20
"""Pixels of a decoded one; known from its header, before anything is decoded."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_HINT = "give a PNG, JPEG, WebP, GIF or BMP"


def image_of(given: object) -> Array:
    """Return an image as bytes [height, width, 3].

    Args:
        given: an array of bytes, an image of Pillow, encoded bytes, a ``Path``, or a text with a
            ``data:`` URL. Texts never name files or other places.

    Raises:
        InputError: it is no image, damaged, or larger than the limits.
        UnsupportedError: Pillow is not installed.
    """
    if isinstance(given, np.ndarray):
        return _checked(given)
    if isinstance(given, str):
        return decoded(from_data_url(given))
    if isinstance(given, Path):
        return decoded(_file(given))
    if isinstance(given, bytes):
        return decoded(given)
    if hasattr(given, "convert") and hasattr(given, "size"):
        return _checked(np.asarray(_upright(given)))
    raise InputError(f"a {type(given).__name__} is no image", hint=_HINT)


def from_data_url(url: str) -> bytes:
    """Return the bytes of a ``data:`` URL.

    Raises:
        InputError: it is another URL, or not in base64.
    """
    head, comma, text = url.partition(",")
    if not head.startswith("data:") or not comma:
        raise InputError(
            f"an image is at {url[:60]!r}",
            hint="send its bytes: data:image/png;base64,…; nothing is fetched",
        )
    if not head.endswith(";base64"):
        raise InputError("an image's data: URL is not in base64", hint="data:image/png;base64,…")
    if len(text) > MOST_BYTES * 4 // 3 + 4:
        raise InputError(f"an image has more than {MOST_BYTES >> 20} MiB", hint="make it smaller")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"an image's base64 is damaged: {error}", hint=_HINT) from error


def decoded(data: bytes) -> Array:
    """Return an encoded image as bytes [height, width, 3], turned as its camera says.

    Raises:
        InputError: it is no image, damaged, or larger than the limits.
        UnsupportedError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedError(
            "the package pillow is not installed", hint="pip install 'whet[images]'"
        ) from error
    if len(data) > MOST_BYTES:
        raise InputError(f"an image has more than {MOST_BYTES >> 20} MiB", hint="make it smaller")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit is lower than the one warned of
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size)
                return _checked(np.asarray(_upright(image)))
    except InputError:
        raise
    except Exception as error:  # Pillow raises whatever its decoders do
        raise InputError(f"an image cannot be decoded: {error}"[:200], hint=_HINT) from error


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    _check_size(*image.size)
    return ImageOps.exif_transpose(image).convert("RGB")


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise InputError(
            f"an image has {width} × {height} pixels", hint=f"at most {MOST_PIXELS} in all"
        )


def _checked(array: Array) -> Array:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            f"an image is {array.dtype} {list(array.shape)}", hint="uint8 [height, width, 3]"
        )
    _check_size(array.shape[1], array.shape[0])
    return np.ascontiguousarray(array)


def _file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                f"an image has more than {MOST_BYTES >> 20} MiB", where=str(path), hint=_HINT
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"an image cannot be read: {error}", where=str(path)) from error
