"""Decoding of compressed images, by Pillow where that is installed."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.program.script import Call

FORMATS = ("BMP", "JPEG", "JPEG2000", "TIFF", "PNG", "WEBP", "PPM")
"""Those that ONNX names; Pillow knows many more, which nobody has asked for."""

_MODES = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}


def decode(step: Call, inputs: list[Any]) -> list[Any]:
    """Return an image as ``uint8[height, width, channels]``; without rows if it has no known form.

    Raises:
        InputError: Pillow is not installed, or the image has too many pixels.
    """
    layout = str(dict(step.settings).get("pixel_format", "RGB"))
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            "images are decoded by Pillow, which is not installed",
            where=step.where,
            hint="pip install 'whet[images]'",
        ) from None
    data = np.ascontiguousarray(inputs[0]).tobytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                pixels = np.asarray(image.convert(_MODES[layout]), np.uint8)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"the image has too many pixels: {error}", where=step.where, hint="give a smaller one"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError):
        return [np.zeros((0, 0, 1 if layout == "Grayscale" else 3), np.uint8)]
    if layout == "Grayscale":
        return [pixels[:, :, None]]
    return [np.ascontiguousarray(pixels[:, :, ::-1]) if layout == "BGR" else pixels]
