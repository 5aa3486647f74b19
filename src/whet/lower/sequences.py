"""Sequences and optionals: values that the script keeps, calls that make and take them apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from whet.index import ONE, Poly
from whet.kernel.tensor import Tensor
from whet.lower.outline import Control, Form, Held, Item, Outline
from whet.lower.scope import Scope, Site, bound_in, form_of, merged, same
from whet.ops.node import constant
from whet.program.script import Setting

MAX_ROUNDS = 40


def call(
    site: Site,
    forms: Sequence[Form | Held | None],
    settings: tuple[tuple[str, Setting], ...] = (),
    function: str = "",
) -> list[Item]:
    """Let the script call the function of a node's operator; return what it makes."""
    outputs, following = site.scope.announce_all(site.names()[: len(forms)], forms, site.name)
    site.scope.events.append(
        Control(
            "call",
            site.items,
            tuple(outputs),
            site.name,
            function=function or site.node.op_type,
            settings=settings,
        )
    )
    site.scope.events.extend(following)
    return outputs


def sequence_of(site: Site, position: int) -> Held:
    """Return an input that must be a sequence.

    Raises:
        UnsupportedError: it is something else.
    """
    item = site.optional(position)
    if not isinstance(item, Held) or item.kind != "sequence":
        raise site.refusal(f"without a sequence as input {position}")
    return item


def _element(site: Site, position: int) -> Form | Held:
    found = sequence_of(site, position).element
    if found is None:
        raise site.refusal("of a sequence of which nothing is known")
    return found


def _new_sequence(site: Site, element: Form | Held | None) -> Held:
    return Held(site.names()[0], "sequence", element)


def _setting(site: Site, name: str, default: int) -> int:
    attribute = site.node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def _construct(site: Site) -> Sequence[Item]:
    element: Form | Held | None = None
    for item in site.items:
        if item is not None:
            element = merged(site, element, form_of(item, set()))
    return call(site, [_new_sequence(site, element)])


def _empty(site: Site) -> Sequence[Item]:
    return call(site, [_new_sequence(site, None)])


def _at(site: Site) -> Sequence[Item]:
    return call(site, [_element(site, 0)])


def _insert(site: Site) -> Sequence[Item]:
    item = site.optional(1)
    if item is None:
        raise site.refusal("without something to insert")
    element = merged(site, sequence_of(site, 0).element, form_of(item, set()))
    return call(site, [_new_sequence(site, element)])


def _erase(site: Site) -> Sequence[Item]:
    return call(site, [_new_sequence(site, sequence_of(site, 0).element)])


def _length(site: Site) -> Sequence[Item]:
    sequence_of(site, 0)
    return call(site, [Form("int64", ())])


def _concatenate(site: Site) -> Sequence[Item]:
    element = _element(site, 0)
    if isinstance(element, Held) or element.shape is None:
        raise site.refusal("of arrays whose rank is not known")
    new = _setting(site, "new_axis", 0)
    rank = len(element.shape) + new
    axis = _setting(site, "axis", 0)
    if not -rank <= axis < rank:
        raise site.refusal(f"along axis {axis} of rank {rank}")
    shape = list(element.shape)
    if new:
        shape.insert(axis % rank, None)
    else:
        shape[axis % rank] = None
    return call(
        site, [Form(element.dtype, tuple(shape))], (("axis", axis % rank), ("new_axis", new))
    )


def _split(site: Site) -> Sequence[Item]:
    x = site.tensor(0)
    axis = _setting(site, "axis", 0)
    if not -x.rank <= axis < x.rank:
        raise site.refusal(f"along axis {axis} of rank {x.rank}")
    axis %= x.rank
    whole = site.optional(1) is not None
    keep = whole or bool(_setting(site, "keepdims", 1))
    shape: list[Poly | None] = list(x.shape)
    shape[axis] = None if whole else ONE
    if not keep:
        del shape[axis]
    element = Form(x.dtype, tuple(shape))
    settings = (("axis", axis), ("keepdims", int(keep)))
    return call(site, [_new_sequence(site, element)], settings)


# -- optionals -------------------------------------------------------------------------------------


def _optional(site: Site) -> Sequence[Item]:
    item = site.optional(0)
    element = None if item is None else form_of(item, set())
    return call(site, [Held(site.names()[0], "optional", element)])


def _has_element(site: Site) -> Sequence[Item]:
    item = site.optional(0)
    if isinstance(item, Held) and item.kind == "optional":
        return call(site, [Form("bool", ())])
    return [constant(site.names()[0], np.array(item is not None))]


