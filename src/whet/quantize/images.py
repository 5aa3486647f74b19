"""Images as inputs: decoded, resized, cropped, scaled and normalised."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from whet.array_files import require_file
from whet.errors import InputError, OptionError
from whet.program.records import TensorSpec

Array = np.ndarray[Any, Any]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class ImageOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image becomes an input: ``(pixel · scale - mean) / std`` for each channel.

    Attributes:
        resize: length of the shorter side before the middle is cut out; 0 resizes to the size of
            the input whatever its proportions.
        scale: factor of the 8-bit pixels.
        mean: one number, or one for each channel.
        std: the same.
        order: of the channels.
    """

    resize: int = 0
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        """Reject values that make no image, or numbers that are not finite."""
        if not 0 <= self.resize <= LONGEST_SIDE:
            raise OptionError(
                f"resize is {self.resize}", where="images", hint=f"give 0 to {LONGEST_SIDE} pixels"
            )
        for name, numbers in {"scale": (self.scale,), "mean": self.mean, "std": self.std}.items():
            if len(numbers) not in (1, 3) or not np.isfinite(numbers).all():
                raise OptionError(
                    f"{name} is {numbers}", where="images", hint="one finite number, or three"
                )
        if 0 in self.std:
            raise OptionError("std is 0", where="images", hint="pixels are divided by it")


LONGEST_SIDE = 1 << 14
"""Most pixels of the shorter side after resizing."""

IMAGENET = ImageOptions(resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What networks for ImageNet are mostly trained with."""


def read_image(path: Path, spec: TensorSpec, options: ImageOptions) -> Array:
    """Read an image as one sample of an input, channels first or last as the input has them.

    Raises:
        OptionError: Pillow is not installed.
        InputError: the file is no image, or the input takes none.
    """
    if importlib.util.find_spec("PIL") is None:
        raise OptionError("images need Pillow", hint="pip install pillow")
    channels, height, width, first = _layout(spec, path)
    if channels == 1 and len(options.mean) + len(options.std) > 2:
        raise OptionError(
            f"{spec.name!r} has one channel, mean and std have three numbers",
            where="images",
            hint="give one number",
        )
    image = _decoded(path, "L" if channels == 1 else "RGB")
    if options.resize:
        factor = options.resize / min(image.size)
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize((max(size[0], width), max(size[1], height)))
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    elif image.size != (width, height):
        image = image.resize((width, height))
    pixels = np.asarray(image).reshape(height, width, channels)
    if options.order == "bgr":
        pixels = pixels[..., ::-1]
    if spec.dtype == "uint8":
        made = pixels
    else:
        made = (pixels * options.scale - np.array(options.mean)) / np.array(options.std)
        made = made.astype(np.float32)
    return np.ascontiguousarray(made.transpose(2, 0, 1) if first else made)


def _decoded(path: Path, mode: str) -> Any:
    """Read a file with Pillow, which tells what is wrong with one by errors of many kinds."""
    from PIL import Image

    try:
        require_file(path, "give an image file")
        with Image.open(path) as opened:
            return opened.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"not an image: {error}", where=str(path)) from error


def _layout(spec: TensorSpec, path: Path) -> tuple[int, int, int, bool]:
    """Return channels, height and width of an input, and whether channels come first."""
    shape = spec.shape
    if len(shape) == 4 and all(isinstance(d, int) for d in shape[1:]):
        a, b, c = (int(d) for d in shape[1:])
        if a in (1, 3):
            return a, b, c, True
        if c in (1, 3):
            return c, a, b, False
    raise InputError(
        f"{spec.name!r} of shape {list(shape)} takes no image",
        where=str(path),
        hint="fix height and width of the input, or give .npy files",
    )
