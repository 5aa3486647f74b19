"""The block of bytes that says at run time how pictures become an input: Ascend's dynamic AIPP.

A head of 64 bytes is followed by 96 bytes for each image, all little-endian; the layout is that of
``kAippDynamicPara`` and ``kAippDynamicBatchPara`` in the open sources of Ascend's graph engine.
Native code follows any block without leaving its memory; what a block asks for and there is not is
refused here, by the name of its field.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from whet.errors import ArtifactError, InputError
from whet.program.records import PICTURE_BLOCKS

Record = np.ndarray[Any, Any]

BLOCK = "ascend_dynamic_aipp_data"
"""Name of the input; further ones get the position of the image input behind it."""


def _record(size: int, *fields: tuple[str, str, int] | tuple[str, str, int, int]) -> np.dtype[Any]:
    """Return a record of named fields: name, type, offset, and how many of them."""
    return np.dtype({
        "names": [field[0] for field in fields],
        "formats": [(field[1], field[3:]) if field[3:] else field[1] for field in fields],
        "offsets": [field[2] for field in fields],
        "itemsize": size,
    })  # fmt: skip


HEAD = _record(
    64,
    ("inputFormat", "u1", 0), ("cscSwitch", "i1", 1), ("rbuvSwapSwitch", "i1", 2),
    ("axSwapSwitch", "i1", 3), ("batchNum", "i1", 4), ("srcImageSizeW", "<i4", 8),
    ("srcImageSizeH", "<i4", 12), ("cscMatrix", "<i2", 16, 9), ("cscOutputBias", "u1", 40, 3),
    ("cscInputBias", "u1", 43, 3),
)  # fmt: skip

IMAGE = _record(
    96,
    ("cropSwitch", "i1", 0), ("scfSwitch", "i1", 1), ("paddingSwitch", "i1", 2),
    ("rotateSwitch", "i1", 3), ("cropStartPosW", "<i4", 8), ("cropStartPosH", "<i4", 12),
    ("cropSizeW", "<i4", 16), ("cropSizeH", "<i4", 20), ("scfInputSizeW", "<i4", 24),
    ("scfInputSizeH", "<i4", 28), ("scfOutputSizeW", "<i4", 32), ("scfOutputSizeH", "<i4", 36),
    ("paddingSizeTop", "<i4", 40), ("paddingSizeBottom", "<i4", 44),
    ("paddingSizeLeft", "<i4", 48), ("paddingSizeRight", "<i4", 52),
    ("dtcPixelMeanChn", "<i2", 56, 4), ("dtcPixelMinChn", "<f2", 64, 4),
    ("dtcPixelVarReciChn", "<f2", 72, 4),
)  # fmt: skip

FORMAT_NUMBERS = {
    "YUV420SP_U8": 1, "XRGB8888_U8": 2, "RGB888_U8": 5, "ARGB8888_U8": 6, "YUYV_U8": 7,
    "YUV422SP_U8": 8, "AYUV444_U8": 9, "YUV400_U8": 10,
}  # fmt: skip
"""``inputFormat`` of the pixel formats that there are."""

FORMAT_HALF_BYTES = {1: 3, 2: 8, 5: 6, 6: 8, 7: 4, 8: 4, 9: 8, 10: 2}
"""Half bytes of a pixel, by ``inputFormat``."""

_EVEN_WIDTH, _EVEN_HEIGHT, _GRAY, _FOUR = (1, 7, 8), (1,), (10,), (2, 6, 9)


class BlockUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a block has to fit.

    Attributes:
        block: name of the input that holds it.
        picture: name of the input that holds the bytes of the pictures.
        bytes: how many these are at most.
        batch: images of a call.
        channels: channels that the model takes.
        height: rows of an image as the model takes it.
        width: its columns.
    """

    block: str
    picture: str
    bytes: int
    batch: int
    channels: int
    height: int
    width: int


def read_uses(text: str) -> tuple[BlockUse, ...]:
    """Return what a compiled file says of its blocks.

    Raises:
        ArtifactError: it is damaged.
    """
    try:
        return msgspec.json.decode(text, type=tuple[BlockUse, ...])
    except msgspec.ValidationError as error:
        raise ArtifactError(
            f"damaged: {error}", where=PICTURE_BLOCKS, hint="compile again"
        ) from error


def split_block(block: Record) -> tuple[Record, Record]:
    """Return the head, and the records of the images, of a block of bytes."""
    whole = np.ascontiguousarray(block)
    return whole[: HEAD.itemsize].view(HEAD)[0], whole[HEAD.itemsize :].view(IMAGE)


