"""Damage to bytes and to protocol buffers, from a random generator."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Rng = np.random.Generator
INTEGERS = (
    0, 1, -1, 2, 3, 7, 127, 128, 255, -128, 2**15, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53,
    2**62, 2**63 - 1, -(2**63), 10**6,
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "x", "y", "axis", "n*m", "../x", "\0", "é" * 50, "ai.onnx", "LSTM", "If", "a" * 5000)
_MOST_COPIES = 40


def mutate_bytes(data: bytes, rng: Rng) -> bytes:
    """Return a damaged copy: flipped, inserted, removed, repeated or truncated bytes."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(out) + 1))
        length = int(rng.integers(1, 9))
        kind = int(rng.integers(6))
        if kind == 0 and at < len(out):
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[at:at] = rng.bytes(length)
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = out[max(at - length, 0) : at] * int(rng.integers(1, 9))
        elif kind == 4:
            out[at : at + length] = struct.pack("<q", int(rng.choice(INTEGERS)))[:length]
        else:
            del out[at:]
    return bytes(out)


def mutate_message(message: Message, rng: Rng) -> None:
    """Change some fields of a protocol buffer in place, its structure staying valid."""
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(message))
        if places:
            _mutate_field(*places[int(rng.integers(len(places)))], rng)


def _places(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Yield every field that is set, in every message below one."""
    for field, value in message.ListFields():
        yield message, field
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _places(inner)


def _mutate_field(message: Message, field: FieldDescriptor, rng: Rng) -> None:
    value = getattr(message, field.name)
    repeated = not isinstance(value, int | float | str | bytes | Message)
    if repeated:
        _mutate_list(value, field, rng)
    elif field.type == FieldDescriptor.TYPE_MESSAGE or rng.random() < 0.2:
        message.ClearField(field.name)
    else:
        _assign(message, field.name, value, rng)


def _assign(message: Message, name: str, value: Any, rng: Rng) -> None:
    try:
        setattr(message, name, _other(value, rng))
    except (ValueError, TypeError):  # out of the field's range
        message.ClearField(name)


def _mutate_list(values: Any, field: FieldDescriptor, rng: Rng) -> None:
    """Remove, repeat, swap or change elements of a repeated field."""
    count = len(values)
    at, other = int(rng.integers(count)), int(rng.integers(count))
    kind = int(rng.integers(4))
    if kind == 0:
        del values[at]
    elif kind == 1:
        for _ in range(int(rng.integers(1, _MOST_COPIES))):
            values.append(values[at])
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        values[at].CopyFrom(type(values[at]).FromString(values[other].SerializeToString()))
    elif kind == 2:
        values[at], values[other] = values[other], values[at]
    else:
        try:
            values[at] = _other(values[at], rng)
        except (ValueError, TypeError):
            del values[at]


def _other(value: Any, rng: Rng) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        near = value + int(rng.integers(-2, 3))
        return near if rng.random() < 0.5 else int(INTEGERS[int(rng.integers(len(INTEGERS)))])
    if isinstance(value, float):
        return float(FLOATS[int(rng.integers(len(FLOATS)))])
    if isinstance(value, bytes):
        return mutate_bytes(value, rng)
    return TEXTS[int(rng.integers(len(TEXTS)))]
