"""``aipp_block``: steps as the block of bytes that a model with dynamic AIPP takes as an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from whet.errors import OptionError
from whet.frontend.preprocess.records import Preprocess
from whet.program.aipp_block import FORMAT_NUMBERS, HEAD, IMAGE

Array = np.ndarray[Any, Any]
_MOST_IMAGES = 127
_WHERE = "aipp_block"


def aipp_block(steps: Preprocess | Sequence[Preprocess], *, batch: int | None = None) -> Array:
    """Return the bytes that say the same as records, for the input ``ascend_dynamic_aipp_data``.

    Args:
        steps: one record for all images, or one for each; format, order, size and colours are the
            same for all. ``least`` and ``scale`` are rounded to float16, which the block holds.
        batch: how many images; as many as records if not given.

    Raises:
        OptionError: a step is none that a block can hold, or records differ where they may not.
    """
    given = [steps] if isinstance(steps, Preprocess) else list(steps)
    if batch is not None and len(given) == 1:
        given *= batch
    if not 1 <= len(given) <= _MOST_IMAGES or batch not in (None, len(given)):
        raise OptionError(
            f"{len(given)} records for {batch if batch is not None else 'some'} images",
            where=_WHERE,
            hint=f"give one record, or one for each of 1 to {_MOST_IMAGES} images",
        )
    head = np.zeros(1, HEAD)
    _fill_head(head[0], given)
    images = np.zeros(len(given), IMAGE)
    for image, step in zip(images, given, strict=True):
        _fill_image(image, step)
    return np.concatenate([head.view(np.uint8), images.view(np.uint8)])


def _shared(step: Preprocess) -> tuple[object, ...]:
    return step.pixels, step.source, step.swap_red_blue, step.swap_alpha, step.colours


def _fill_head(head: Array, steps: Sequence[Preprocess]) -> None:
    first = steps[0]
    if any(_shared(step) != _shared(first) for step in steps):
        raise OptionError(
            "images differ in format, size, order or colours",
            where=_WHERE,
            hint="give them the same pixels, source, swaps and colours",
        )
    if first.source is None:
        raise OptionError("the size of the picture is missing", where=_WHERE, hint="give source")
    head["inputFormat"] = FORMAT_NUMBERS[first.pixels]
    head["rbuvSwapSwitch"], head["axSwapSwitch"] = first.swap_red_blue, first.swap_alpha
    head["batchNum"] = len(steps)
    head["srcImageSizeH"], head["srcImageSizeW"] = first.source
    if first.colours is not None:
        head["cscSwitch"] = 1
        head["cscMatrix"] = np.array(first.colours.matrix).reshape(9)
        head["cscInputBias"], head["cscOutputBias"] = first.colours.before, first.colours.after


def _fill_image(image: Array, step: Preprocess) -> None:
    if step.resize is not None:
        raise OptionError("resize is not available in a block", where=_WHERE, hint="crop instead")
    if step.padding_value:
        raise OptionError("padding_value is not available in a block", where=_WHERE, hint="leave 0")
    if any(mean != int(mean) or abs(mean) > 32767 for mean in step.mean):
        raise OptionError(
            "a mean is no whole number of 16 bits",
            where=_WHERE,
            hint="round it, and give the rest as least: values lose mean, then least",
        )
    if step.crop is not None:
        image["cropSwitch"] = 1
        image["cropStartPosH"], image["cropStartPosW"] = step.crop[:2]
        image["cropSizeH"], image["cropSizeW"] = step.crop[2:]
    if step.padding is not None:
        image["paddingSwitch"] = 1
        for side, size in zip(("Top", "Bottom", "Left", "Right"), step.padding, strict=True):
            image[f"paddingSize{side}"] = size
    for name, values in (("Mean", step.mean), ("Min", step.least), ("VarReci", step.scale)):
        image[f"dtcPixel{name}Chn"][: len(values)] = values[:4]