def check_block(block: Record, use: BlockUse) -> None:
    """Check that a block fits a model.

    Raises:
        InputError: a field has a value that there is not, or that does not fit; it is named.
    """
    head, images = split_block(block)
    _check_head(head, use)
    for name in ("scfSwitch", "rotateSwitch"):
        if images[name].any():
            raise _refusal(name, int(images[name].max()), use, "prepare the picture before, give 0")
    for name, values in (("cropSwitch", images["cropSwitch"]),
                         ("paddingSwitch", images["paddingSwitch"])):  # fmt: skip
        _among(name, values, (0, 1), use)
    for name in ("dtcPixelMinChn", "dtcPixelVarReciChn"):
        if not np.isfinite(images[name].astype(np.float32)).all():
            raise _refusal(name, "not finite", use, "give finite numbers")
    for axis, size, sides in (("H", use.height, ("Top", "Bottom")),
                              ("W", use.width, ("Left", "Right"))):  # fmt: skip
        _check_axis(images, axis, size, sides, int(head[f"srcImageSize{axis}"]), use)


def _check_head(head: Record, use: BlockUse) -> None:
    number = int(head["inputFormat"])
    _among("inputFormat", head["inputFormat"], tuple(FORMAT_HALF_BYTES), use)
    for name in ("cscSwitch", "rbuvSwapSwitch", "axSwapSwitch"):
        _among(name, head[name], (0, 1), use)
    if int(head["batchNum"]) != use.batch:
        raise _refusal("batchNum", int(head["batchNum"]), use, f"give {use.batch}")
    if number in _GRAY and head["cscSwitch"]:
        raise _refusal("cscSwitch", 1, use, "give 0 with YUV400_U8, which has one channel")
    if number not in _FOUR and head["axSwapSwitch"]:
        raise _refusal("axSwapSwitch", 1, use, "give 0: the format has no unused channel")
    made = 1 if number in _GRAY else 3
    if made != use.channels and not (made == 3 and head["cscSwitch"]):
        raise _refusal("inputFormat", number, use, f"the model takes {use.channels} channels")
    width, height = int(head["srcImageSizeW"]), int(head["srcImageSizeH"])
    for name, size, odd in (("srcImageSizeW", width, number in _EVEN_WIDTH),
                            ("srcImageSizeH", height, number in _EVEN_HEIGHT)):  # fmt: skip
        if not 1 <= size <= 32768 or (odd and size % 2):
            raise _refusal(name, size, use, f"give 1 to 32768{', and an even one' if odd else ''}")
    needed = use.batch * (width * height * FORMAT_HALF_BYTES[number] // 2)
    if needed > use.bytes:
        raise InputError(
            f"{use.batch} × {height}×{width} pixels are {needed} bytes, the input has {use.bytes}",
            where=f"input {use.picture!r}",
            hint="compile with a larger max_src_image_size, or give smaller pictures",
        )


def _check_axis(
    images: Record, axis: str, size: int, sides: tuple[str, str], source: int, use: BlockUse
) -> None:
    """Check crop and padding along an axis of all images."""
    cropped, padded = images["cropSwitch"] == 1, images["paddingSwitch"] == 1
    start = np.where(cropped, images[f"cropStartPos{axis}"], 0).astype(np.int64)
    taken = np.where(cropped, images[f"cropSize{axis}"], source).astype(np.int64)
    outside = (start < 0) | (taken < 1) | (start + taken > source)
    if outside.any():
        at = int(outside.argmax())
        told = f"{taken[at]} from {start[at]}"
        raise _refusal(f"cropSize{axis}", told, use, f"stay inside the picture's {source}")
    total = taken
    for side in sides:
        around = np.where(padded, images[f"paddingSize{side}"], 0).astype(np.int64)
        if (around < 0).any():
            raise _refusal(f"paddingSize{side}", int(around.min()), use, "give 0 or more")
        total = total + around
    if (total != size).any():
        made = int(total[(total != size).argmax()])
        raise _refusal(f"cropSize{axis} + paddingSize", made, use, f"the model takes {size}")


def _among(name: str, values: Record, allowed: tuple[int, ...], use: BlockUse) -> None:
    wrong = np.atleast_1d(values)[~np.isin(np.atleast_1d(values), allowed)]
    if wrong.size:
        told = ", ".join(str(number) for number in allowed)
        raise _refusal(name, int(wrong[0]), use, f"give one of {told}")


def _refusal(name: str, value: object, use: BlockUse, hint: str) -> InputError:
    return InputError(
        f"{name} is {value}",
        where=f"input {use.block!r}",
        hint=f"{hint}; whet.aipp_block(...) writes such blocks",
    )
