"""Dynamic AIPP: steps whose numbers are read, when the model runs, from a block of bytes.

Pictures lie one behind the other in one array of bytes. For every element that the model takes,
the place of its bytes there is computed from the block, so that format, size, crop and padding may
change from call to call. Places and sums are 32-bit integers; what a block asks for beyond the
array is cut off at its ends, and the runtime refuses such blocks before.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from whet.frontend.preprocess.pixels import FLOOR, Builder
from whet.frontend.preprocess.records import FORMATS
from whet.program.aipp_block import FORMAT_HALF_BYTES, FORMAT_NUMBERS, HEAD, IMAGE, BlockUse

Array = np.ndarray[Any, Any]
_INT = int(ir.DataType.INT32)
_FIELDS = 6
"""Of a channel: planes before it, bytes of a row, rows in pairs, bytes of a column, columns in
pairs, bytes before it."""

_MOST = 32768


class Canvas(msgspec.Struct, frozen=True):
    """What is filled, and how its axes lie.

    Attributes:
        use: sizes.
        layout: ``"NCHW"`` or ``"NHWC"``.
    """

    use: BlockUse
    layout: str

    def along(self, axis: str, extent: int) -> tuple[int, ...]:
        """Return the shape of what varies along one axis only."""
        return tuple(extent if letter == axis else 1 for letter in self.layout)

    def channels_of_images(self, count: int) -> tuple[int, ...]:
        """Return the shape of what varies from image to image and channel to channel."""
        sizes = {"N": self.use.batch, "C": count}
        return tuple(sizes.get(letter, 1) for letter in self.layout)


class Block:
    """Reads fields of a block.

    Args:
        chain: adds nodes.
        block: the input.
        canvas: what is filled.
    """

    def __init__(self, chain: Builder, block: ir.Value, canvas: Canvas) -> None:
        self._chain, self._canvas = chain, canvas
        whole = chain.op("Cast", block, to=_INT)
        head, batch = HEAD.itemsize, canvas.use.batch
        images = self._cut(whole, 0, head, head + batch * IMAGE.itemsize)
        self._tables = {
            True: chain.op("Reshape", self._cut(whole, 0, 0, head), _shape(1, head)),
            False: chain.op("Reshape", images, _shape(batch, IMAGE.itemsize)),
        }
        self._read: dict[tuple[bool, int], tuple[int, ir.Value]] = {}

    def numbers(self, record: np.dtype[Any], name: str) -> ir.Value:
        """Return a field as 32-bit integers, images × numbers; floats of 16 bits as their bits."""
        kind, offset = _field(record, name)
        width, sign = kind.base.itemsize, kind.base.kind
        first, whole = self._whole(record, width)
        begin = (offset - first) // width
        taken = self._cut(whole, 1, begin, begin + kind.itemsize // width)
        return self._signed(taken, 1 << 8 * width) if sign == "i" and width < 4 else taken

    def _whole(self, record: np.dtype[Any], width: int) -> tuple[int, ir.Value]:
        """Return all numbers of so many bytes in a record, and where they begin."""
        key = record is HEAD, width
        if key not in self._read:
            fields = [_field(record, name) for name in record.names or ()]
            chosen = [(k, at) for k, at in fields if k.base.itemsize == width]
            first = min(at for _, at in chosen)
            last = max(at + kind.itemsize for kind, at in chosen)
            rows = 1 if record is HEAD else self._canvas.use.batch
            table = self._cut(self._tables[record is HEAD], 1, first, last)
            self._read[key] = first, self._joined(table, rows, (last - first) // width, width)
        return self._read[key]

    def _joined(self, table: ir.Value, rows: int, count: int, width: int) -> ir.Value:
        """Return numbers of so many bytes, the lowest first."""
        if width == 1:
            return table
        op = self._chain.op
        apart = op("Reshape", table, _shape(rows, count, width))
        weights = np.array([1, 1 << 8, 1 << 16, 1 << 24][:width], np.int32)
        return op("ReduceSum", op("Mul", apart, weights), np.array([2], np.int64), keepdims=0)

    def floats(self, name: str) -> ir.Value:
        """Return a field of 16-bit floats as 32-bit ones, exactly; numbers only."""
        op, bits = self._chain.op, self.numbers(IMAGE, name)
        power = op("Mod", op("Div", bits, _int(1024)), _int(32))
        steps = np.array([2.0 ** (max(e, 1) - 25) for e in range(32)], np.float32)
        hidden = np.array([0] + [1024] * 31, np.int32)
        whole = op("Add", op("Mod", bits, _int(1024)), op("Gather", hidden, power))
        sign = op("Sub", _int(1), op("Mul", op("Div", bits, _int(1 << 15)), _int(2)))
        signed = op("Cast", op("Mul", whole, sign), to=int(ir.DataType.FLOAT))
        return op("Mul", signed, op("Gather", steps, power))

    def bounded(self, record: np.dtype[Any], name: str, least: int, most: int) -> ir.Value:
        """Return a field of one number for each image, shaped to vary along the images alone."""
        rows = 1 if record is HEAD else self._canvas.use.batch
        value = self._chain.op("Clip", self.numbers(record, name), _int(least), _int(most))
        return self._chain.op("Reshape", value, _shape(*self._canvas.along("N", rows)))

    def _cut(self, value: ir.Value, axis: int, begin: int, end: int) -> ir.Value:
        return self._chain.op("Slice", value, _shape(begin), _shape(end), _shape(axis))

    def _signed(self, value: ir.Value, span: int) -> ir.Value:
        op = self._chain.op
        raised = op("Mod", op("Add", value, _int(span // 2)), _int(span))
        return op("Sub", raised, _int(span // 2))


def dynamic_values(
    chain: Builder, pictures: ir.Value, block: ir.Value, canvas: Canvas, dtype: ir.DataType
) -> ir.Value:
    """Return what the model takes, from bytes of pictures and a block."""
    read = Block(chain, block, canvas)
    inside, pixels = _pixels(chain, pictures, read, canvas)
    colours = _recoloured(chain, pixels, read, canvas)
    channels = canvas.use.channels
    work = ir.DataType.DOUBLE if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    result = chain.op("Cast", colours, to=int(work))
    for op_type, values in (
        ("Sub", read.numbers(IMAGE, "dtcPixelMeanChn")),
        ("Sub", read.floats("dtcPixelMinChn")),
        ("Mul", read.floats("dtcPixelVarReciChn")),
    ):
        first = chain.op("Slice", values, _shape(0), _shape(channels), _shape(1))
        shaped = chain.op("Reshape", first, _shape(*canvas.channels_of_images(channels)))
        result = chain.op(op_type, result, chain.op("Cast", shaped, to=int(work)))
    result = chain.op("Where", inside, result, np.zeros((), work.numpy()))
    return result if dtype == work else chain.op("Cast", result, to=int(dtype))


def _pixels(
    chain: Builder, pictures: ir.Value, read: Block, canvas: Canvas
) -> tuple[ir.Value, ir.Value]:
    """Return what lies in the picture, not in the padding, and three channels of bytes."""
    op, use = chain.op, canvas.use
    height, width = (read.bounded(HEAD, f"srcImageSize{axis}", 1, _MOST) for axis in "HW")
    area = op("Mul", height, width)
    number = read.bounded(HEAD, "inputFormat", 0, len(_half_bytes()) - 1)
    swaps = [read.bounded(HEAD, f"{n}SwapSwitch", 0, 1) for n in ("rbuv", "ax")]
    row = op("Add", op("Mul", number, _int(4)), op("Add", op("Mul", swaps[0], _int(2)), swaps[1]))
    fields = op("Gather", _channel_table(), op("Reshape", row, _shape(1)))
    planes, row_bytes, paired_rows, step, paired_columns, before = (
        op("Reshape", op("Slice", fields, _shape(k), _shape(k + 1), _shape(2)),
           _shape(*canvas.along("C", 3))) for k in range(_FIELDS)
    )  # fmt: skip
    in_rows, y = _places(chain, read, canvas, "H", height)
    in_columns, x = _places(chain, read, canvas, "W", width)
    down = op("Mul", _halved(chain, y, paired_rows), op("Mul", row_bytes, width))
    across = op("Add", op("Mul", _halved(chain, x, paired_columns), step), before)
    image_bytes = op("Div", op("Mul", area, op("Gather", _half_bytes(), number)), _int(2))
    images = np.arange(use.batch, dtype=np.int32).reshape(canvas.along("N", use.batch))
    begin = op("Add", op("Mul", image_bytes, images), op("Mul", planes, area))
    place = op("Add", op("Add", begin, across), down)
    place = op("Clip", place, _int(0), _int(use.bytes - 1))
    return op("And", in_rows, in_columns), op("Gather", pictures, place, axis=0)


def _places(
    chain: Builder, read: Block, canvas: Canvas, axis: str, source: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Return which positions along an axis lie in the picture, and where in it."""
    op = chain.op
    extent, side = {"H": (canvas.use.height, "Top"), "W": (canvas.use.width, "Left")}[axis]
    positions = np.arange(extent, dtype=np.int32).reshape(canvas.along(axis, extent))
    cropped = read.bounded(IMAGE, "cropSwitch", 0, 1)
    padded = read.bounded(IMAGE, "paddingSwitch", 0, 1)
    start = op("Mul", read.bounded(IMAGE, f"cropStartPos{axis}", 0, _MOST), cropped)
    size = op("Add", source, op("Mul", cropped, op("Sub", read.bounded(
        IMAGE, f"cropSize{axis}", 1, _MOST), source)))  # fmt: skip
    before = op("Mul", read.bounded(IMAGE, f"paddingSize{side}", 0, _MOST), padded)
    at = op("Sub", positions, before)
    inside = op("And", op("GreaterOrEqual", at, _int(0)), op("Less", at, size))
    return inside, op("Add", op("Max", at, _int(0)), start)


