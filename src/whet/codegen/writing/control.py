"""Control flow beyond counted loops: variables, loops that end when something happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from whet.codegen.writing.builder import I64, Builder, Value, i64


class Variable(msgspec.Struct, frozen=True):
    """A value that changes while code runs: a stack slot, which LLVM promotes to a register."""

    b: Builder
    slot: Value
    type: str

    def get(self) -> Value:
        """Return the value it has here."""
        return self.b.load(self.type, self.slot, 8)

    def set(self, value: Value) -> None:
        """Give it another value."""
        self.b.store(value, self.slot, 8)

    def increment(self, by: Value | None = None) -> None:
        """Add one, or another integer."""
        self.set(self.b.add(self.get(), by or i64(1)))


def variable(b: Builder, start: Value) -> Variable:
    """Return a new variable."""
    made = Variable(b, b.alloca(start.type), start.type)
    made.set(start)
    return made


@contextmanager
def repeat(b: Builder, condition: Callable[[], Value], hint: str = "w") -> Iterator[str]:
    """Run the body as long as a condition holds; yields the label behind the loop."""
    head, body, done = b.label(hint), b.label(hint + "b"), b.label(hint + "x")
    b.jump(head)
    b.start(head)
    b.branch(condition(), body, done)
    b.start(body)
    yield done
    b.jump(head)
    b.start(done)


def leave(b: Builder, condition: Value, label: str) -> None:
    """Go to a label if a condition holds, and on otherwise."""
    stay = b.label("on")
    b.branch(condition, label, stay)
    b.start(stay)


@contextmanager
def counted(b: Builder, low: Value, high: Value, hint: str = "c") -> Iterator[tuple[Value, str]]:
    """Count from ``low`` while below ``high``; yields the counter and the label behind the loop."""
    counter = Variable(b, b.alloca(I64), I64)
    counter.set(low)
    with repeat(b, lambda: b.icmp("slt", counter.get(), high), hint) as done:
        yield counter.get(), done
        counter.increment()
