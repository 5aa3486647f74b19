"""``Parts``: what a compiled model consists of, in memory as in a ``.whet`` file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from whet.program.records import Program

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Parts(msgspec.Struct, frozen=True, eq=False):
    """What a compiled model consists of, as it is saved.

    Attributes:
        program: buffers, launches and what the caller sees.
        code: the position-independent image.
        symbols: offsets of functions in the image.
        weights: constant data, as bytes; aligned to 64 bytes.
        graph: the optimised graph as ONNX bytes, if kept.
        metadata: options, source hash and other facts worth keeping.
        compile_s: seconds that compilation took.
    """

    program: Program
    code: bytes | memoryview
    symbols: Mapping[str, int]
    weights: Bytes
    graph: bytes | memoryview | None = None
    metadata: Mapping[str, str] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    compile_s: float = 0.0