def _get_element(site: Site) -> Sequence[Item]:
    item = site.optional(0)
    if item is None:
        raise site.refusal("of a value that is left out")
    if not isinstance(item, Held) or item.kind != "optional":
        return [item]
    if item.element is None:
        raise site.refusal("of an optional of which nothing is known")
    return call(site, [item.element])


# -- SequenceMap -----------------------------------------------------------------------------------


def _map(site: Site) -> Sequence[Item]:
    """Lower a ``SequenceMap`` as a loop that takes elements out and puts results in."""
    count = len(site.node.outputs)
    length = _called(site, site.scope, "SequenceLength", (sequence_of(site, 0),), Form("int64", ()))
    empty = [
        _called(site, site.scope, "SequenceEmpty", (), Held(name, "sequence", None))
        for name in site.names()
    ]
    elements: list[Form | Held | None] = [None] * count
    block, captured, found = _map_round(site, elements)
    for _ in range(MAX_ROUNDS):
        if all(same(a, b) for a, b in zip(elements, found, strict=True)):
            break
        elements = list(found)
        block, captured, found = _map_round(site, elements)
    forms = [Held(n, "sequence", e) for n, e in zip(site.names(), elements, strict=True)]
    outputs, _ = site.scope.announce_all(site.names(), forms, site.name)
    inputs = (length, None, *empty)
    site.scope.events.append(
        Control("loop", inputs, tuple(outputs), site.name, blocks=(block,), captured=captured)
    )
    return outputs


def _map_round(
    site: Site, elements: Sequence[Form | Held | None]
) -> tuple[Outline, tuple[tuple[Item, Item], ...], list[Form | Held | None]]:
    """Lower the body once; return it, what it uses from around, and what it puts in."""
    inner = site.scope.inner()
    trip, going = Tensor("trip", (), "int64"), Tensor("going", (), "bool")
    carried = [Held(n, "sequence", e) for n, e in zip(site.names(), elements, strict=True)]
    given: list[Item] = []
    for item in site.items:
        assert item is not None, "SequenceMap has no optional inputs"
        seen = inner.enter(item)
        if isinstance(seen, Held) and seen.kind == "sequence":
            if seen.element is None:
                raise site.refusal("over a sequence of which nothing is known")
            given.append(_called(site, inner, "SequenceAt", (seen, trip), seen.element))
        else:
            given.append(seen)
    made = [item for _, item in site.lower_body(site.graph("body"), inner, given)]
    results: list[tuple[str, Item]] = [("going", going)]
    for sequence, item in zip(carried, made, strict=True):
        longer = Held(sequence.name, "sequence", sequence.element)
        pair = (sequence, item)
        results.append((sequence.name, _called(site, inner, "SequenceInsert", pair, longer)))
    block = Outline([trip, going, *carried], results, inner.events)
    hidden = bound_in(block)
    found = [merged(site, e, form_of(item, hidden)) for e, item in zip(elements, made, strict=True)]
    return block, tuple(inner.captured), found


def _called(
    site: Site, scope: Scope, function: str, inputs: tuple[Item, ...], form: Form | Held
) -> Item:
    """Let the script call a function that no node of the model stands for; return its output."""
    item, following = scope.announce(f"{site.name}.{function}", form, site.name)
    scope.events.append(Control("call", inputs, (item,), site.name, function=function))
    scope.events.extend(following)
    return item


def held_form(kind: ir.TypeProtocol | None, shape: ir.Shape | None) -> Form | Held | None:
    """Return what a declared type says of a value; dimensions of elements are not known by name."""
    if isinstance(kind, ir.SequenceType):
        return Held("", "sequence", held_form(kind.elem_type, shape))
    if isinstance(kind, ir.OptionalType):
        return Held("", "optional", held_form(kind.elem_type, shape))
    if kind is None:
        return None
    return Form(kind.dtype.numpy().name, shape_of(shape))


def shape_of(shape: ir.Shape | None) -> tuple[Poly | None, ...] | None:
    """Return a declared shape; ``None`` for what is open."""
    if shape is None:
        return None
    return tuple(ONE * d if isinstance(d, int) else None for d in shape)


SEQUENCES = {
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceAt": _at,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SequenceLength": _length,
    "ConcatFromSequence": _concatenate,
    "SplitToSequence": _split,
    "SequenceMap": _map,
    "Optional": _optional,
    "OptionalHasElement": _has_element,
    "OptionalGetElement": _get_element,
}
"""Operators on sequences and optionals, by name."""
