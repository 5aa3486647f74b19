"""Taking the large weights out of an ONNX file before it is parsed.

A parser copies every weight into memory of its own. Here the wire format of ``ModelProto`` is
walked just far enough to find ``graph.initializer[i].raw_data``; what is left is parsed, and the
weights stay where they are, as views of the file. What is not plain enough is left to the parser.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

LARGE_BYTES = 4096
"""Smaller weights are parsed with the rest."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9
_MOST_VARINT_BYTES = 10


class Split(msgspec.Struct, frozen=True):
    """A model in two parts.

    Attributes:
        rest: the model as ``ModelProto`` bytes, without the bytes of its large initialisers.
        weights: those bytes, by position in ``graph.initializer``.
    """

    rest: bytes
    weights: dict[int, memoryview]


class _Field(msgspec.Struct, frozen=True):
    """One field: bytes ``start`` to ``end``, of which ``payload`` to ``end`` are its value."""

    number: int
    wire: int
    start: int
    payload: int
    end: int


class _UnusualError(Exception):
    """The bytes are damaged or written in a way that only the parser can judge."""


def split_weights(data: memoryview) -> Split:
    """Return a model's bytes in two parts; ``data`` must live as long as the weights."""
    try:
        return _split(data)
    except _UnusualError:
        return Split(bytes(data), {})


def _split(data: memoryview) -> Split:
    graph = _only(list(_fields(data, 0, len(data))), _MODEL_GRAPH)
    if graph is None:
        raise _UnusualError
    weights: dict[int, memoryview] = {}
    parts: list[bytes | memoryview] = []
    copied, position = graph.payload, -1
    for field in _fields(data, graph.payload, graph.end):
        if field.number != _GRAPH_INITIALIZER or field.wire != _BYTES:
            continue
        position += 1
        if field.end - field.payload < LARGE_BYTES:
            continue
        raw = _only(list(_fields(data, field.payload, field.end)), _TENSOR_RAW_DATA)
        if raw is None or raw.end - raw.payload < LARGE_BYTES:
            continue
        weights[position] = data[raw.payload : raw.end]
        head, tail = data[field.payload : raw.start], data[raw.end : field.end]
        size = _varint(len(head) + len(tail))
        tag = _varint(_GRAPH_INITIALIZER << 3 | _BYTES)
        parts += [data[copied : field.start], tag, size, head, tail]
        copied = field.end
    parts.append(data[copied : graph.end])
    length = sum(len(part) for part in parts)
    before, after = data[: graph.start], data[graph.end :]
    frame = _varint(_MODEL_GRAPH << 3 | _BYTES) + _varint(length)
    return Split(b"".join([before, frame, *parts, after]), weights)


def _only(fields: list[_Field], number: int) -> _Field | None:
    """Return the only field of a number or ``None``; the parser would merge repeated ones."""
    found = [field for field in fields if field.number == number]
    if len(found) > 1 or (found and found[0].wire != _BYTES):
        raise _UnusualError
    return found[0] if found else None


def _fields(data: memoryview, position: int, end: int) -> Iterator[_Field]:
    while position < end:
        start = position
        tag, position = _read_varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        payload = position
        if wire == _VARINT:
            _, position = _read_varint(data, position, end)
        elif wire == _BYTES:
            size, payload = _read_varint(data, position, end)
            position = payload + size
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        else:
            raise _UnusualError
        if position > end or number == 0:
            raise _UnusualError
        yield _Field(number, wire, start, payload, position)


def _read_varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for index in range(_MOST_VARINT_BYTES):
        if position + index >= end:
            break
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise _UnusualError


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
