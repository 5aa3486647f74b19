"""From bytes as they lie in memory to N×H×W×C pixels: unpacking, order, crop, colours."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from whet.frontend.preprocess.records import FORMATS, Colours, PixelFormat, Placed, Preprocess

FLOOR = 1 << 28
"""Multiple of 256 above any product of a colour change, so that division rounds down."""


class Builder(Protocol):
    """What adds nodes."""

    def op(
        self, op_type: str, *inputs: ir.Value | np.ndarray[Any, Any] | None, **attributes: Any
    ) -> ir.Value:
        """Add a node with one output."""


def pixel_nodes(chain: Builder, picture: ir.Value, placed: Placed) -> ir.Value:
    """Return the pixels that the model sees, before mean and scale: integers, N×H×W×C."""
    steps, form, order = placed.steps, FORMATS[placed.steps.pixels], _order(placed)
    if form.columns == 1 and steps.colours is None:
        chosen = chain.op("Gather", picture, np.array(order, np.int64), axis=3)
        return _resized(chain, _cropped(chain, chosen, steps), steps)
    if form.columns == 1:
        channels = [_channel(chain, picture, place) for place in order]
    else:
        apart = _unpacked(chain, picture, form, placed)
        channels = [apart[place] for place in order]
    channels = [_resized(chain, _cropped(chain, channel, steps), steps) for channel in channels]
    if steps.colours:
        return _recolour(chain, channels, steps.colours, placed.channels)
    return chain.op("Concat", *channels, axis=3)


def _order(placed: Placed) -> list[int]:
    """Return the place of each channel among those that lie together."""
    form, steps = FORMATS[placed.steps.pixels], placed.steps
    order = list(form.order)
    if steps.swap_alpha:
        order = [place - 1 for place in order]
    if steps.swap_red_blue and len(order) == 3:
        # Red and blue are the outer channels; U and V are the last two.
        first = 0 if "RGB" in steps.pixels else 1
        order[first], order[2] = order[2], order[first]
    return order


def _channel(chain: Builder, pixels: ir.Value, place: int) -> ir.Value:
    return _slice(chain, pixels, (3,), (place,), (place + 1,))


def _cropped(chain: Builder, pixels: ir.Value, steps: Preprocess) -> ir.Value:
    if steps.crop is None:
        return pixels
    top, left, height, width = steps.crop
    return _slice(chain, pixels, (1, 2), (top, left), (top + height, left + width))


def _resized(chain: Builder, pixels: ir.Value, steps: Preprocess) -> ir.Value:
    """Return bytes again: values between two bytes are none below the one or above the other."""
    if steps.resize is None:
        return pixels
    wide = chain.op("Cast", pixels, to=int(ir.DataType.FLOAT))
    size = np.array(steps.resize, np.int64)
    made = chain.op("Resize", wide, None, None, size, mode="linear", axes=[1, 2])
    return chain.op("Cast", chain.op("Round", made), to=int(ir.DataType.UINT8))


def _unpacked(
    chain: Builder, picture: ir.Value, form: PixelFormat, placed: Placed
) -> tuple[ir.Value, ...]:
    """Return Y, U and V of every pixel, N×H×W×1 each: neighbours share a pair of U and V."""
    height, width = placed.source
    assert isinstance(height, int) and isinstance(width, int)
    rows = 1 if form.planes or form.rows == 4 else 2
    if form.planes:  # Y0 U Y1 V
        halves = _reshape(chain, picture, 0, height, width, 1, 2)
        bright = _slice(chain, halves, (4,), (0,), (1,))
        pairs = _reshape(chain, _slice(chain, halves, (4,), (1,), (2,)), 0, height, width // 2, 2)
    else:
        bright = _slice(chain, picture, (1,), (0,), (height,))
        below = _slice(chain, picture, (1,), (height,), (height * form.rows // 2,))
        pairs = _reshape(chain, below, 0, height // rows, width // 2, 2)
    spread = []
    for place in (0, 1):
        half = _reshape(
            chain, _channel(chain, pairs, place), 0, height // rows, 1, width // 2, 1, 1
        )
        full = chain.op("Expand", half, np.array([1, 1, rows, 1, 2, 1], np.int64))
        spread.append(_reshape(chain, full, 0, height, width, 1))
    return _reshape(chain, bright, 0, height, width, 1), *spread


def _recolour(chain: Builder, channels: list[ir.Value], colours: Colours, made: int) -> ir.Value:
    """Compute ``clip((M · (x − before) >> 8) + after, 0, 255)`` in 32-bit integers, exactly."""
    matrix = np.array(colours.matrix, np.int32)[:made]
    total: ir.Value | None = None
    for channel, bytes_of_it in enumerate(channels):
        one = chain.op("Cast", bytes_of_it, to=int(ir.DataType.INT32))
        if colours.before[channel]:
            one = chain.op("Sub", one, np.array([colours.before[channel]], np.int32))
        part = chain.op("Mul", one, np.ascontiguousarray(matrix[:, channel]))
        total = part if total is None else chain.op("Add", total, part)
    assert total is not None
    # ONNX divides towards zero; >> rounds down: (t + 2²⁸) / 256 − 2²⁰ does so for |t| < 2²⁸.
    raised = chain.op("Add", total, np.array([FLOOR], np.int32))
    floor = chain.op("Div", raised, np.array([256], np.int32))
    after = np.array(colours.after[:made], np.int32) - FLOOR // 256
    return chain.op(
        "Clip", chain.op("Add", floor, after), np.array(0, np.int32), np.array(255, np.int32)
    )


def _slice(
    chain: Builder,
    value: ir.Value,
    axes: tuple[int, ...],
    starts: tuple[int, ...],
    ends: tuple[int, ...],
) -> ir.Value:
    bounds = [np.array(numbers, np.int64) for numbers in (starts, ends, axes)]
    return chain.op("Slice", value, *bounds)


def _reshape(chain: Builder, value: ir.Value, *dims: int) -> ir.Value:
    return chain.op("Reshape", value, np.array(dims, np.int64))
