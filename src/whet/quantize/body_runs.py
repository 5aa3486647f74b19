"""Running a model so that values in the bodies of If, Loop and Scan can be seen.

The main graph is a program that gives what is wanted of it, and what its nodes with bodies read.
Those nodes are then walked once more: each trip runs the body, which is such a program again. What
they compute for the graph around them is native code as ever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.driver import compile as compile_model
from whet.graph.edit import constant_array, constant_tensor
from whet.options import Options
from whet.quantize.bodies import graphs_of
from whet.quantize.body_model import Form, body_model, captured, form_of, wider
from whet.runtime.model import CompiledModel

Array = np.ndarray[Any, Any]
Values = Mapping[str, Any]
"""What values hold, by name: arrays, and lists for sequences."""

Seen = Iterator[dict[str, Array]]


@dataclass(slots=True)
class _Body:
    """A body and its program, which is compiled again where extents turn out to vary."""

    outputs: tuple[str, ...]
    forms: dict[str, Form] = field(default_factory=dict)
    program: CompiledModel | None = None


class BodyRuns:
    """Runs a model; see above.

    Args:
        model: the model; names of values are unique in all of it.
        wanted: the values that are looked at.
        options: how programs are compiled.
    """

    def __init__(self, model: ir.Model, wanted: Collection[str], options: Options) -> None:
        self._model, self._wanted, self._options = model, frozenset(wanted), options
        self._graphs = [model.graph, *model.graph.subgraphs()]
        self._walked = {id(graph): self._nodes_to_walk(graph) for graph in self._graphs}
        self._bodies: dict[int, _Body] = {}
        self._main = compile_model(self._with_outputs(), options=options)

    def run(self, feeds: Mapping[str, Array]) -> Seen:
        """Yield the wanted values that there are: of the main graph, then of each run of a body.

        Raises:
            WhetError: the feeds do not fit, or a body cannot be compiled.
        """
        values = {**self._main.run(dict(feeds)), **feeds}
        yield self._chosen(self._model.graph, values)
        yield from self._walk(self._model.graph, values)

    def _chosen(self, graph: ir.Graph, values: Values) -> dict[str, Array]:
        names = [v.name or "" for v in _own_values(graph)]
        return {name: values[name] for name in names if name in self._wanted and name in values}

    def _nodes_to_walk(self, graph: ir.Graph) -> tuple[ir.Node, ...]:
        """Return the nodes of a graph that have something wanted in their bodies."""
        return tuple(node for node in graph if node.op_type in _WALKS and self._is_wanted(node))

    def _is_wanted(self, node: ir.Node) -> bool:
        inner = [g for body in graphs_of(node) for g in (body, *body.subgraphs())]
        return any(v.name in self._wanted for g in inner for v in _own_values(g))

    def _needed(self, graph: ir.Graph) -> list[str]:
        """Return the values that a graph makes and that have to be known."""
        found = [v for v in _own_values(graph) if v.name in self._wanted]
        for node in self._walked[id(graph)]:
            found += [v for v in node.inputs if v is not None]
            found += [v for body in graphs_of(node) for v in captured(body)]
        made = [v.name or "" for v in found if _is_made_in(graph, v)]
        return list(dict.fromkeys(made))

    def _with_outputs(self) -> ir.Model:
        """Return a copy that gives more values; fusion leaves what is an output in place."""
        names = self._needed(self._model.graph)
        made = self._model.clone()
        known = {v.name for v in made.graph.outputs}
        values = {v.name or "": v for node in made.graph for v in node.outputs}
        made.graph.outputs.extend(values[name] for name in names if name not in known)
        return made

    def _walk(self, graph: ir.Graph, values: Values) -> Seen:
        """Run what is in the bodies of a graph, with the values around them."""
        for node in self._walked[id(graph)]:
            yield from _WALKS[node.op_type](self, node, values)

    def branch(self, node: ir.Node, values: Values) -> Seen:
        """Run one branch of an If."""
        taken = _truth(_value(node.inputs[0], values))
        name = "then_branch" if taken else "else_branch"
        yield from self._trip(node.attributes[name].as_graph(), (), values, [])

    def loop(self, node: ir.Node, values: Values) -> Seen:
        """Run the trips of a Loop."""
        trips, condition, *carried = [_value(v, values) for v in node.inputs]
        limit = None if trips is None else int(np.reshape(trips, -1)[0])
        going, trip = condition is None or _truth(condition), 0
        while going and (limit is None or trip < limit):
            results: list[Any] = [None] * (1 + len(carried))
            given = (np.array(trip, np.int64), np.array(True), *carried)
            yield from self._trip(node.attributes["body"].as_graph(), given, values, results)
            going, carried, trip = _truth(results[0]), results[1:], trip + 1

    def scan(self, node: ir.Node, values: Values) -> Seen:
        """Run the trips of a Scan."""
        count = node.attributes["num_scan_inputs"].as_int()
        given = [_value(v, values) for v in node.inputs]
        states, arrays = given[:-count], given[-count:]
        axes = node.attributes.get_ints("scan_input_axes", [0] * count)
        backwards = node.attributes.get_ints("scan_input_directions", [0] * count)
        ways = list(zip(arrays, axes, backwards, strict=True))
        for trip in range(arrays[0].shape[axes[0]]):
            parts = [np.take(a, -1 - trip if b else trip, axis=axis) for a, axis, b in ways]
            results: list[Any] = [None] * len(states)
            body = node.attributes["body"].as_graph()
            yield from self._trip(body, (*states, *parts), values, results)
            states = results

    def _trip(
        self, body: ir.Graph, given: Sequence[Any], around: Values, results: list[Any]
    ) -> Seen:
        """Run a body once, and those in it; fill ``results`` with its first outputs."""
        feeds = {v.name or "": value for v, value in zip(body.inputs, given, strict=True)}
        outside = [v for v in captured(body) if constant_tensor(v) is None]
        feeds |= {v.name or "": around[v.name or ""] for v in outside}
        values = {**around, **feeds, **self._computed(body, feeds, len(results))}
        results[:] = [_value(v, values) for v in body.outputs[: len(results)]]
        yield self._chosen(body, values)
        yield from self._walk(body, values)

    def _computed(self, body: ir.Graph, feeds: Values, count: int) -> Values:
        known = self._bodies.get(id(body))
        if known is None:
            wanted = [v.name or "" for v in body.outputs[:count] if _is_made_in(body, v)]
            names = tuple(dict.fromkeys([*wanted, *self._needed(body)]))
            known = self._bodies[id(body)] = _Body(names)
        if not known.outputs:
            return {}
        forms = {n: wider(known.forms.get(n, form_of(v)), form_of(v)) for n, v in feeds.items()}
        if known.program is None or forms != known.forms:
            made = body_model(body, self._model, forms, known.outputs)
            known.program, known.forms = compile_model(made, options=self._options), forms
        return known.program.run(dict(feeds))


_WALKS = {"If": BodyRuns.branch, "Loop": BodyRuns.loop, "Scan": BodyRuns.scan}


def _own_values(graph: ir.Graph) -> list[ir.Value]:
    """Return what a graph is given and what its nodes make."""
    return [*graph.inputs, *(v for node in graph for v in node.outputs)]


def _is_made_in(graph: ir.Graph, value: ir.Value) -> bool:
    """Tell whether a node of a graph makes a value that is not constant."""
    producer = value.producer()
    return producer is not None and producer.graph is graph and constant_tensor(value) is None


def _value(value: ir.Value | None, values: Values) -> Any:
    """Return what a value holds; ``None`` if it is left out."""
    if value is None:
        return None
    name = value.name or ""
    return values[name] if name in values else constant_array(value)


def _truth(value: Array) -> bool:
    return bool(np.reshape(value, -1)[0])
