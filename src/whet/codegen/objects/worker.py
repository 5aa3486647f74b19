"""A compiler process: modules come in on standard input, objects go out on standard output.

llvmlite holds one lock around every LLVM call, so that threads cannot compile side by side. A
process of its own needs no ``__main__`` guard in the user's script, as ``multiprocessing`` would.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from typing import IO

import msgspec

from whet.codegen.objects.object_code import compile_ir
from whet.errors import WhetError
from whet.target import Target

LENGTH = struct.Struct("<Q")


def write_frame(stream: IO[bytes], data: bytes) -> None:
    """Write one message."""
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Read one message; ``None`` at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    data = stream.read(size)
    return data if len(data) == size else None


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Compile until the input ends."""
    first = read_frame(source)
    if first is None:
        return
    target = msgspec.msgpack.decode(first, type=Target)
    while (message := read_frame(source)) is not None:
        try:
            write_frame(sink, b"+" + compile_ir(message.decode(), target))
        except WhetError as error:
            write_frame(sink, b"-" + str(error).encode())


def main() -> None:
    """Be a compiler process until standard input ends."""
    with contextlib.suppress(BrokenPipeError):  # the process that asked for it is gone
        serve(sys.stdin.buffer, sys.stdout.buffer)
