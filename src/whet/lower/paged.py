"""Attention over pages: from its equation to its kernel."""

from __future__ import annotations

from whet.index import Poly
from whet.kernel.expr import Expr, Load
from whet.kernel.paged import COLUMNS, PagedAttend, PagedAttention, Pages, QueryPart
from whet.kernel.spec import Store
from whet.kernel.tensor import Definition, Tensor
from whet.lower.pieces import pieces_of
from whet.lower.storage import Params, Storage, Storages, address_of, to_reads
from whet.target import Target

WIDE_LANES = 16


def build_paged(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[PagedAttention, Params]:
    """Return the kernel of an attention over pages, and its parameters."""
    anchor = definition.anchor
    assert isinstance(anchor, PagedAttend) and not definition.index
    params = Params()
    output = params.write(storage.root)
    store = Store(output, address_of(definition.position, storage), definition.body)
    queries = _queries(anchor, to_reads(anchor.q, storages, params))

    def number(load: Expr) -> int:
        assert isinstance(load, Load), "pools and tables are read in place"
        return params.number(storages[id(load.source)].root)

    token, head, col = anchor.axes
    pool, tables = _shape(anchor.keys), _shape(anchor.tables)
    heads, columns = pool[1].constant, col.extent.constant
    assert heads is not None and columns is not None and head.extent.constant is not None
    pages = Pages(
        tiles=number(anchor.tiles),
        tables=number(anchor.tables),
        keys=number(anchor.keys),
        values=number(anchor.values),
        tile_count=_shape(anchor.tiles)[0],
        sequences=tables[0],
        width=tables[1],
        pool=pool[0],
        heads=heads,
        padded=-(-columns // COLUMNS) * COLUMNS,
        scales=tuple(number(scale) for scale in anchor.scales),
    )
    kernel = PagedAttention(
        params=params.records(),
        token=token,
        head=head,
        depth=anchor.depth,
        col=col,
        queries=queries,
        pages=pages,
        weighing=anchor.weighing,
        store=store,
        group=head.extent.constant // heads,
        rows=8 if target.lanes >= WIDE_LANES else 4,
    )
    return kernel, params


def _queries(anchor: PagedAttend, q: Expr) -> tuple[QueryPart, ...]:
    """Return the parts of the queries, cut where a concatenation goes to its next part."""
    pieces = pieces_of(anchor.depth, q)
    assert pieces is not None, "queries are legal here"
    return tuple(
        QueryPart(p.first, p.axis, tuple(q.substitute(p.points(t)) for t in range(p.step)))
        for p in pieces
    )


def _shape(load: Expr) -> tuple[Poly, ...]:
    assert isinstance(load, Load), "pools and tables are read in place"
    source: Tensor = load.source
    return source.shape
