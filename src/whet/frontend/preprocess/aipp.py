"""AIPP files of Ascend: ``aipp_op { key: value … }`` blocks, one for each image input."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from whet.errors import OptionError, nearest
from whet.frontend.preprocess.records import Colours, DynamicPreprocess, Preprocess, Step
from whet.whole_files import read_text_whole

_TOKEN = re.compile(
    r"""\s*(?:(?P<open>aipp_op\s*\{)|(?P<close>\})
    |(?P<key>[A-Za-z]\w*)\s*:\s*(?P<value>"[^"]*"|'[^']*'|[^\s{}]+))""",
    re.VERBOSE,
)
_LARGEST_FILE = 1 << 20


def _flag(text: str) -> bool:
    lowered = text.lower()
    if lowered not in ("true", "false", "0", "1"):
        raise ValueError("true or false")
    return lowered in ("true", "1")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,10}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return read


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("a number")
    return value


_SIZE, _BYTE, _FACTOR = _whole(0, 65536), _whole(0, 255), _whole(-32768, 32767)

_KEYS: dict[str, Callable[[str], Any]] = {
    "aipp_mode": str, "related_input_rank": _whole(0, 1000), "related_input_name": str,
    "input_format": str, "src_image_size_w": _SIZE, "src_image_size_h": _SIZE,
    "csc_switch": _flag, "rbuv_swap_switch": _flag, "ax_swap_switch": _flag,
    "single_line_mode": _flag, "crop": _flag, "load_start_pos_w": _SIZE,
    "load_start_pos_h": _SIZE, "crop_size_w": _SIZE, "crop_size_h": _SIZE,
    "resize": _flag, "resize_output_w": _SIZE, "resize_output_h": _SIZE,
    "padding": _flag, "left_padding_size": _SIZE, "right_padding_size": _SIZE,
    "top_padding_size": _SIZE, "bottom_padding_size": _SIZE, "padding_value": _number,
    **{f"matrix_r{row}c{column}": _FACTOR for row in range(3) for column in range(3)},
    **{f"{side}_bias_{channel}": _BYTE for side in ("input", "output") for channel in range(3)},
    **{f"{name}_chn_{channel}": _number
       for name in ("mean", "min", "var_reci") for channel in range(4)},
}  # fmt: skip
"""Every key of a static block, and what reads its value."""

_DYNAMIC: dict[str, Callable[[str], Any]] = {
    "max_src_image_size": _whole(1, (1 << 31) - 1), "support_rotation": _flag,
}  # fmt: skip
"""Keys of a dynamic block alone."""

_ALLOWED_DYNAMIC = ("aipp_mode", "related_input_rank", "related_input_name", *_DYNAMIC)


def read_preprocess(given: str | os.PathLike[str] | Sequence[Step]) -> tuple[Step, ...]:
    """Return the steps that a caller names by a file or gives as records.

    Raises:
        OptionError: the file is no AIPP file, or something else is given.
    """
    if isinstance(given, (str, os.PathLike)):
        return read_aipp(given)
    if not isinstance(given, Sequence) or not all(isinstance(step, Step) for step in given):
        raise OptionError(
            f"preprocess is a {type(given).__name__}",
            where="preprocess",
            hint="give an AIPP file, or a list of whet.Preprocess(...)",
        )
    return tuple(step for step in given if isinstance(step, Step))


def read_aipp(path: str | os.PathLike[str]) -> tuple[Step, ...]:
    """Read an AIPP file.

    Raises:
        OptionError: it cannot be read, says nothing, or asks for what there is not.
    """
    place = os.fspath(path)
    try:
        text = read_text_whole(Path(path), _LARGEST_FILE)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise OptionError(
            f"cannot read the file: {reason}", where=place, hint="give an AIPP file"
        ) from error
    return parse_aipp(text, where=place)


def parse_aipp(text: str, *, where: str = "preprocess") -> tuple[Step, ...]:
    """Return what every ``aipp_op`` block of a text asks for.

    Raises:
        OptionError: the text has another form, a key or value is invalid, or there is no such step.
    """
    return tuple(_step(block, where) for block in _blocks(text, where))


def _blocks(text: str, where: str) -> list[dict[str, Any]]:
    """Return the values of each block, checked one by one."""
    bare = re.sub(r"#[^\n]*", "", text)
    blocks: list[dict[str, Any]] = []
    position, inside = 0, False
    while bare[position:].strip():
        match = _TOKEN.match(bare, position)
        line = f"{where}, line {bare.count(chr(10), 0, _start(bare, position)) + 1}"
        kind = match.lastgroup if match else None
        if match is None or inside == (kind == "open"):
            raise OptionError(
                "this is not an AIPP file", where=line, hint="write aipp_op { input_format: … }"
            )
        if kind == "open":
            blocks.append({})
        elif kind != "close":
            _add(blocks[-1], match["key"], match["value"].strip("\"'"), line)
        inside = kind != "close"
        position = match.end()
    if inside or not blocks:
        raise OptionError(
            "a block is not closed" if inside else "there is no aipp_op block",
            where=where,
            hint="write aipp_op { input_format: … }",
        )
    return blocks


