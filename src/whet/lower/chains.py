"""Chains: products over the same rows become one kernel, where their rows then stay in the caches.

A product joins the one before if it reads that one's result at its own rows only: as its broadcast
operand, as a 1x1 convolution behind another does, or element by element in its epilogue. What
nobody else reads is not stored. Each sum is added up as before, so that results stay the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from whet.index import Atom, Axis, IndexLike, Opaque, Poly, product, var
from whet.kernel.chain import Chain, Inner, inner_row
from whet.kernel.chain_schedule import Link, choose_block
from whet.kernel.expr import Expr, Read, rewrite_leaves, walk
from whet.kernel.schedule import Work
from whet.kernel.spec import Contraction, Param, Store
from whet.lower.joined import joined_roots
from whet.lower.rewrites import Rewrites
from whet.lower.select import KernelCall
from whet.lower.storage import Root, magnitude
from whet.program.records import BufferKind
from whet.target import Target

NAME = "chain_products"
REACH = 4
"""Launches in between that a product is moved in front of."""


class _Part(msgspec.Struct, frozen=True):
    """A contraction in a chain, its axes those of the chain's first part."""

    call: KernelCall
    kernel: Contraction

    @property
    def root(self) -> Root:
        """Where its result goes."""
        return self.call.roots[self.kernel.stores[0].param]


class Chaining(msgspec.Struct, frozen=True):
    """What decides which products are chained.

    Attributes:
        target: processor.
        threads: threads that share out the blocks.
        rewrites: how many products may join others.
    """

    target: Target
    threads: int
    rewrites: Rewrites


def chain_products(
    calls: Sequence[KernelCall], outputs: Iterable[Root], chaining: Chaining
) -> list[KernelCall]:
    """Return the kernels of a program with products chained where that is faster."""
    search = _Search(list(calls), {id(r) for r in outputs}, chaining)
    search.run()
    return search.calls


class _Search(msgspec.Struct):
    calls: list[KernelCall]
    outputs: set[int]
    chaining: Chaining

    def run(self) -> None:
        """Let products join the ones before, from the first to the last."""
        position = 0
        while position < len(self.calls):
            first = _part_of(self.calls[position])
            if first is not None:
                self._grow(position, [first])
            position += 1

    def _grow(self, position: int, parts: list[_Part]) -> None:
        """Take products behind a position into a chain that begins there."""
        rows: int | None = None
        after = position + 1
        while after < len(self.calls) and after <= position + REACH:
            grown = self._grown(parts, position, after)
            found = None if grown is None else self._block(grown)
            if grown is None or found is None or not self.chaining.rewrites.take(NAME):
                after += 1
                continue
            parts, rows = grown, found
            del self.calls[after]
        if rows is not None:
            self.calls[position] = _chain(parts, self._inner(parts), rows)

    def _grown(self, parts: list[_Part], position: int, after: int) -> list[_Part] | None:
        """Return a chain with one call more, if that reads what the chain makes and may move."""
        part = _part_of(self.calls[after])
        grown = None if part is None else _with_equal_axes(parts, part)
        if part is None or grown is None or not _reads_rows(grown):
            return None
        between = self.calls[position + 1 : after]
        touched = {id(r) for r in part.call.roots}
        blocked = any(id(r) in touched for call in between for r in _written(call))
        single = len(parts) > 1 or self._written_once(parts[0].root)
        return grown if single and not blocked and self._written_once(part.root) else None

    def _written_once(self, root: Root) -> bool:
        """Whether one kernel alone writes to some memory, as none does to parts of a whole."""
        return sum(root is r for call in self.calls for r in _written(call)) == 1

    def _block(self, parts: list[_Part]) -> int | None:
        links = [Link(_work(p.kernel), (p.kernel.tile.rows, p.kernel.tile.vectors)) for p in parts]
        return choose_block(links, self.chaining.target, self.chaining.threads)

    def _inner(self, parts: list[_Part]) -> list[Root]:
        """Return the results that nobody reads but the chain."""
        inside = {id(p.call) for p in parts}
        outside = (c for c in self.calls if id(c) not in inside)
        read = {id(r) for c in outside for r in c.roots} | self.outputs
        made = [p.root for p in parts[:-1]]
        return [r for r in made if id(r) not in read and r.kind is BufferKind.TEMP]


def _written(call: KernelCall) -> list[Root]:
    return [r for r, p in zip(call.roots, call.kernel.params, strict=True) if p.written]


def _part_of(call: KernelCall) -> _Part | None:
    """Return a kernel as a part, if it is a product with constant weights that all rows share."""
    kernel = call.kernel
    if not isinstance(kernel, Contraction) or len(kernel.stores) != 1:
        return None
    if any(x is not None for x in (kernel.dot, kernel.lines, kernel.gate, kernel.pairs)):
        return None
    known = (kernel.row.extent, kernel.col.extent, kernel.depth.extent)
    if any(p.constant is None for p in known) or not kernel.b.padded:
        return None
    if kernel.b.base.constant is None or kernel.a.dtype != "float32":
        return None
    indices = [*(a.address for a, _ in kernel.operands), kernel.stores[0].address]
    indices += [p for e in walk(kernel.stores[0].value) for p in e.indices()]
    if any(isinstance(a, Opaque) for p in indices for a in p.atoms):
        return None
    return _Part(call, kernel)


def _with_equal_axes(parts: list[_Part], part: _Part) -> list[_Part] | None:
    """Return the parts of a chain and one more over the same outer axes and rows."""
    aligned = _aligned(part, parts[0].kernel)
    if aligned is not None:
        return [*parts, aligned]
    first = _aligned(parts[0], part.kernel) if len(parts) == 1 else None
    return None if first is None else [first, part]


