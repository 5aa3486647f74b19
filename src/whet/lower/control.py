"""Branches and loops: ``If``, ``Loop`` and ``Scan``."""

from __future__ import annotations

from collections.abc import Sequence

from whet.kernel.tensor import Tensor
from whet.lower.outline import Control, Form, Held, Item, Outline, Sliced
from whet.lower.scope import Scope, Site, bound_in, form_of, merged, same
from whet.ops.node import known_values

MAX_ROUNDS = 40
"""A loop is lowered again while what it carries turns out to vary in one more dimension."""


def lower_if(site: Site) -> Sequence[Item]:
    """Lower both branches, or the one that is taken if that is known."""
    condition = site.tensor(0)
    graphs = [site.graph("then_branch"), site.graph("else_branch")]
    known = known_values(condition)
    taken = known[0].constant if known else None
    if taken is not None:
        return [item for _, item in site.lower_body(graphs[0 if taken else 1], site.scope, ())]
    blocks: list[Outline] = []
    captured: list[tuple[Item, Item]] = []
    forms: list[list[Form | Held]] = []
    for graph in graphs:
        inner = site.scope.inner()
        block = Outline([], site.lower_body(graph, inner, ()), inner.events)
        blocks.append(block)
        captured += inner.captured
        forms.append([form_of(item, bound_in(block)) for _, item in block.outputs])
    both = [merged(site, a, b) for a, b in zip(*forms, strict=True)]
    outputs, following = site.scope.announce_all(site.names(), both, site.name)
    site.scope.events.append(
        Control(
            "if",
            (condition,),
            tuple(outputs),
            site.name,
            blocks=tuple(blocks),
            captured=tuple(captured),
        )
    )
    site.scope.events.extend(following)
    return outputs


def lower_loop(site: Site) -> Sequence[Item]:
    """Lower a ``Loop``: trips, condition, carried values and collected outputs."""
    head = (Form("int64", ()), Form("bool", ()))
    return _Body(site, site.items[2:], head, ()).lower((site.optional(0), site.optional(1)), ())


def lower_scan(site: Site) -> Sequence[Item]:
    """Lower a ``Scan``: states, arrays that are read slice by slice, and collected outputs."""
    count = int(site.node.attributes["num_scan_inputs"].as_int())
    states = len(site.items) - count
    arrays = [site.tensor(states + k) for k in range(count)]
    collected = len(site.node.outputs) - states
    axes = _normalised(site, _ints(site, "scan_input_axes", count), [a.rank for a in arrays])
    directions = _ints(site, "scan_input_directions", count)
    slices = tuple(Sliced(a, bool(d)) for a, d in zip(axes, directions, strict=True))
    places = _ints(site, "scan_output_axes", collected)
    backwards = _ints(site, "scan_output_directions", collected)
    stacks = tuple(Sliced(a, bool(d)) for a, d in zip(places, backwards, strict=True))
    body = _Body(site, site.items[:states], (), tuple(zip(arrays, slices, strict=True)))
    return body.lower((None, None), stacks)


def _ints(site: Site, name: str, count: int) -> list[int]:
    attribute = site.node.attributes.get(name)
    values = [0] * count if attribute is None else list(attribute.as_ints())
    if len(values) != count:
        raise site.refusal(f"with {len(values)} values of {name} for {count}")
    return [int(v) for v in values]


def _normalised(site: Site, axes: list[int], ranks: list[int]) -> list[int]:
    for axis, rank in zip(axes, ranks, strict=True):
        if not -rank <= axis < rank:
            raise site.refusal(f"along axis {axis} of rank {rank}")
    return [axis % rank for axis, rank in zip(axes, ranks, strict=True)]


