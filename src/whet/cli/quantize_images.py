"""``--image`` of ``whet quantize``: how images become inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from whet.errors import OptionError

if TYPE_CHECKING:
    from whet.quantize.images import ImageOptions

_CHANNELS = ("mean", "std")
_KEYS = "give imagenet, or resize (pixels), scale, mean, std and order (rgb, bgr)"


def read_images(text: str | None) -> ImageOptions:
    """Read ``--image``: ``imagenet``, ``KEY=VALUE``, or several with commas between them.

    Raises:
        OptionError: a part is neither, or a value is not possible.
    """
    from whet.quantize.images import IMAGENET, ImageOptions

    base, given = ImageOptions(), dict[str, Any]()
    for part in filter(None, (text or "").split(",")):
        name, equals, value = part.partition("=")
        if name == "imagenet" and not equals:
            base = IMAGENET
            continue
        if not equals:
            raise OptionError(f"{part!r} is not KEY=VALUE", where="--image", hint="such as scale=1")
        given[name] = value if name == "order" else _numbers(name, value)
    try:
        return msgspec.convert({**msgspec.to_builtins(base), **given}, ImageOptions)
    except msgspec.ValidationError as error:
        raise OptionError(f"{error}", where="--image", hint=_KEYS) from error


def _numbers(name: str, text: str) -> Any:
    """Read one number, or for mean and std one for each channel: ``0.5/0.5/0.5``."""
    if name not in _CHANNELS:
        return _number(name, text)
    return [_number(name, part) for part in text.split("/")]


def _number(name: str, text: str) -> float | int:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        shape = "such as 0.5/0.5/0.5" if name in _CHANNELS else "one number, such as 0.00392157"
        raise OptionError(f"{text!r} is no number", where=f"--image {name}", hint=shape) from None