def _aligned(part: _Part, first: Contraction) -> _Part | None:
    """Return a part with the axes of the first one, if it has the same rows, perhaps merged."""
    kernel = part.kernel
    axes, wanted = (*kernel.outer, kernel.row), (*first.outer, first.row)
    moved: dict[Atom, IndexLike]
    if [a.extent for a in axes] == [a.extent for a in wanted]:
        moved = {a: var(w) for a, w in zip(axes, wanted, strict=True)}
    elif len(axes) == 1 and kernel.row.extent == product(a.extent for a in wanted):
        moved = {kernel.row: inner_row(first.outer, first.row)}
    else:
        return None
    store, second = kernel.stores[0], kernel.second
    if second is not None:
        second = replace(second, a=_moved(second.a, moved))
    aligned = replace(
        kernel,
        outer=first.outer,
        row=first.row,
        a=_moved(kernel.a, moved),
        second=second,
        bounds=tuple(c.substitute(moved) for c in kernel.bounds),
        edges=tuple(c.substitute(moved) for c in kernel.edges),
        stores=(
            Store(store.param, store.address.substitute(moved), store.value.substitute(moved)),
        ),
    )
    return _Part(part.call, aligned)


def _moved(read: Read, axes: dict[Atom, IndexLike]) -> Read:
    return Read(read.param, read.address.substitute(axes), read.dtype)


def _reads_rows(parts: Sequence[_Part]) -> bool:
    """Whether the last part reads what those before it made, and only of its own rows."""
    *before, part = parts
    made = {id(p.root): p for p in before}
    found = False
    for read, axis in _reads(part.kernel):
        source = made.get(id(part.call.roots[read.param]))
        if source is None:
            continue
        if axis is part.kernel.depth and part.kernel.second is not None:
            return False
        found = True
        if _column(read.address, axis, part.kernel) != _result(source.kernel):
            return False
        if axis.extent != source.kernel.col.extent:
            return False
    return found


def _reads(kernel: Contraction) -> list[tuple[Read, Axis]]:
    """Return what a product reads, with the axis that goes along the columns of the result."""
    epilogue = [e for e in walk(kernel.stores[0].value) if isinstance(e, Read)]
    operands = [(a, kernel.depth) for a, _ in kernel.operands]
    return [*operands, *((e, kernel.col) for e in epilogue)]


def _column(address: Poly, axis: Axis, kernel: Contraction) -> Poly:
    moved: dict[Atom, IndexLike] = {t: 0 for t in kernel.taps if t.extent == 1}
    moved[axis] = var(_any_column(axis.extent))
    return address.substitute(moved)


def _result(kernel: Contraction) -> Poly:
    address = kernel.stores[0].address
    return address.substitute({kernel.col: var(_any_column(kernel.col.extent))})


def _any_column(extent: Poly) -> Axis:
    return Axis("chain.column", extent)


def _work(kernel: Contraction) -> Work:
    depth = magnitude(kernel.depth.extent)
    return Work(
        outer=max(magnitude(product(a.extent for a in kernel.outer)), 1),
        rows=magnitude(kernel.row.extent),
        cols=magnitude(kernel.col.extent),
        reduction=depth * magnitude(product(t.extent for t in kernel.taps)),
        depth=depth,
        edges=bool(kernel.edges),
    )


# -- the kernel ------------------------------------------------------------------------------------


def _chain(parts: Sequence[_Part], inner: Sequence[Root], rows: int) -> KernelCall:
    """Return the kernel of a chain."""
    roots = joined_roots([p.call for p in parts], without=inner)
    written = {id(p.root) for p in parts}
    numbers = {id(r): k for k, r in enumerate((*roots, *inner))}
    width = {id(p.root): magnitude(p.kernel.col.extent) for p in parts}
    insides = {numbers[id(r)]: Inner(r.dtype, width[id(r)]) for r in inner}
    params = tuple(Param(r.dtype, id(r) in written) for r in (*roots, *inner))
    kernel = Chain(
        params[: len(roots)],
        tuple(insides[numbers[id(r)]] for r in inner),
        tuple(
            replace(
                _numbered(p.kernel, [numbers[id(r)] for r in p.call.roots], insides), params=params
            )
            for p in parts
        ),
        rows,
    )
    nodes = tuple(dict.fromkeys(n for p in parts for n in p.call.nodes))
    ops = tuple(o for p in parts for o in p.call.ops)
    flops = parts[0].call.flops
    for part in parts[1:]:
        flops = flops + part.call.flops
    return KernelCall(kernel, tuple(roots), nodes, ops, flops)


def _numbered(
    kernel: Contraction, numbers: Sequence[int], insides: dict[int, Inner]
) -> Contraction:
    """Return a part with the parameters of its chain, whole in depth."""
    row = inner_row(kernel.outer, kernel.row)

    def read(e: Read, axis: Axis) -> Read:
        number = numbers[e.param]
        inner = insides.get(number)
        address = e.address if inner is None else row * inner.stride + var(axis)
        return Read(number, address, e.dtype)

    def leaf(e: Expr) -> Expr:
        return read(e, kernel.col) if isinstance(e, Read) else e

    (store,), second = kernel.stores, kernel.second
    number = numbers[store.param]
    inner = insides.get(number)
    address = store.address if inner is None else row * inner.stride + var(kernel.col)
    stored = Store(number, address, rewrite_leaves(store.value, leaf))
    return replace(
        kernel,
        a=read(kernel.a, kernel.depth),
        second=None if second is None else replace(second, a=read(second.a, kernel.depth)),
        b=replace(kernel.b, param=numbers[kernel.b.param]),
        zeros=numbers[kernel.zeros] if kernel.zeros >= 0 else -1,
        stores=(stored,),
        tile=replace(kernel.tile, block=0),
    )
