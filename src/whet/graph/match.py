"""Declarative patterns over a graph: a pattern either matches, or says why it does not.

A pattern describes a value by how it is computed, from the output backwards::

    x = Any("x")
    GELU = Op("Mul", (Op("Mul", (x, Add(...))), Number(0.5)), commutative=True)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import msgspec
import onnx_ir as ir

from whet.graph.edit import constant_tensor, scalar
from whet.words import counted


class Miss(msgspec.Struct, frozen=True):
    """Why a rewrite does not apply."""

    why: str

    def __bool__(self) -> bool:
        return False


class Any(msgspec.Struct, frozen=True):
    """Any value; the same name must stand for the same value throughout a pattern."""

    name: str


class Const(msgspec.Struct, frozen=True):
    """Any constant, bound to ``name``."""

    name: str


class Number(msgspec.Struct, frozen=True):
    """A constant of one element equal to ``value`` within the rounding of its element type."""

    value: float


class Op(msgspec.Struct, frozen=True):
    """The first output of a node of one of the ``types`` (separated by ``|``)."""

    types: str
    inputs: tuple[Pattern, ...]
    name: str = ""
    commutative: bool = False


class OneOf(msgspec.Struct, frozen=True):
    """The first of several patterns that matches."""

    options: tuple[Pattern, ...]


Pattern = Any | Const | Number | Op | OneOf


class Match(msgspec.Struct, frozen=True):
    """What a pattern was found to stand for.

    Attributes:
        values: values by the names in the pattern.
        nodes: the matched nodes in graph order of dependency, the last is the root.
        named: nodes of the ``Op`` patterns that have a name.
    """

    values: Mapping[str, ir.Value] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    nodes: tuple[ir.Node, ...] = ()
    named: Mapping[str, ir.Node] = msgspec.field(default_factory=lambda: MappingProxyType({}))

    def __getitem__(self, name: str) -> ir.Value:
        return self.values[name]


def match(pattern: Pattern, value: ir.Value) -> Match | Miss:
    """Match ``pattern`` against how ``value`` is computed.

    Inner nodes must have no readers outside the match, because a rewrite removes them.
    """
    found = _match(pattern, value, Match())
    if isinstance(found, Miss):
        return found
    inner = set(found.nodes)
    for node in found.nodes[:-1]:
        for output in node.outputs:
            if output.is_graph_output():
                return Miss(f"{output.name} is a graph output")
            outside = [u.node for u in output.uses() if u.node not in inner]
            if outside:
                return Miss(f"{output.name} is also read by {outside[0].name}")
    return found


def _match(pattern: Pattern, value: ir.Value | None, state: Match) -> Match | Miss:
    if value is None:
        return Miss("an optional input is absent")
    if isinstance(pattern, Any | Const):
        if isinstance(pattern, Const) and constant_tensor(value) is None:
            return Miss(f"{value.name} is not a constant")
        return _bind(pattern.name, value, state)
    if isinstance(pattern, Number):
        return _match_number(pattern, value, state)
    if isinstance(pattern, OneOf):
        return _first([(option, value) for option in pattern.options], state)
    return _match_op(pattern, value, state)


def _first(pairs: list[tuple[Pattern, ir.Value]], state: Match) -> Match | Miss:
    miss = Miss("no alternative")
    for pattern, value in pairs:
        found = _match(pattern, value, state)
        if isinstance(found, Match):
            return found
        miss = found
    return miss


def _bind(name: str, value: ir.Value, state: Match) -> Match | Miss:
    bound = state.values.get(name)
    if bound is not None and bound is not value:
        return Miss(f"{name} is both {bound.name} and {value.name}")
    return Match({**state.values, name: value}, state.nodes, state.named)


def _match_number(pattern: Number, value: ir.Value, state: Match) -> Match | Miss:
    number = scalar(value)
    if number is None:
        return Miss(f"{value.name} is not a constant number")
    tolerance = 1e-3 if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) else 1e-6
    if not math.isclose(number, pattern.value, rel_tol=tolerance):
        return Miss(f"{value.name} is {number:g}, need {pattern.value:g}")
    return state


def _match_op(pattern: Op, value: ir.Value, state: Match) -> Match | Miss:
    node = value.producer()
    types = pattern.types.split("|")
    if node is None or node.domain != "" or node.op_type not in types:
        made = "no node" if node is None else node.op_type
        return Miss(f"{value.name} comes from {made}, need {' or '.join(types)}")
    if value.index() != 0:
        return Miss(f"{value.name} is not the first output of {node.name}")
    given = list(node.inputs)
    if len(given) < len(pattern.inputs):
        return Miss(f"{node.name} has {counted(len(given), 'input')}, need {len(pattern.inputs)}")
    orders = [given]
    if pattern.commutative and len(given) == 2:
        orders.append(given[::-1])
    miss = Miss("no inputs")
    for order in orders:
        found = _match_inputs(pattern, order, state)
        if isinstance(found, Match):
            nodes = found.nodes if node in found.nodes else (*found.nodes, node)
            named = {**found.named, pattern.name: node} if pattern.name else found.named
            return Match(found.values, nodes, named)
        miss = found
    return miss


def _match_inputs(pattern: Op, given: list[ir.Value | None], state: Match) -> Match | Miss:
    for inner, value in zip(pattern.inputs, given, strict=False):
        found = _match(inner, value, state)
        if isinstance(found, Miss):
            return found
        state = found
    return state
