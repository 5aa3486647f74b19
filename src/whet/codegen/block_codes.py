"""How a panel of weights in blocks is read: packed as it lies in memory, or unpacked before.

A register tile of few rows unpacks codes and scales as it multiplies. Where many tiles read the
same panel, a stretch of it is unpacked once: codes of 8 bits, scales and minimums in float32, in
the order in which tiles read them. Both give the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from whet.codegen.builder import F32, I32, Builder, Value, const, i64, vector
from whet.kernel.block_formats import GROUP, BlockFormat
from whet.kernel.blocks import CODE_WORDS, PANEL, period, record_bytes, super_bytes
from whet.kernel.schedule import LINE_BYTES

AHEAD = 2304
"""Bytes ahead of the codes in use that are fetched."""

QUAD_BYTES = 4 * PANEL
LOW_HALF = 0x0F0F0F0F


def unpacked_bytes(kind: BlockFormat) -> int:
    """Return the bytes of an unpacked group of a panel."""
    return PANEL * GROUP + 4 * PANEL * (kind.spans + kind.minimums)


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a panel that a register tile takes: some vectors from one on."""

    first: int
    width: int
    vectors: int

    @property
    def places(self) -> range:
        """First column of each vector."""
        return range(self.first, self.first + self.vectors * self.width, self.width)


@dataclass(frozen=True, slots=True)
class Scales:
    """What the sums of a group are multiplied by, and what is added, one for each vector."""

    scales: list[list[Value]]
    minimums: list[Value] | None