def _halved(chain: Builder, value: ir.Value, paired: ir.Value) -> ir.Value:
    """Return positions, or half of them for channels whose values two pixels share."""
    less = chain.op("Sub", chain.op("Div", value, _int(2)), value)
    return chain.op("Add", value, chain.op("Mul", less, paired))


def _recoloured(chain: Builder, pixels: ir.Value, read: Block, canvas: Canvas) -> ir.Value:
    """Compute ``clip((M · (x − before) >> 8) + after, 0, 255)``; M is 256 where it is off."""
    op, channels = chain.op, canvas.use.channels
    on = op("Reshape", read.bounded(HEAD, "cscSwitch", 0, 1), _shape(1, 1))
    matrix = op("Reshape", read.numbers(HEAD, "cscMatrix"), _shape(3, 3))
    unit = np.eye(3, dtype=np.int32) * 256
    matrix = op("Add", op("Mul", op("Sub", matrix, unit), on), unit)
    biases = [op("Mul", read.numbers(HEAD, f"csc{n}putBias"), on) for n in ("In", "Out")]
    before, after = (op("Reshape", bias, _shape(*canvas.along("C", 3))) for bias in biases)
    wide = op("Sub", op("Cast", pixels, to=_INT), before)
    axis = _shape(canvas.layout.index("C"))
    total: ir.Value | None = None
    for k in range(3):
        column = op("Slice", matrix, _shape(0, k), _shape(channels, k + 1), _shape(0, 1))
        factors = op("Reshape", column, _shape(*canvas.along("C", channels)))
        part = op("Mul", op("Slice", wide, _shape(k), _shape(k + 1), axis), factors)
        total = part if total is None else op("Add", total, part)
    assert total is not None
    floor = op("Div", op("Add", total, _int(FLOOR)), _int(256))
    after = op("Slice", after, _shape(0), _shape(channels), axis)
    moved = op("Add", floor, op("Sub", after, _int(FLOOR // 256)))
    return op("Clip", moved, _int(0), _int(255))


def _field(record: np.dtype[Any], name: str) -> tuple[np.dtype[Any], int]:
    """Return type and offset of a field."""
    assert record.fields is not None
    kind, offset = record.fields[name][:2]
    return kind, int(offset)


def _half_bytes() -> Array:
    """Return half bytes of a pixel by format; formats that there are not count as RGB."""
    return np.array([FORMAT_HALF_BYTES.get(k, 6) for k in range(11)], np.int32)


def _channel_table() -> Array:
    """Return the fields of each channel by format, swap of red and blue, swap of alpha."""
    names = {number: name for name, number in FORMAT_NUMBERS.items()}
    rows = [
        _channels(names.get(number, "RGB888_U8"), red_blue=red_blue, alpha=alpha)
        for number in range(len(_half_bytes()))
        for red_blue in (False, True)
        for alpha in (False, True)
    ]
    return np.array(rows, np.int32)


def _channels(name: str, *, red_blue: bool, alpha: bool) -> list[tuple[int, ...]]:
    form = FORMATS[name]
    found: list[tuple[int, ...]]
    if form.columns == 1:
        order = [place - (alpha and form.planes == 4) for place in form.order]
        found = [(0, form.planes, 0, form.planes, 0, place) for place in order]
    elif form.planes:  # Y0 U Y1 V
        found = [(0, 2, 0, 2, 0, 0), (0, 2, 0, 4, 1, 1), (0, 2, 0, 4, 1, 3)]
    else:
        pairs = int(form.rows == 3)
        found = [(0, 1, 0, 1, 0, 0), (1, 1, pairs, 2, 1, 0), (1, 1, pairs, 2, 1, 1)]
    found = (found * 3)[:3]
    if red_blue and len(form.order) == 3:
        first = 0 if "RGB" in name else 1
        found[first], found[2] = found[2], found[first]
    return found


def _int(number: int) -> Array:
    return np.array(number, np.int32)


def _shape(*numbers: int) -> Array:
    return np.array(numbers, np.int64)
