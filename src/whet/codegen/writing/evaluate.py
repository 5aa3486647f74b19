"""Expressions to instructions: one point, or one vector of points, of a loop nest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from whet.codegen.writing.builder import I1, PTR, Builder, Value, const, i64, lanes, vector
from whet.codegen.writing.byte_table import byte_looked_up, looked_up
from whet.codegen.writing.conversions import from_storage, literal, storage_type, to_storage
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.index_value import index_value
from whet.codegen.writing.operations import apply
from whet.codegen.writing.transpose import every_other
from whet.index import Atom, Axis, Dim, Opaque, Poly
from whet.kernel.expr import Call, Const, Expr, Guard, IndexValue, Read, Var, Within, all_atoms
from whet.kernel.spec import Store


class Point(msgspec.Struct):
    """Where an expression is evaluated.

    Attributes:
        frame: axis values and pointers.
        axis: the axis in lanes, or ``None`` for a scalar point.
        width: number of lanes.
        mask: which lanes exist; ``None`` means all.
        shift: constant offsets of axes from their value in the frame.
        names: values of ``Var`` nodes.
        safe: guards that are known to hold here.
        partial: the mask comes from a guard, so that even all lanes may be missing.
    """

    frame: Frame
    axis: Axis | None = None
    width: int = 1
    mask: Value | None = None
    shift: Mapping[Axis, int] = msgspec.field(default_factory=dict)
    names: Mapping[str, Value] = msgspec.field(default_factory=dict)
    safe: bool = False
    partial: bool = False
    memo: dict[Expr, Value] = msgspec.field(default_factory=dict)

    @property
    def b(self) -> Builder:
        """The builder that instructions go to."""
        return self.frame.b

    def scalar(self, expr: Expr) -> Value:
        """Return an expression's value: a scalar where it is the same in every lane."""
        known = self.memo.get(expr)
        if known is None:
            known = self._write(expr)
            self.memo[expr] = known
        return known

    def value(self, expr: Expr) -> Value:
        """Return an expression's value in every lane."""
        return self.b.splat(self.scalar(expr), self.width)

    def store(self, store: Store) -> None:
        """Write a store, masked if some lanes do not exist."""
        dtype = self.frame.dtypes[store.param]
        value = to_storage(self.b, self.value(store.value), dtype)
        pointer, offset = self._locate(store.param, store.address)
        if isinstance(offset, Value):
            mask = self.mask or const(vector(I1, self.width), 1)
            self.b.scatter(value, self._pointers(pointer, offset, dtype), mask)
        elif self.mask is not None:
            self.b.masked_store(value, pointer, self.mask)
        else:
            self.b.store(value, pointer)

    def place(self, store: Store) -> Value:
        """Return the address of the first lane of a store whose lanes lie in a row."""
        pointer, offset = self._locate(store.param, store.address)
        assert offset == 1, "lanes are neighbours"
        return pointer

    def fetch(self, read: Read, *, level: int = 2) -> None:
        """Bring the first lane of a read into the cache of a level, if lanes lie in a row."""
        pointer, offset = self._locate(read.param, read.address)
        if offset == 1:
            self.b.prefetch(pointer, level=level)

    def _write(self, expr: Expr) -> Value:
        if isinstance(expr, Const):
            return literal(expr.dtype, expr.value)
        if isinstance(expr, Var):
            return self.names[expr.name]
        if isinstance(expr, IndexValue):
            return self._index_value(expr)
        if isinstance(expr, Read):
            return self._read(expr)
        if isinstance(expr, Guard):
            return self._guard(expr)
        assert isinstance(expr, Call), f"{type(expr).__name__} is not for code generation"
        args = [self.scalar(a) for a in expr.args]
        count = max(lanes(a.type) for a in args)
        wide = [self.b.splat(a, count) for a in args]
        return apply(self.b, expr.op, wide, [a.dtype for a in expr.args], expr.dtype)

    def _index_value(self, expr: IndexValue) -> Value:
        index = self.index(expr.index)
        return apply(self.b, "cast", [index], ["int64"], expr.dtype)

    def pointer(self, read: Read) -> Value:
        """Return the address of a scalar read."""
        pointer, offset = self._locate(read.param, read.address)
        assert offset == 0, "lanes read different elements"
        return pointer

    def looked_up(self, read: Read, places: Value) -> Value:
        """Return the bytes of a table at places that are bytes too."""
        return looked_up(self.b, self.frame.pointers[(read.param, read.address)][0], places)

    # -- memory ------------------------------------------------------------------------------

    def _read(self, read: Read) -> Value:
        """Load the lanes that exist; the others are zero."""
        b = self.b
        kind = storage_type(read.dtype)
        byte = byte_looked_up(read)
        if byte is not None and b.byte_tables and self.width > 1:
            return from_storage(b, self.looked_up(read, self.value(byte)), read.dtype)
        pointer, offset = self._locate(read.param, read.address)
        if self.mask is None and offset == b.iota(self.width, 2):
            loaded = every_other(b, vector(kind, self.width), pointer)
        elif isinstance(offset, Value):
            mask = self.mask or const(vector(I1, self.width), 1)
            blank = const(vector(kind, self.width), 0)
            places = self._pointers(pointer, offset, read.dtype)
            loaded = b.gather(vector(kind, self.width), places, mask, blank)
        elif offset == 0:
            loaded = self._uniform(kind, pointer)
        else:
            loaded = self._contiguous(kind, pointer)
        return from_storage(b, loaded, read.dtype)

    def _uniform(self, kind: str, pointer: Value) -> Value:
        """Load what all lanes share, if a guard lets any lane read it."""
        b = self.b
        if not self.partial or self.mask is None:
            return b.load(kind, pointer)
        bits = b.op(f"bitcast {self.mask} to i{self.width}", f"i{self.width}")
        some = b.icmp("ne", bits, const(bits.type, 0))
        return self._where(some, lambda: b.load(kind, pointer))

    def _contiguous(self, kind: str, pointer: Value) -> Value:
        type_ = vector(kind, self.width)
        if self.mask is None:
            return self.b.load(type_, pointer)
        return self.b.masked_load(type_, pointer, self.mask, const(type_, 0))

    def _pointers(self, pointer: Value, offset: Value, dtype: str) -> Value:
        kind = storage_type(dtype)
        return self.b.op(
            f"getelementptr {kind}, ptr {pointer.text}, {offset}", vector(PTR, self.width)
        )

    def _locate(self, param: int, address: Poly) -> tuple[Value, Value | int]:
        """Return a pointer and how lanes lie: 0 all at it, 1 in a row, or a vector of offsets."""
        b = self.b
        pointer, rest = self.frame.pointers[(param, address)]
        kind = storage_type(self.frame.dtypes[param])
        for axis, amount in self.shift.items():
            if amount and address.is_affine_in(axis) and axis not in rest.atoms:
                stride = self.frame.scalar_index(address.coefficient(axis))
                pointer = b.gep(pointer, kind, b.mul(stride, i64(amount)))
        offset: Value | int = 0
        if self.axis is not None and self.axis not in all_atoms(rest):
            offset = self._lane_stride(address)
        if rest.terms:
            index = self.index(rest)
            if lanes(index.type) == 1 and not isinstance(offset, Value):
                return b.gep(pointer, kind, index), offset
            base = b.splat(index, self.width)
            if not isinstance(offset, Value) and offset == 1:
                offset = b.iota(self.width)
            return pointer, b.binary("add", base, offset) if isinstance(offset, Value) else base
        return pointer, offset

    def _lane_stride(self, address: Poly) -> Value | int:
        assert self.axis is not None
        stride = address.coefficient(self.axis)
        if stride.constant in (0, 1):
            return int(stride.constant or 0)
        if stride.constant is not None:
            return self.b.iota(self.width, stride.constant)
        wide = self.b.splat(self.frame.scalar_index(stride), self.width)
        return self.b.binary("mul", self.b.iota(self.width), wide)

    # -- indices and guards ------------------------------------------------------------------

    def index(self, p: Poly) -> Value:
        """Return an index as a 64-bit integer, or a vector of them if lanes differ."""
        return index_value(self.b, p, self._atom)

    def _atom(self, atom: Atom) -> Value:
        b = self.b
        if isinstance(atom, Dim):
            return self.frame.dims[atom.name]
        if isinstance(atom, Opaque):
            return self._opaque(atom)
        assert isinstance(atom, Axis)
        value = b.add(self.frame.env[atom], i64(self.shift.get(atom, 0)))
        if atom == self.axis:
            return b.binary("add", b.splat(value, self.width), b.iota(self.width))
        return value

    def _opaque(self, atom: Opaque) -> Value:
        """Return a data-dependent index, clamped to its range so that no value reads outside."""
        b = self.b
        raw = self.scalar(atom.expr)
        index = apply(b, "cast", [raw], [atom.expr.dtype], "int64")
        if atom.high is not None:
            top = b.splat(b.add(self.frame.scalar_index(atom.high), i64(-1)), lanes(index.type))
            index = b.max(b.min(index, top), const(index.type, 0))
        return index

    def _guard(self, expr: Guard) -> Value:
        if self.safe:
            return self.scalar(expr.then)
        keep = self.holds(expr.conditions)
        if lanes(keep.type) > 1 and self.mask is None and self._is_straight(expr.conditions):
            return self._guard_by_vector(expr, keep)
        then = self.guarded(expr.then, keep)
        other = self.scalar(expr.otherwise)
        count = max(lanes(then.type), lanes(other.type), lanes(keep.type))
        b = self.b
        return b.select(b.splat(keep, count), b.splat(then, count), b.splat(other, count))

    def _is_straight(self, conditions: tuple[Within, ...]) -> bool:
        """Whether all lanes are inside as soon as the first and the last are."""
        axis = self.axis
        return axis is not None and all(
            c.index.is_affine_in(axis) and axis not in c.extent.atoms for c in conditions
        )

    def _guard_by_vector(self, expr: Guard, keep: Value) -> Value:
        """Evaluate without masks where a whole vector is inside, else lane by lane."""
        b, axis = self.b, self.axis
        assert axis is not None
        ends = [
            Point(self.frame, shift={**self.shift, axis: self.shift.get(axis, 0) + k})
            for k in (0, self.width - 1)
        ]
        first, last = (p.holds(expr.conditions) for p in ends)
        yes, no, done = b.label("whole"), b.label("parts"), b.label("vector")
        b.branch(b.binary("and", first, last), yes, no)
        b.start(yes)
        plain = replace(self, memo={}).value(expr.then)
        whole = b.block
        b.jump(done)
        b.start(no)
        then = b.splat(self.guarded(expr.then, keep), self.width)
        mixed = b.select(keep, then, replace(self, memo={}).value(expr.otherwise))
        parts = b.block
        b.jump(done)
        b.start(done)
        return b.op(
            f"phi {plain.type} [ {plain.text}, %{whole} ], [ {mixed.text}, %{parts} ]", plain.type
        )

    def holds(self, conditions: tuple[Within, ...]) -> Value:
        """Return whether all conditions hold, as ``i1`` or a vector of it."""
        b = self.b
        result: Value | None = None
        for condition in conditions:
            index = self.index(condition.index)
            extent = b.splat(self.frame.scalar_index(condition.extent), lanes(index.type))
            inside = b.icmp("ult", index, extent)
            if result is None:
                result = inside
                continue
            count = max(lanes(result.type), lanes(inside.type))
            result = b.binary("and", b.splat(result, count), b.splat(inside, count))
        assert result is not None
        return result

    def guarded(self, expr: Expr, keep: Value) -> Value:
        """Evaluate an expression without reading memory where ``keep`` fails."""
        inner = replace(self, memo={}, safe=False)
        if lanes(keep.type) > 1:
            inner.mask = keep if self.mask is None else self.b.binary("and", self.mask, keep)
            inner.partial = True
            return inner.scalar(expr)
        return self._where(keep, lambda: inner.scalar(expr))

    def _where(self, keep: Value, write: Callable[[], Value]) -> Value:
        """Write instructions in a branch of their own; zero where the branch is not taken."""
        b = self.b
        before, yes, done = b.block, b.label("g"), b.label("gx")
        b.branch(keep, yes, done)
        b.start(yes)
        value = write()
        last = b.block
        b.jump(done)
        b.start(done)
        zero = const(value.type, 0).text if lanes(value.type) == 1 else "zeroinitializer"
        return b.op(
            f"phi {value.type} [ {value.text}, %{last} ], [ {zero}, %{before} ]", value.type
        )
