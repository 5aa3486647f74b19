"""What the values of a graph stand for, and how sub-graphs reach those around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import onnx_ir as ir

from whet.errors import UnsupportedError
from whet.index import Dim, Poly, var
from whet.kernel.tensor import Tensor
from whet.lower.outline import Event, Expected, Form, Held, Item, Outline, dims_of
from whet.ops.late import DimNames, Late, ValueRead
from whet.ops.node import Op

OpTable = Mapping[tuple[str, str], Op]
LowerBody = Callable[[ir.Graph, "Scope", Sequence[Item]], list[tuple[str, Item]]]


class UnloweredError(UnsupportedError):
    """A value comes from a node that could not be lowered; the fault of that node is told apart."""


class Scope(msgspec.Struct):
    """The values of one graph.

    Attributes:
        table: lowerings by operator.
        names: names of run-time dimensions in the whole model.
        parent: the scope around this one.
        items: what each value stands for.
        late: events of this graph.
        captured: values from around that are used here, with what they are called here.
    """

    table: OpTable
    names: DimNames
    parent: Scope | None
    late: Late
    items: dict[ir.Value, Item] = msgspec.field(default_factory=dict)
    captured: list[tuple[Item, Item]] = msgspec.field(default_factory=list)

    @property
    def events(self) -> list[Event]:
        """What happens between native code, so far."""
        return self.late.events

    def inner(self) -> Scope:
        """Return a scope inside this one."""
        return Scope(self.table, self.names, self, Late(self.names))

    def knows(self, value: ir.Value) -> bool:
        """Tell whether a value stands for something here or around."""
        return value in self.items or (self.parent is not None and self.parent.knows(value))

    def item(self, value: ir.Value) -> Item:
        """Return what a value stands for.

        Raises:
            UnloweredError: it comes from a node that could not be lowered.
        """
        if value in self.items:
            return self.items[value]
        if self.parent is None:
            raise UnloweredError(f"nothing is known about {value.name!r}", where=str(value.name))
        self.items[value] = inner = self.enter(self.parent.item(value))
        return inner

    def enter(self, outer: Item) -> Item:
        """Return what a value of the scope around is called here."""
        inner = _seen_inside(outer)
        if inner is not outer or not _constant(outer):
            self.captured.append((outer, inner))
        return inner

    def announce(self, name: str, form: Form | Held | None, where: str) -> tuple[Item, list[Event]]:
        """Return a value that is made outside native code, and what has to follow its making.

        Raises:
            UnsupportedError: its rank is not known.
        """
        if form is None or (isinstance(form, Form) and form.shape is None):
            raise UnsupportedError(f"the rank of {name!r} depends on data", where=where)
        if isinstance(form, Held):
            return Held(name, form.kind, form.element), []
        binds: list[str] = []
        shape: list[Poly] = []
        for axis, extent in enumerate(form.shape or ()):
            if extent is None:
                binds.append(self.names.fresh(f"{name}.{axis}"))
                extent = var(Dim(binds[-1], 0))
            shape.append(extent)
        tensor = Tensor(name, tuple(shape), form.dtype)
        return tensor, [Expected(tensor, tuple(binds), where)] if binds else []

    def announce_all(
        self, names: Iterable[str], forms: Iterable[Form | Held | None], where: str
    ) -> tuple[list[Item], list[Event]]:
        """Return several such values."""
        items: list[Item] = []
        events: list[Event] = []
        for name, form in zip(names, forms, strict=True):
            item, following = self.announce(name, form, where)
            items.append(item)
            events += following
        return items, events


class Site(msgspec.Struct, frozen=True):
    """A node that is not native code.

    Attributes:
        node: the node.
        name: its name, for errors.
        items: its inputs; ``None`` where one is left out.
        scope: where it stands.
        lower_body: lowers a sub-graph.
    """

    node: ir.Node
    name: str
    items: tuple[Item | None, ...]
    scope: Scope
    lower_body: LowerBody

    def names(self) -> list[str]:
        """Return names for the node's outputs."""
        return [v.name or f"{self.name}:{k}" for k, v in enumerate(self.node.outputs)]

    def optional(self, position: int) -> Item | None:
        """Return an input, or ``None`` if it is left out."""
        return self.items[position] if position < len(self.items) else None

    def tensor(self, position: int) -> Tensor:
        """Return an input that must be an array.

        Raises:
            UnsupportedError: it is left out, a sequence or the like.
        """
        found = self.optional(position)
        if not isinstance(found, Tensor):
            raise self.refusal(f"without an array as input {position}")
        return found

    def graph(self, name: str) -> ir.Graph:
        """Return a sub-graph."""
        return self.node.attributes[name].as_graph()

    def refusal(self, what: str) -> UnsupportedError:
        """Return an error that names this node."""
        return UnsupportedError(f"{self.node.op_type} {what}", where=self.name)


def _constant(item: Item) -> bool:
    return isinstance(item, Tensor) and (item.value is not None or item.known is not None)


def _seen_inside(item: Item) -> Item:
    """Return what a value is called in a sub-graph: computed ones come from outside there."""
    if isinstance(item, Held) or _constant(item) or item.definition is None:
        return item
    return Tensor(item.name, item.shape, item.dtype)


def form_of(item: Item, hidden: set[str]) -> Form | Held:
    """Return what is known about a value where some dimensions are not known by name."""
    if isinstance(item, Held):
        element = item.element
        if isinstance(element, Form):
            element = _hidden(element, hidden)
        return Held(item.name, item.kind, element)
    return _hidden(Form(item.dtype, item.shape), hidden)


def _hidden(form: Form, hidden: set[str]) -> Form:
    if form.shape is None:
        return form
    shape = (None if p is None or dims_of((p,)) & hidden else p for p in form.shape)
    return Form(form.dtype, tuple(shape))


def bound_in(outline: Outline) -> set[str]:
    """Return the dimensions that get their values inside a block."""
    found: set[str] = set()
    for event in outline.events:
        if isinstance(event, Expected):
            found |= set(event.binds)
        elif isinstance(event, ValueRead):
            found |= set(event.dims)
    return found


def merged(site: Site, one: Form | Held | None, other: Form | Held | None) -> Form | Held | None:
    """Return what is true of both of two values; an optional and its element are an optional.

    Raises:
        UnsupportedError: they are of different kinds or element types.
    """
    if one is None or other is None:
        return one or other
    if isinstance(one, Held) and isinstance(other, Held) and one.kind == other.kind:
        return Held(one.name, one.kind, merged(site, one.element, other.element))
    for some, rest in ((one, other), (other, one)):
        if isinstance(some, Held) and some.kind == "optional":  # it may always hold something
            return Held(some.name, some.kind, merged(site, some.element, rest))
    if isinstance(one, Held) or isinstance(other, Held) or one.dtype != other.dtype:
        raise site.refusal("with values of different types in one place")
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        return Form(one.dtype, None)
    pairs = zip(one.shape, other.shape, strict=True)
    return Form(one.dtype, tuple(a if a == b else None for a, b in pairs))


def same(one: Form | Held | None, other: Form | Held | None) -> bool:
    """Tell whether two descriptions say the same."""
    if isinstance(one, Held) and isinstance(other, Held):
        return one.kind == other.kind and same(one.element, other.element)
    return one == other
