"""A model as equations and what happens between them: reads of sizes, control flow, calls."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from whet.index import Axis, Dim, Poly
from whet.kernel.expr import all_atoms, walk
from whet.kernel.tensor import Tensor
from whet.lower.uses import sources
from whet.ops.late import Agreement, ValueRead
from whet.program.script import Setting


class Held(msgspec.Struct, eq=False):
    """A value that only the script handles: a sequence, an optional, an array of texts.

    Attributes:
        name: its name in the model.
        kind: ``"sequence"``, ``"optional"`` or ``"text"``.
        element: what it holds: an array, or for an optional perhaps a sequence; ``None`` if that
            is not known, as for an empty sequence.
    """

    name: str
    kind: str
    element: Form | Held | None


class Form(msgspec.Struct, frozen=True):
    """Element type and shape of an array; ``None`` for an extent, or a rank, that may vary."""

    dtype: str
    shape: tuple[Poly | None, ...] | None


Item = Tensor | Held


class Expected(msgspec.Struct, frozen=True):
    """An array that comes from outside native code, and the dimensions that its shape gives."""

    tensor: Tensor
    binds: tuple[str, ...]
    where: str


class Sliced(msgspec.Struct, frozen=True):
    """An input of a loop that every trip gets one slice of."""

    axis: int
    backwards: bool


class Control(msgspec.Struct, frozen=True):
    """A branch, a loop or a call.

    Attributes:
        kind: ``"if"``, ``"loop"``, ``"call"`` or ``"pick"``, a choice by the shapes of its inputs.
        function: for a call, the runtime's function.
        inputs: what it reads; ``None`` where an optional input is left out. A loop has trips,
            condition, carried values and sliced arrays; a branch its condition.
        outputs: what it makes; ``None`` where nobody wants it.
        blocks: branches, or the body.
        captured: values from around that the blocks use, with what they are called inside.
        slices: for a loop, how its last inputs are sliced.
        collected: for a loop, how its last outputs are stacked.
        settings: for a call, attributes.
        when: for a choice, the shapes that its blocks but the first are for, -1 for any extent.
        where: the node.
    """

    kind: str
    inputs: tuple[Item | None, ...]
    outputs: tuple[Item | None, ...]
    where: str
    function: str = ""
    blocks: tuple[Outline, ...] = ()
    captured: tuple[tuple[Item, Item], ...] = ()
    slices: tuple[Sliced, ...] = ()
    collected: tuple[Sliced, ...] = ()
    settings: tuple[tuple[str, Setting], ...] = ()
    when: tuple[tuple[tuple[int, ...], ...], ...] = ()


Event = ValueRead | Agreement | Expected | Control


class Outline(msgspec.Struct):
    """A graph, or the body of a branch or loop.

    Attributes:
        inputs: what it is given, in order.
        outputs: what it makes, by name, in order.
        events: what happens between native code, in an order in which each can happen.
    """

    inputs: list[Item]
    outputs: list[tuple[str, Item]]
    events: list[Event] = msgspec.field(default_factory=list)


def dims_of(polys: Iterable[Poly]) -> set[str]:
    """Return the names of all dimensions in polynomials, extents of their axes included."""
    found: set[str] = set()
    for p in polys:
        for atom in all_atoms(p):
            if isinstance(atom, Dim):
                found.add(atom.name)
            elif isinstance(atom, Axis):
                found |= dims_of((atom.extent,))
    return found


def dims_in(tensor: Tensor) -> set[str]:
    """Return the names of all dimensions that a tensor's shape and definition mention."""
    found = dims_of(tensor.shape)
    definition = tensor.definition
    if definition is None:
        return found
    polys = [a.extent for a in definition.axes] + list(definition.index)
    for root in definition.expressions():
        for e in walk(root):
            polys.extend(e.indices())
    found |= dims_of(polys)
    for source in sources(definition):
        found |= dims_of(source.shape)
    return found