class _Body:
    """The body of a loop while it is lowered.

    Args:
        site: the node.
        carried: what the first trip starts with.
        head: what every trip is given first: its number and the condition.
        sliced: arrays that every trip gets a slice of.
    """

    def __init__(
        self,
        site: Site,
        carried: Sequence[Item | None],
        head: tuple[Form, ...],
        sliced: tuple[tuple[Tensor, Sliced], ...],
    ) -> None:
        self._site = site
        self._carried = [c for c in carried if c is not None]
        if len(self._carried) != len(carried):
            raise site.refusal("with a carried value that is left out")
        self._head = head
        self._sliced = sliced

    def lower(
        self, control: tuple[Item | None, Item | None], stacks: tuple[Sliced, ...]
    ) -> Sequence[Item]:
        site = self._site
        forms: list[Form | Held | None] = [form_of(c, set()) for c in self._carried]
        block, inner = self._round(forms)
        for _ in range(MAX_ROUNDS):
            found = self._given(block)
            wider = [merged(site, a, b) for a, b in zip(forms, found, strict=True)]
            if all(same(a, b) for a, b in zip(forms, wider, strict=True)):
                break
            forms = wider
            block, inner = self._round(forms)
        else:
            raise site.refusal("whose carried values do not settle")
        hidden = bound_in(block)
        first = len(block.outputs) - self._stacked(block)
        elements = [form_of(item, hidden) for _, item in block.outputs[first:]]
        stacks = stacks or (Sliced(0, backwards=False),) * len(elements)
        settled = tuple(
            Sliced(_stack_axis(site, e, s.axis), s.backwards)
            for e, s in zip(elements, stacks, strict=True)
        )
        piled = [_stack(site, e, s.axis) for e, s in zip(elements, settled, strict=True)]
        outputs, following = site.scope.announce_all(site.names(), [*forms, *piled], site.name)
        site.scope.events.append(
            Control(
                "loop",
                (*control, *self._carried, *(a for a, _ in self._sliced)),
                tuple(outputs),
                site.name,
                blocks=(block,),
                captured=tuple(inner.captured),
                slices=tuple(s for _, s in self._sliced),
                collected=settled,
            )
        )
        site.scope.events.extend(following)
        return outputs

    def _stacked(self, block: Outline) -> int:
        """Return how many outputs of the body are collected."""
        own = 1 if self._head else 0
        return len(block.outputs) - own - len(self._carried)

    def _given(self, block: Outline) -> list[Form | Held]:
        """Return what the body gives back to be carried on."""
        own = 1 if self._head else 0
        hidden = bound_in(block)
        items = [item for _, item in block.outputs[own : own + len(self._carried)]]
        return [form_of(item, hidden) for item in items]

    def _round(self, forms: Sequence[Form | Held | None]) -> tuple[Outline, Scope]:
        """Lower the body once, with carried values of these forms."""
        site = self._site
        inner = site.scope.inner()
        graph = site.graph("body")
        slices: list[Form] = []
        for array, how in self._sliced:
            slices.append(Form(array.dtype, array.shape[: how.axis] + array.shape[how.axis + 1 :]))
        names = [str(v.name) for v in graph.inputs]
        given = [*self._head, *forms, *slices]
        if len(names) != len(given):
            raise site.refusal(f"whose body takes {len(names)} values instead of {len(given)}")
        inputs, events = inner.announce_all(names, given, site.name)
        inner.events.extend(events)
        outputs = site.lower_body(graph, inner, inputs)
        return Outline(inputs, outputs, inner.events), inner


def _stack_axis(site: Site, element: Form | Held, axis: int) -> int:
    if isinstance(element, Held) or element.shape is None:
        raise site.refusal("that collects values that are no arrays of one rank")
    rank = len(element.shape) + 1
    if not -rank <= axis < rank:
        raise site.refusal(f"that stacks along axis {axis} of rank {rank}")
    return axis % rank


def _stack(site: Site, element: Form | Held, axis: int) -> Form:
    if isinstance(element, Held) or element.shape is None:
        raise site.refusal("that collects values that are no arrays of one rank")
    return Form(element.dtype, (*element.shape[:axis], None, *element.shape[axis:]))


CONTROLS = {"If": lower_if, "Loop": lower_loop, "Scan": lower_scan}
"""Operators that are control flow, by name."""
