"""A small writer of LLVM IR text: values, instructions, loops and functions.

Text is quick to write, easy to read in a dump, and the same for every llvmlite release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from whet.codegen.writing.number_text import number_text

I1, I32, I64, PTR, F32, F64 = "i1", "i32", "i64", "ptr", "float", "double"


class Value(NamedTuple):
    """An SSA value or a constant: its text and its LLVM type."""

    text: str
    type: str

    def __str__(self) -> str:
        return f"{self.type} {self.text}"

    @property
    def known(self) -> int | None:
        """The value of an integer constant, ``None`` for everything else."""
        return int(self.text) if self.text.lstrip("-").isdigit() else None


def vector(type_: str, lanes: int) -> str:
    """Return the LLVM type of ``lanes`` elements; one lane is the scalar itself."""
    return type_ if lanes == 1 else f"<{lanes} x {type_}>"


def element(type_: str) -> str:
    """Return the element type of a vector type, or the scalar type itself."""
    return type_[1:-1].split(" x ")[1] if type_.startswith("<") else type_


def lanes(type_: str) -> int:
    """Return the number of lanes of a type."""
    return int(type_[1:].split(" x ")[0]) if type_.startswith("<") else 1


def _suffix(type_: str) -> str:
    names = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16", "ptr": "p0"}
    count, inner = lanes(type_), element(type_)
    return (f"v{count}" if count > 1 else "") + names.get(inner, inner)


def _first_alone(mask: Value) -> bool:
    """Whether a mask is known to have its first bit set and no other."""
    bits = mask.text.strip("<>").split(", ")
    return bits[0] == "i1 true" and bits.count("i1 false") == len(bits) - 1


def const(type_: str, number: float | int | bool) -> Value:
    """Return a constant of a scalar type, or a splat of a vector type."""
    inner = element(type_)
    text = number_text(number, inner)
    return Value(text if inner == type_ else f"splat ({inner} {text})", type_)


def i64(number: int) -> Value:
    """Return a 64-bit integer constant."""
    return Value(str(number), I64)


class Module:
    """Collects function texts and the intrinsics that they call."""

    def __init__(self) -> None:
        self._functions: list[str] = []
        self._globals: list[str] = []
        self._declared: dict[str, str] = {}

    def declare(self, name: str, signature: str) -> None:
        """Declare an outside function or intrinsic once."""
        self._declared.setdefault(name, signature)

    def add(self, text: str) -> None:
        """Append the text of a finished function."""
        self._functions.append(text)

    def constant(self, text: str) -> str:
        """Add a private constant, given as ``[n x type] [...]``; equal texts share one name."""
        name = f"@.c{len(self._globals)}"
        line = f"= private unnamed_addr constant {text}, align 64"
        for known in self._globals:
            if known.endswith(line):
                return known.split(" ", 1)[0]
        self._globals.append(f"{name} {line}")
        return name

    def text(self) -> str:
        """Return the whole module as LLVM IR."""
        return "\n".join([*self._globals, *self._declared.values(), *self._functions]) + "\n"


class Builder:
    """Writes one function, instruction by instruction.

    Attributes:
        narrow: bits in memory that values came from, by the values' names, where LLVM cannot know
            that narrowing them again gives the same.
        flushes: whether floats become bfloat16 by an instruction that may make subnormal numbers 0.
        byte_tables: whether bytes are looked up by an instruction.
        halves: whether vectors of 64 bytes are stored to scratch in halves.
    """

    def __init__(
        self, module: Module, name: str, params: list[tuple[str, str]], returns: str = "void"
    ) -> None:
        self.module = module
        self._name = name
        self._params = params
        self._returns = returns
        self._entry: list[str] = []
        self._lines: list[str] = []
        self._count = 0
        self.block = "body"
        self.narrow: dict[str, Value] = {}
        self.flushes = False
        self.byte_tables = False
        self.halves = False

    # -- structure ---------------------------------------------------------------------------

    def param(self, index: int) -> Value:
        """Return a parameter as a value."""
        type_, name = self._params[index]
        return Value(f"%{name}", type_.split(" ", 1)[0])

    def line(self, text: str) -> None:
        """Write one instruction that has no result."""
        self._lines.append("  " + text)

    def op(self, text: str, type_: str) -> Value:
        """Write one instruction and return its result."""
        self._count += 1
        name = f"%v{self._count}"
        self._lines.append(f"  {name} = {text}")
        return Value(name, type_)

    def label(self, hint: str) -> str:
        """Return a fresh block name."""
        self._count += 1
        return f"{hint}{self._count}"

    def start(self, label: str) -> None:
        """Begin a block."""
        self._lines.append(f"{label}:")
        self.block = label

    def jump(self, label: str) -> None:
        """Branch to a block."""
        self.line(f"br label %{label}")

    def branch(self, condition: Value, yes: str, no: str) -> None:
        """Branch on an ``i1``."""
        self.line(f"br i1 {condition.text}, label %{yes}, label %{no}")

    @contextmanager
    def loop(self, low: Value, high: Value, step: int = 1, hint: str = "l") -> Iterator[Value]:
        """Count from ``low`` while below ``high``; yields the counter. Bottom-tested.

        The test stands in the last block of the body: in front of a block of its own, LLVM moves
        what is only used behind the loop there, and loses the order in which it was written.
        """
        body, done = self.label(hint), self.label(hint + "x")
        if low.known is not None and high.known is not None:
            if low.known >= high.known:
                self.jump(done)
                self.start(self.label("dead"))
                before = self.block
                self.jump(body)
            else:
                before = self.block
                self.jump(body)
        else:
            guard = self.icmp("slt", low, high)
            before = self.block
            self.branch(guard, body, done)
        self.start(body)
        counter, following = Value(f"%{body}.i", I64), Value(f"%{body}.n", I64)
        place = len(self._lines)
        self.line("")
        yield counter
        starts = f"[ {low.text}, %{before} ]"
        goes_on = f"[ {following.text}, %{self.block} ]"
        self._lines[place] = f"  {counter.text} = phi i64 {starts}, {goes_on}"
        self.line(f"{following.text} = add nsw i64 {counter.text}, {step}")
        again = self.icmp("slt", following, high)
        self.branch(again, body, done)
        self.start(done)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Run the body only if the condition holds."""
        yes, done = self.label("t"), self.label("e")
        self.branch(condition, yes, done)
        self.start(yes)
        yield
        self.jump(done)
        self.start(done)

    def either(self, condition: Value, yes: Callable[[], None], no: Callable[[], None]) -> None:
        """Run one of two bodies."""
        labels, done = (self.label("yes"), self.label("no")), self.label("both")
        self.branch(condition, *labels)
        for label, body in zip(labels, (yes, no), strict=True):
            self.start(label)
            body()
            self.jump(done)
        self.start(done)

    def finish(self, result: Value | None = None) -> None:
        """Return from the function and hand its text to the module."""
        self.line(f"ret {result}" if result else "ret void")
        params = ", ".join(f"{type_} %{name}" for type_, name in self._params)
        head = f"define {self._returns} @{self._name}({params}) nounwind {{"
        entry = ["entry:", *self._entry, "  br label %body", "body:"]
        self.module.add("\n".join([head, *entry, *self._lines, "}"]))

    # -- memory ------------------------------------------------------------------------------

    def alloca(self, type_: str) -> Value:
        """Reserve stack space in the entry block."""
        self._count += 1
        name = f"%a{self._count}"
        self._entry.append(f"  {name} = alloca {type_}, i64 1, align 64")
        return Value(name, PTR)

    def gep(self, pointer: Value, type_: str, index: Value | int) -> Value:
        """Advance a pointer by ``index`` elements of a type."""
        position = i64(index) if isinstance(index, int) else index
        if position.text == "0":
            return pointer
        return self.op(f"getelementptr {type_}, ptr {pointer.text}, {position}", PTR)

    def load(self, type_: str, pointer: Value, align: int = 1) -> Value:
        """Load a value."""
        return self.op(f"load {type_}, ptr {pointer.text}, align {align}", type_)

    def store(self, value: Value, pointer: Value, align: int = 1) -> None:
        """Store a value."""
        self.line(f"store {value}, ptr {pointer.text}, align {align}")

    def prefetch(self, pointer: Value, *, level: int = 2, writes: bool = False) -> None:
        """Bring a cache line into the cache of a level, 1 or 2, for reading or for writing."""
        self.module.declare(
            "llvm.prefetch.p0", "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"
        )
        what = f"i32 {int(writes)}, i32 {4 - level}, i32 1"
        self.line(f"call void @llvm.prefetch.p0({pointer}, {what})")

    def barrier(self) -> None:
        """Keep what is loaded and stored in front of here, and behind; takes no instruction."""
        self.line('call void asm sideeffect "", "~{memory}"()')

    def masked_load(
        self, type_: str, pointer: Value, mask: Value, other: Value, align: int = 1
    ) -> Value:
        """Load the lanes whose mask bit is set; the rest come from ``other``."""
        name = f"llvm.masked.load.{_suffix(type_)}.p0"
        self.module.declare(name, f"declare {type_} @{name}(ptr, {mask.type}, {type_})")
        return self.op(
            f"call {type_} @{name}(ptr align {align} {pointer.text}, {mask}, {other})", type_
        )

    def masked_store(self, value: Value, pointer: Value, mask: Value, align: int = 1) -> None:
        """Store the lanes whose mask bit is set.

        A single lane is stored as a scalar: LLVM 22 makes that of it too, but of the type that the
        value had before a ``trunc``, and so writes behind the lane.
        """
        if _first_alone(mask):
            self.store(self.extract(value, 0), pointer, align)
            return
        name = f"llvm.masked.store.{_suffix(value.type)}.p0"
        self.module.declare(name, f"declare void @{name}({value.type}, ptr, {mask.type})")
        self.line(f"call void @{name}({value}, ptr align {align} {pointer.text}, {mask})")

    def gather(self, type_: str, pointers: Value, mask: Value, other: Value) -> Value:
        """Load one element per lane from a vector of pointers."""
        name = f"llvm.masked.gather.{_suffix(type_)}.v{lanes(type_)}p0"
        self.module.declare(name, f"declare {type_} @{name}({pointers.type}, {mask.type}, {type_})")
        return self.op(f"call {type_} @{name}({pointers}, {mask}, {other})", type_)

    def scatter(self, value: Value, pointers: Value, mask: Value) -> None:
        """Store one element per lane to a vector of pointers."""
        name = f"llvm.masked.scatter.{_suffix(value.type)}.v{lanes(value.type)}p0"
        self.module.declare(
            name, f"declare void @{name}({value.type}, {pointers.type}, {mask.type})"
        )
        self.line(f"call void @{name}({value}, {pointers}, {mask})")

    # -- arithmetic --------------------------------------------------------------------------

    def binary(self, opcode: str, a: Value, b: Value) -> Value:
        """Write a two-operand instruction, such as ``fadd`` or ``add nsw``."""
        return self.op(f"{opcode} {a}, {b.text}", a.type)

    def add(self, a: Value, b: Value) -> Value:
        """Add 64-bit integers, folding constants."""
        if a.known is not None and b.known is not None:
            return i64(a.known + b.known)
        if a.text == "0":
            return b
        return a if b.text == "0" else self.binary("add nsw", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        """Multiply 64-bit integers, folding constants."""
        if a.known is not None and b.known is not None:
            return i64(a.known * b.known)
        if a.text == "1":
            return b
        return a if b.text == "1" else self.binary("mul nsw", a, b)

    def divide(self, a: Value, by: int) -> tuple[Value, Value]:
        """Return quotient and rest of a 64-bit integer that is not negative, folding constants."""
        if a.known is not None:
            return i64(a.known // by), i64(a.known % by)
        return self.binary("udiv", a, i64(by)), self.binary("urem", a, i64(by))

    def min(self, a: Value, b: Value) -> Value:
        """Return the smaller of two signed integers."""
        return self.call_intrinsic("llvm.smin", a.type, a, b)

    def max(self, a: Value, b: Value) -> Value:
        """Return the larger of two signed integers."""
        return self.call_intrinsic("llvm.smax", a.type, a, b)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Return ``a * b + c`` with one rounding."""
        return self.call_intrinsic("llvm.fma", a.type, a, b, c)

    def call_intrinsic(self, name: str, type_: str, *args: Value) -> Value:
        """Call an overloaded intrinsic whose suffix is its result type."""
        return self.call(f"{name}.{_suffix(type_)}", type_, *args)

    def call(self, name: str, type_: str, *args: Value) -> Value:
        """Call a function by its full name, declaring it."""
        types = ", ".join(a.type for a in args)
        self.module.declare(name, f"declare {type_} @{name}({types})")
        return self.op(f"call {type_} @{name}({', '.join(str(a) for a in args)})", type_)

    def icmp(self, predicate: str, a: Value, b: Value) -> Value:
        """Compare integers."""
        return self.op(f"icmp {predicate} {a}, {b.text}", vector(I1, lanes(a.type)))

    def fcmp(self, predicate: str, a: Value, b: Value) -> Value:
        """Compare floats."""
        return self.op(f"fcmp {predicate} {a}, {b.text}", vector(I1, lanes(a.type)))

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """Choose ``a`` where the condition holds, else ``b``."""
        return self.op(f"select {condition}, {a}, {b}", a.type)

    def cast(self, opcode: str, value: Value, type_: str) -> Value:
        """Convert with an LLVM cast instruction, such as ``sitofp`` or ``bitcast``."""
        return value if value.type == type_ else self.op(f"{opcode} {value} to {type_}", type_)

    def splat(self, value: Value, count: int) -> Value:
        """Repeat a scalar in every lane."""
        if count == 1 or lanes(value.type) == count:
            return value
        type_ = vector(value.type, count)
        first = self.op(f"insertelement {type_} poison, {value}, i32 0", type_)
        return self.op(
            f"shufflevector {type_} {first.text}, {type_} poison, <{count} x i32> zeroinitializer",
            type_,
        )

    def iota(self, count: int, step: int = 1) -> Value:
        """Return ``0, step, 2·step…`` as 64-bit integers."""
        items = ", ".join(f"i64 {k * step}" for k in range(count))
        return Value(f"<{items}>", vector(I64, count)) if count > 1 else i64(0)

    def extract(self, value: Value, lane: int) -> Value:
        """Return one lane."""
        if lanes(value.type) == 1:
            return value
        return self.op(f"extractelement {value}, i32 {lane}", element(value.type))

    def shuffle(self, value: Value, indices: list[int]) -> Value:
        """Permute lanes by constant indices."""
        type_ = vector(element(value.type), len(indices))
        mask = ", ".join(f"i32 {k}" for k in indices)
        return self.op(
            f"shufflevector {value}, {value.type} poison, <{len(indices)} x i32> <{mask}>", type_
        )

    def blend(self, x: Value, y: Value, indices: list[int]) -> Value:
        """Pick lanes from two vectors; indices count on from ``x`` into ``y``."""
        type_ = vector(element(x.type), len(indices))
        mask = ", ".join(f"i32 {k}" for k in indices)
        return self.op(f"shufflevector {x}, {y}, <{len(indices)} x i32> <{mask}>", type_)