class PanelGroup(Protocol):
    """A group of a panel, as a register tile reads it."""

    def quads(self, span: int) -> Iterator[tuple[int, list[Value]]]:
        """Yield codes of four depth values of each lane, and which values they are."""

    def scales(self) -> Scales:
        """Return the scales of each span and the minimums."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A group as it lies in memory.

    Attributes:
        b: where code is written.
        kind: the format.
        columns: what is read of it.
        record: its first byte.
        factors: those of nested scales, then of nested minimums, for each vector.
    """

    b: Builder
    kind: BlockFormat
    columns: Columns
    record: Value
    factors: list[list[Value]]

    def fetch(self) -> None:
        """Fetch what comes some groups later."""
        ahead = self.b.gep(self.record, "i8", AHEAD)
        for line in range(-(-record_bytes(self.kind) // LINE_BYTES)):
            self.b.prefetch(self.b.gep(ahead, "i8", LINE_BYTES * line), level=1)

    def quads(self, span: int) -> Iterator[tuple[int, list[Value]]]:
        """Yield codes; those of 4 bits share bytes: quads ``q`` and ``q + 4``."""
        if self.kind.bits != 4:
            count = CODE_WORDS // self.kind.spans
            for quad in range(span * count, (span + 1) * count):
                yield quad, self._loaded(quad)
            return
        b, half = self.b, CODE_WORDS // 2
        for quad in range(half):
            loaded = self._loaded(quad)
            mask, four = (const(loaded[0].type, k) for k in (LOW_HALF, 4))
            yield quad, [b.binary("and", w, mask) for w in loaded]
            high = [b.binary("and", b.binary("lshr", w, four), mask) for w in loaded]
            yield quad + half, high

    def _loaded(self, quad: int) -> list[Value]:
        b, kind, type_ = self.b, self.kind, vector(I32, self.columns.width)
        head = record_bytes(kind) - PANEL * GROUP * kind.bits // 8 + QUAD_BYTES * quad
        places = (head + 4 * column for column in self.columns.places)
        return [b.load(type_, b.gep(self.record, "i8", place)) for place in places]

    def scales(self) -> Scales:
        """Return the scales of each span and the minimums, in float32."""
        b, kind = self.b, self.kind
        size = PANEL * (1 if kind.nested else 2)
        places = [b.gep(self.record, "i8", size * k) for k in range(kind.spans + kind.minimums)]
        if not kind.nested:
            found = [_halves(b, place, self.columns) for place in places]
        else:
            found = [self._nested(place, k) for k, place in enumerate(places)]
        return Scales(found[: kind.spans], found[kind.spans] if kind.minimums else None)

    def _nested(self, place: Value, number: int) -> list[Value]:
        b, width = self.b, self.columns.width
        opcode = "zext" if self.kind.minimums else "sext"
        found = []
        factors = self.factors[max(0, number - self.kind.spans + 1)]
        for column, factor in zip(self.columns.places, factors, strict=True):
            small = b.load(vector("i8", width), b.gep(place, "i8", column))
            wide = b.cast(opcode, small, vector(I32, width))
            found.append(b.binary("fmul", factor, b.cast("sitofp", wide, vector(F32, width))))
        return found


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A group that ``unpack`` wrote."""

    b: Builder
    kind: BlockFormat
    columns: Columns
    record: Value

    def quads(self, span: int) -> Iterator[tuple[int, list[Value]]]:
        """Yield codes."""
        count = CODE_WORDS // self.kind.spans
        for quad in range(span * count, (span + 1) * count):
            yield quad, self._vectors(I32, QUAD_BYTES * quad)

    def scales(self) -> Scales:
        """Return the scales of each span and the minimums."""
        kind = self.kind
        found = [
            self._vectors(F32, PANEL * GROUP + 4 * PANEL * k)
            for k in range(kind.spans + kind.minimums)
        ]
        return Scales(found[: kind.spans], found[kind.spans] if kind.minimums else None)

    def _vectors(self, element: str, place: int) -> list[Value]:
        b, type_ = self.b, vector(element, self.columns.width)
        places = (place + 4 * column for column in self.columns.places)
        return [b.load(type_, b.gep(self.record, "i8", at), 4) for at in places]


def unpack(group: Packed, output: Value) -> None:
    """Write a group unpacked."""
    b, kind, columns = group.b, group.kind, group.columns
    group.fetch()
    shares = 1 if kind.bits == 4 else kind.spans
    for span in range(shares):
        for quad, vectors in group.quads(span):
            _store(b, vectors, b.gep(output, "i8", QUAD_BYTES * quad), columns)
    found = group.scales()
    floats = [*found.scales, *([] if found.minimums is None else [found.minimums])]
    for k, line in enumerate(floats):
        _store(b, line, b.gep(output, "i8", PANEL * GROUP + 4 * PANEL * k), columns)


def _store(b: Builder, vectors: list[Value], place: Value, columns: Columns) -> None:
    for value, column in zip(vectors, columns.places, strict=True):
        b.store(value, b.gep(place, "i8", 4 * column), 4)


def each_group(
    b: Builder,
    kind: BlockFormat,
    panel: Value,
    part: tuple[Value, Value],
    columns: Columns,
    body: Callable[[Value, Packed], None],
) -> None:
    """Write a loop over some groups of a panel, by number and as they lie in memory.

    Args:
        b: where code is written.
        kind: the format.
        panel: the panel's first byte.
        part: the first group and the one behind the last, multiples of ``period(kind)``.
        columns: what is read of them.
        body: writes what is done with a group.
    """
    every, record = period(kind), record_bytes(kind)
    first, last = (b.divide(number, every)[0] for number in part)
    with b.loop(first, last, hint="super") as number:
        step = every * record + super_bytes(kind)
        head = b.gep(panel, "i8", b.mul(number, i64(step)))
        factors = _factors(b, kind, head, columns)
        base = b.gep(head, "i8", super_bytes(kind))
        if every == 1:
            body(number, Packed(b, kind, columns, base, factors))
            return
        with b.loop(i64(0), i64(every), hint="group") as inner:
            here = b.gep(base, "i8", b.mul(inner, i64(record)))
            group = b.add(b.mul(number, i64(every)), inner)
            body(group, Packed(b, kind, columns, here, factors))


def _factors(b: Builder, kind: BlockFormat, head: Value, columns: Columns) -> list[list[Value]]:
    """Return the factors of nested scales, then of nested minimums, for each vector."""
    count = 1 + kind.minimums if kind.nested else 0
    return [_halves(b, b.gep(head, "i8", 2 * PANEL * part), columns) for part in range(count)]


def _halves(b: Builder, place: Value, columns: Columns) -> list[Value]:
    """Load 16-bit floats as 32-bit ones."""
    half, wide = (vector(t, columns.width) for t in ("half", F32))
    loads = (b.load(half, b.gep(place, "half", column)) for column in columns.places)
    return [b.cast("fpext", loaded, wide) for loaded in loads]
