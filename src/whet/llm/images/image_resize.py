"""Images as vision towers take them: resized, cut and scaled as the checkpoint's processor says.

Source: the image processors of transformers over Pillow, whose filters are used here too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError, UnsupportedError
from whet.llm.architecture import Array
from whet.llm.checkpoints.config import Config

BICUBIC = 3
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_MOST_ASPECT = 200


@dataclass(frozen=True, slots=True)
class Scaling:
    """How an image's bytes become numbers.

    Attributes:
        mean: of each colour, subtracted.
        deviation: of each colour, divided by.
        factor: of the bytes, before.
        resample: number of Pillow's filter.
    """

    mean: Array
    deviation: Array
    factor: float
    resample: int

    def numbers(self, image: Array) -> Array:
        """Return bytes [height, width, colour] as float32 [colour, height, width]."""
        scaled = (image.astype(np.float64) * self.factor).astype(np.float32)
        return np.ascontiguousarray(((scaled - self.mean) / self.deviation).transpose(2, 0, 1))

    def resized(self, image: Array, height: int, width: int) -> Array:
        """Return an image of another size."""
        from PIL import Image

        whole = Image.fromarray(image)
        return np.asarray(whole.resize((width, height), resample=Image.Resampling(self.resample)))


def processor_facts(config: Config) -> Config:
    """Return what the image processor's file beside ``config.json`` says.

    Raises:
        UnsupportedError: it pads, or leaves out a step that all models take.
    """
    from whet.llm.checkpoints.checkpoint import read_json

    folder = Path(config.where).parent
    for name, key in (
        ("preprocessor_config.json", ""),
        ("processor_config.json", "image_processor"),
    ):
        path = folder / name
        if path.exists():
            values = read_json(path)
            found = values.get(key) if key else values
            if isinstance(found, dict):
                return _checked(Config(found, str(path)))
    return Config({}, str(folder / "preprocessor_config.json"))


def _checked(facts: Config) -> Config:
    steps = ("do_resize", "do_rescale", "do_normalize")
    odd = [name for name in steps if not facts.flag(name, default=True)]
    odd += ["do_pad"] if facts.flag("do_pad") else []
    if odd:
        raise UnsupportedError(
            f"images are prepared with {odd[0]} {facts.values[odd[0]]}",
            where=facts.where,
            hint="resize, rescale and normalize without padding are known",
        )
    return facts


def scaling_of(facts: Config) -> Scaling:
    """Return how numbers are made of bytes; the defaults are those of CLIP."""
    colours = [
        np.array(facts.values.get(key) or default, np.float32)
        for key, default in (("image_mean", _MEAN), ("image_std", _DEVIATION))
    ]
    if any(c.shape != (3,) for c in colours):
        raise facts.error("image_mean or image_std is not of three numbers")
    factor = facts.number("rescale_factor", 1 / 255)
    return Scaling(colours[0], colours[1], factor, int(facts.number("resample", BICUBIC)))


def shortest_edge(image: Array, size: int) -> tuple[int, int]:
    """Return height and width whose shorter one is given, of the same proportions."""
    height, width = image.shape[:2]
    short, long = min(height, width), max(height, width)
    far = int(size * long / short)
    if far > size * _MOST_ASPECT:
        raise InputError(f"an image is {width} × {height}", hint="its sides differ too much")
    return (far, size) if width <= height else (size, far)


def center_crop(image: Array, height: int, width: int) -> Array:
    """Return the middle of an image; what is not there is black."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    above, before = max(-top, 0), max(-left, 0)
    inside = image[max(top, 0) : max(top, 0) + height, max(left, 0) : max(left, 0) + width]
    if inside.shape[:2] == (height, width):
        return inside
    found = np.zeros((height, width, 3), np.uint8)
    found[above : above + inside.shape[0], before : before + inside.shape[1]] = inside
    return found


def snapped(image: Array, step: int, least: int, most: int) -> tuple[int, int]:
    """Return height and width that are multiples of a step, with a bounded number of pixels.

    Raises:
        InputError: one side is more than 200 times the other.
    """
    height, width = image.shape[:2]
    if max(height, width) > _MOST_ASPECT * min(height, width):
        raise InputError(f"an image is {width} × {height}", hint="its sides differ too much")
    high, wide = round(height / step) * step, round(width / step) * step
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        high, wide = (max(step, math.floor(n / shrink / step) * step) for n in (height, width))
    elif high * wide < least:
        grow = math.sqrt(least / (height * width))
        high, wide = (math.ceil(n * grow / step) * step for n in (height, width))
    return high, wide


def side(given: Any, key: str, default: int) -> int:
    """Return a length that a processor's file gives as a number or under a key."""
    value = given.get(key) if isinstance(given, Mapping) else given
    return value if isinstance(value, int) and value > 0 else default
