"""Chains of contractions: all parts do one block of rows before any does the next."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from whet.codegen.kinds.chain_streams import flows_of, spread
from whet.codegen.kinds.contraction import contraction_writer
from whet.codegen.kinds.fetching import Stream
from whet.codegen.kinds.kernel_function import accesses_of, bind_flat, frame_of, open_function
from whet.codegen.writing.builder import PTR, Module, Value, i64
from whet.codegen.writing.frame import Frame
from whet.dtypes import DTYPES
from whet.index import Atom, Axis, IndexLike, Poly, as_poly, ceil_div, product, var
from whet.kernel.chain import Chain
from whet.kernel.expr import Expr, Read, rewrite_leaves
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.spec import Contraction, Param, Store
from whet.target import Target


def chain_chunks(kernel: Chain, lanes: int) -> Poly:
    """Return the number of chunks of a chain: blocks of rows at all points of the outer axes."""
    first = kernel.parts[0]
    return product(a.extent for a in first.outer) * ceil_div(first.row.extent, kernel.rows)


def chain_scratch(kernel: Chain, lanes: int) -> int:
    """Return the bytes of scratch that one thread needs: a block of each inner result."""
    return sum(_inner_bytes(kernel))


def _inner_bytes(kernel: Chain) -> list[int]:
    return [
        -(-kernel.rows * inner.stride * DTYPES[inner.dtype].size // LINE_BYTES) * LINE_BYTES
        for inner in kernel.inner
    ]


def write_chain(
    module: Module, name: str, kernel: Chain, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a chain."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    b, params = fn.b, list(fn.params)
    offset = 0
    for size in _inner_bytes(kernel):
        params.append(b.gep(fn.scratch, "i8", offset))
        offset += size
    fn = replace(fn, params=params)
    first = kernel.parts[0]
    start = Axis("chain.start", first.row.extent)
    parts = [_of_block(part, kernel, start) for part in kernel.parts]
    kinds = (*kernel.params, *(Param(i.dtype, written=True) for i in kernel.inner))
    frame = frame_of(fn, kinds, _accesses(parts))
    flows = spread(flows_of(parts, len(kernel.params), kernel.rows), parts, target.lanes)
    streams = [[(f, Stream(b.alloca(PTR), n, f.writes)) for f, n in own] for own in flows]
    writers = [
        contraction_writer(part, fn, target, tuple(s for _, s in own))
        for part, own in zip(parts, streams, strict=True)
    ]
    with b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        inner = _at_block(frame, kernel, start, chunk)
        after = inner.bind(parts[0].row, i64(kernel.rows))
        for own in streams:
            for flow, stream in own:
                at = after.bind(flow.along.axis, i64(flow.along.begin)).pointers[flow.access][0]
                b.store(at, stream.cursor, 8)
        for writer in writers:
            writer.all_rows(inner)
    b.finish()


def _accesses(parts: Iterable[Contraction]) -> list[tuple[int, Poly]]:
    found: dict[tuple[int, Poly], None] = {}
    for part in parts:
        found.update(dict.fromkeys(accesses_of((a for a, _ in part.operands), part.stores)))
    return list(found)


def _at_block(frame: Frame, kernel: Chain, start: Axis, chunk: Value) -> Frame:
    """Return the frame of a block; the last begins early enough to be whole.

    Rows that two blocks share are computed twice, to the same bits.
    """
    b, first = frame.b, kernel.parts[0]
    rows = first.row.extent.constant
    assert rows is not None and rows >= kernel.rows, "rows of a chain are known"
    point, block = b.divide(chunk, -(-rows // kernel.rows))
    row = b.min(b.mul(block, i64(kernel.rows)), i64(rows - kernel.rows))
    return bind_flat(frame, first.outer, point).bind(start, row)


def _of_block(part: Contraction, kernel: Chain, start: Axis) -> Contraction:
    """Return a part as a contraction over the rows of a block, which begins at ``start``.

    Inner results are addressed from the block's first row.
    """
    row = Axis("chain.row", as_poly(kernel.rows))
    outside: dict[Atom, IndexLike] = {part.row: var(start) + var(row)}
    inside: dict[Atom, IndexLike] = {**dict.fromkeys(part.outer, 0), part.row: var(row)}
    first_inner = len(kernel.params)

    def at(param: int, address: Poly) -> Poly:
        return address.substitute(inside if param >= first_inner else outside)

    def read(e: Read) -> Read:
        return Read(e.param, at(e.param, e.address), e.dtype)

    def leaf(e: Expr) -> Expr:
        return read(e) if isinstance(e, Read) else e

    def store(s: Store) -> Store:
        value = rewrite_leaves(s.value, leaf).substitute(outside)
        return Store(s.param, at(s.param, s.address), value)

    second = part.second
    return replace(
        part,
        outer=(),
        row=row,
        a=read(part.a),
        second=None if second is None else replace(second, a=read(second.a)),
        edges=tuple(c.substitute(outside) for c in part.edges),
        stores=tuple(map(store, part.stores)),
    )
