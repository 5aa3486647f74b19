"""Cache lines that are fetched between the steps of a product: its next panel, the next weights."""

from __future__ import annotations

import msgspec

from whet.codegen.writing.builder import PTR, Builder, Value, i64
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.spec import Contraction


class Stream(msgspec.Struct, frozen=True):
    """Memory that will be read or written soon, fetched line after line.

    Attributes:
        cursor: stack slot of the address that is fetched next.
        lines: cache lines that are fetched at each unrolled depth step.
        writes: whether it will be written.
    """

    cursor: Value
    lines: int
    writes: bool = False


def fetch_lines(b: Builder, stream: Stream) -> None:
    """Fetch the next lines of a stream into the second cache."""
    if not stream.lines:
        return
    at = b.load(PTR, stream.cursor, 8)
    for line in range(stream.lines):
        b.prefetch(b.gep(at, "i8", LINE_BYTES * line), writes=stream.writes)
    b.store(b.gep(at, "i8", LINE_BYTES * stream.lines), stream.cursor, 8)


class Fetching(msgspec.Struct, frozen=True):
    """Writes the prefetches of a contraction.

    Attributes:
        b: where instructions go.
        kernel: the contraction.
        panel: stack slot of the address that is fetched next in the panel after this one.
        weights: the same in the weights of the next launch.
        streams: what else is fetched ahead.
    """

    b: Builder
    kernel: Contraction
    panel: Value
    weights: Value
    streams: tuple[Stream, ...] = ()

    def begin_panel(self, following: Value) -> None:
        """Begin with the panel after this one."""
        self.b.store(following, self.panel, 8)

    def begin_chunk(self, chunk: Value, weights: Value) -> None:
        """Begin with a chunk's share of the next launch's weights."""
        b, ahead = self.b, self.kernel.ahead
        assert ahead is not None
        share = -(-ahead.bytes // (LINE_BYTES * ahead.shares)) * LINE_BYTES
        thread, number = b.divide(chunk, ahead.shares)
        place = b.add(b.mul(thread, i64(ahead.apart)), b.mul(number, i64(share)))
        b.store(b.gep(weights, "i8", place), self.weights, 8)

    def fetch(self) -> None:
        """Fetch the lines that are due at an unrolled depth step."""
        b, ahead = self.b, self.kernel.ahead
        panel = Stream(self.panel, self.kernel.tile.prefetch)
        weights = Stream(self.weights, ahead.lines if ahead else 0)
        for stream in (panel, weights, *self.streams):
            fetch_lines(b, stream)