def _start(text: str, position: int) -> int:
    """Return where the next word starts."""
    return len(text) - len(text[position:].lstrip())


def _add(block: dict[str, Any], key: str, value: str, where: str) -> None:
    readers = _KEYS | _DYNAMIC
    if key not in readers:
        raise OptionError(f"unknown key {key!r}", where=where, hint=nearest(key, readers))
    if key in block:
        raise OptionError(f"{key} is given twice", where=where, hint="remove one")
    try:
        block[key] = readers[key](value)
    except ValueError as error:
        raise OptionError(f"{key} is {value!r}", where=where, hint=f"give {error}") from error


def _step(block: Mapping[str, Any], where: str) -> Step:
    mode = block.get("aipp_mode", "static").lower()
    if mode not in ("static", "dynamic"):
        raise OptionError(f"aipp_mode is {mode!r}", where=where, hint="give static or dynamic")
    return _preprocess(block, where) if mode == "static" else _dynamic(block, where)


def _dynamic(block: Mapping[str, Any], where: str) -> DynamicPreprocess:
    extra = [key for key in block if key not in _ALLOWED_DYNAMIC]
    if extra:
        raise OptionError(
            f"{extra[0]} does not belong to aipp_mode dynamic",
            where=where,
            hint="leave it out; the run says it: whet.aipp_block(...)",
        )
    if block.get("support_rotation"):
        raise OptionError(
            "support_rotation is not available", where=where, hint="rotate the picture before"
        )
    if "max_src_image_size" not in block:
        raise OptionError(
            "max_src_image_size is missing",
            where=where,
            hint="give the bytes of the largest batch of pictures",
        )
    return DynamicPreprocess(_input(block), block["max_src_image_size"])


def _input(block: Mapping[str, Any]) -> str:
    return block.get("related_input_name") or str(block.get("related_input_rank", 0))


def _preprocess(block: Mapping[str, Any], where: str) -> Preprocess:
    _refuse(block, where)
    pair = block.get("src_image_size_h", 0), block.get("src_image_size_w", 0)
    if any(pair) and not all(pair):
        raise OptionError(
            "one size of the picture is missing",
            where=where,
            hint="give src_image_size_h and src_image_size_w",
        )
    return Preprocess(
        input=_input(block),
        pixels=block["input_format"],
        source=pair if all(pair) else None,
        swap_red_blue=block.get("rbuv_swap_switch", False),
        swap_alpha=block.get("ax_swap_switch", False),
        crop=_crop(block, where) if block.get("crop") else None,
        resize=_resize(block, where) if block.get("resize") else None,
        colours=_colours(block) if block.get("csc_switch") else None,
        mean=_channels(block, "mean", 0.0),
        least=_channels(block, "min", 0.0),
        scale=_channels(block, "var_reci", 1.0),
        padding=_padding(block) if block.get("padding") else None,
        padding_value=block.get("padding_value", 0.0),
    )


def _refuse(block: Mapping[str, Any], where: str) -> None:
    extra = [key for key in block if key in _DYNAMIC]
    if extra:
        raise OptionError(
            f"{extra[0]} belongs to dynamic AIPP", where=where, hint="give aipp_mode: dynamic"
        )
    if block.get("single_line_mode"):
        raise OptionError("single_line_mode is not available", where=where, hint="leave it out")
    if "input_format" not in block:
        raise OptionError(
            "input_format is missing", where=where, hint="give input_format: RGB888_U8"
        )


def _crop(block: Mapping[str, Any], where: str) -> tuple[int, int, int, int]:
    height, width = block.get("crop_size_h", 0), block.get("crop_size_w", 0)
    if not height or not width:
        raise OptionError(
            "the size of the crop is missing", where=where, hint="give crop_size_h and crop_size_w"
        )
    return block.get("load_start_pos_h", 0), block.get("load_start_pos_w", 0), height, width


def _resize(block: Mapping[str, Any], where: str) -> tuple[int, int]:
    height, width = block.get("resize_output_h", 0), block.get("resize_output_w", 0)
    if not height or not width:
        raise OptionError(
            "the size to resize to is missing",
            where=where,
            hint="give resize_output_h and resize_output_w",
        )
    return height, width


def _padding(block: Mapping[str, Any]) -> tuple[int, int, int, int]:
    top, bottom, left, right = (
        int(block.get(f"{side}_padding_size", 0)) for side in ("top", "bottom", "left", "right")
    )
    return top, bottom, left, right


def _colours(block: Mapping[str, Any]) -> Colours:
    rows = ([block.get(f"matrix_r{row}c{column}", 0) for column in range(3)] for row in range(3))
    return Colours(
        matrix=tuple(_three(row) for row in rows),
        before=_three([block.get(f"input_bias_{c}", 0) for c in range(3)]),
        after=_three([block.get(f"output_bias_{c}", 0) for c in range(3)]),
    )


def _three(values: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = values
    return first, second, third


def _channels(block: Mapping[str, Any], name: str, default: float) -> tuple[float, ...]:
    return tuple(float(block.get(f"{name}_chn_{channel}", default)) for channel in range(4))
