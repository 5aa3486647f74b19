"""Recurrent layers: LSTM, GRU and RNN.

The products of the inputs with their weights, for all steps at once, are one matrix product; what
is left for the recurrence is the product of the state with the weights ``R``, and the gates.
"""

from __future__ import annotations

from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Expr, IndexValue, Var, Within, guard, index_of
from whet.kernel.recurrence import Assign, Phase, Recur, gate_name
from whet.kernel.spec import ACCUMULATOR
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import binary, cast, compare, compute_type, const, select
from whet.ops.matmul import matrix_product
from whet.ops.node import Node, Op, constant
from whet.ops.operand import agree
from whet.ops.recurrent_activations import activations_of


class _Layer:
    """What the three operators share: sizes, axes, and the expressions of inputs and states.

    Args:
        node: the node.
        gates: how many gates ``W`` and ``R`` hold.
        inputs: positions of the initial states, by state.
        defaults: names of the activation functions.
    """

    def __init__(self, node: Node, gates: int, states: tuple[str, ...], functions: tuple[str, ...]):
        self.node, self.gates = node, gates
        self.batch_first = bool(node.attribute("layout", 0))
        x, w, r = node.input(0), node.input(1), node.input(2)
        if x.rank != 3 or w.rank != 3 or r.rank != 3:
            raise node.error(f"needs inputs of rank 3, got {x.rank}, {w.rank} and {r.rank}")
        self.dtype = compute_type(x.dtype)
        self.steps, self.batch = (x.shape[1], x.shape[0]) if self.batch_first else x.shape[:2]
        self.hidden = node.static(r.shape[2])
        self.reversed = _reversed_directions(node)
        self.directions = len(self.reversed)
        self._check(x, w, r)
        self.states = states
        self.functions = activations_of(node, functions, self.directions)
        self.outer = Axis("d", as_poly(self.directions))
        self.row, self.step = Axis("b", self.batch), Axis("t", self.steps)
        self.col, self.depth = Axis("j", as_poly(self.hidden)), Axis("k", as_poly(self.hidden))
        self.lengths = node.optional(4)
        self.time = self._time()
        self.projected = self._projected(x, w)

    def _check(self, x: Tensor, w: Tensor, r: Tensor) -> None:
        node, rows = self.node, self.gates * self.hidden
        directions = as_poly(self.directions)
        if node.attribute("hidden_size", self.hidden) != self.hidden:
            raise node.error(f"hidden_size is not {self.hidden}, the size of r {list(r.shape)}")
        agree(node, w.shape, (directions, as_poly(rows), x.shape[2]), "w for this x")
        if r.shape[:2] != (directions, as_poly(rows)):
            raise node.error(f"r {list(r.shape)} does not fit w {list(w.shape)}")
        bias = node.optional(3)
        if bias is not None and bias.shape != (directions, as_poly(2 * rows)):
            raise node.error(f"b {list(bias.shape)} should be {[self.directions, 2 * rows]}")

    # -- the products of the inputs ----------------------------------------------------------

    def _projected(self, x: Tensor, w: Tensor) -> Tensor:
        """Return ``x W' + Wb + Rb`` for all steps, directions and gates, as [step, batch, all]."""
        rows = self.gates * self.hidden
        shape = (self.steps, self.batch, as_poly(rows * self.directions))
        t, b, n = (var(a) for a in axes_for(shape))
        k = var(Axis("k", w.shape[2]))
        body: Expr = Var(ACCUMULATOR, self.dtype)
        bias = self._bias()
        if bias is not None:
            body = binary("add", body, cast(bias.at(n), self.dtype))
        a = x.at(b, t, k) if self.batch_first else x.at(t, b, k)
        weight = w.at(n // rows, n % rows, k)
        definition = matrix_product(shape, w.shape[2], a, weight, body)
        return self.node.temporary("inputs", shape, self.dtype, definition)

    def _bias(self) -> Tensor | None:
        """Return what is added before the recurrence, over directions and gates at once."""
        bias, rows = self.node.optional(3), self.gates * self.hidden
        if bias is None:
            return None
        early = rows - self.hidden if self._resets_late() else rows
        if bias.value is not None:
            total = bias.value[:, :rows].copy()
            total[:, :early] += bias.value[:, rows : rows + early]
            return constant(f"{self.node.name}.bias", total.reshape(-1))
        shape = (as_poly(rows * self.directions),)
        (axis,) = axes_for(shape)
        d, n = var(axis) // rows, var(axis) % rows
        within = (Within(n, as_poly(early)),)
        added = guard(within, bias.at(d, n + rows), const(0, bias.dtype))
        body = binary("add", bias.at(d, n), added)
        return self.node.temporary("bias", shape, bias.dtype, Definition((axis,), body))

    def _resets_late(self) -> bool:
        return bool(self.node.attribute("linear_before_reset", 0))

    # -- expressions at (direction, batch, hidden) -------------------------------------------

    def _time(self) -> Poly:
        """Return the position in the sequence that a step works on."""
        t, d = var(self.step), var(self.outer)
        if not any(self.reversed):
            return t
        if self.lengths is None:
            back = self.steps - 1 - t
            return back if all(self.reversed) else t + d * (back - t)
        length = cast(self.lengths.at(var(self.row)), "int64")
        last = binary("sub", length, 1)
        now = IndexValue(t, "int64")
        back_now = select(compare("lt", now, length), binary("sub", last, now), now)
        if not all(self.reversed):
            back_now = self.by_direction(now, back_now)
        return index_of(back_now, 0, self.steps)

    def by_direction(self, *choices: Expr) -> Expr:
        """Choose by direction."""
        if len(choices) == 1 or all(c == choices[0] for c in choices):
            return choices[0]
        forward = compare("eq", IndexValue(var(self.outer), "int64"), 0)
        return select(forward, choices[0], choices[1])

    def activate(self, function: int, gate: Expr) -> Expr:
        """Apply an activation function to a gate, clipped first if the node says so."""
        clip = self.node.attribute("clip")
        if clip:
            gate = binary("min", binary("max", gate, -float(clip)), float(clip))
        return self.apply(function, gate)

    def apply(self, function: int, x: Expr) -> Expr:
        """Apply an activation function."""
        return self.by_direction(*(f[function](x) for f in self.functions))

    def gate(self, gate: int, product: int) -> Expr:
        """Return a gate before its activation: product number ``product`` plus the inputs' part."""
        return binary("add", self.inputs(gate), Var(gate_name(product), self.dtype))

    def inputs(self, gate: int) -> Expr:
        """Return the inputs' part of a gate, biases included."""
        place = var(self.outer) * (self.gates * self.hidden) + gate * self.hidden + var(self.col)
        return self.projected.at(self.time, var(self.row), place)

    def parameter(self, position: int, offset: int) -> Expr:
        """Return an element of a bias or of peephole weights."""
        source = self.node.input(position)
        return cast(source.at(var(self.outer), var(self.col) + offset), self.dtype)

    def weights(self, *gates: int) -> tuple[Expr, ...]:
        """Return the recurrence weights of some gates."""
        r, col, depth = self.node.input(2), var(self.col), var(self.depth)
        return tuple(r.at(var(self.outer), col + g * self.hidden, depth) for g in gates)

    def state(self, name: str) -> Var:
        """Return a state as it was before the phase."""
        return Var(name, self.dtype)

    def set(self, name: str, value: Expr) -> Assign:
        """Assign to a state."""
        return Assign(IndexValue(self.steps + self.states.index(name), "int64"), value)

    def held(self, name: str, value: Expr) -> Expr:
        """Return a new state, or the old one where a sequence is over."""
        inside = self._inside()
        return value if inside is None else select(inside, value, self.state(name))

    def output(self, value: Expr) -> Assign:
        """Write the step's output, 0 where a sequence is over."""
        inside = self._inside()
        if inside is not None:
            value = select(inside, value, const(0, value.dtype))
        return Assign(IndexValue(self.time, "int64"), value)

    def _inside(self) -> Expr | None:
        if self.lengths is None:
            return None
        length = cast(self.lengths.at(var(self.row)), "int64")
        return compare("lt", IndexValue(var(self.step), "int64"), length)

    # -- results -----------------------------------------------------------------------------

    def start(self, name: str, position: int) -> Assign:
        """Set a state to its initial value, an optional input."""
        given = self.node.optional(position)
        if given is None:
            return self.set(name, const(0, self.dtype))
        index = self._placed(var(self.outer), var(self.row), var(self.col))
        return self.set(name, cast(given.at(*index), self.dtype))

    def _placed(self, d: Poly, b: Poly, j: Poly) -> tuple[Poly, Poly, Poly]:
        return (b, d, j) if self.batch_first else (d, b, j)

    def results(self, start: tuple[Assign, ...], phases: tuple[Phase, ...]) -> list[Tensor]:
        """Return the outputs as views of the tensor that holds all steps and states."""
        places = tuple((name, self.steps + k) for k, name in enumerate(self.states))
        recur = Recur(self.outer, self.row, self.step, self.col, self.depth, places, start, phases)
        extents = (self.outer.extent, self.batch, self.col.extent)
        shape = (self.steps + len(self.states), *extents)
        definition = Definition(axes_for(shape), const(0, self.dtype), recur)
        whole = self.node.temporary("states", shape, self.dtype, definition)
        whole.order = (0, 2, 1, 3)
        found = [self._sequence(whole)]
        for k, name in enumerate(self._finals()):
            found.append(self._final(whole, self.steps + self.states.index(name), k + 1))
        return found

    def _finals(self) -> tuple[str, ...]:
        return tuple(name for name in ("h", "c") if name in self.states)

    def _sequence(self, whole: Tensor) -> Tensor:
        dtype = self.node.input(0).dtype
        order = (2, 0, 1, 3) if self.batch_first else (0, 1, 2, 3)
        extents = (self.steps, self.outer.extent, self.batch, self.col.extent)

        def body(*axes: Axis) -> Expr:
            index = (var(axes[order.index(k)]) for k in range(4))
            return cast(whole.at(*index), dtype)

        return self.node.pointwise(tuple(extents[k] for k in order), dtype, body)

    def _final(self, whole: Tensor, place: Poly, output: int) -> Tensor:
        dtype = self.node.input(0).dtype
        shape = self._placed(self.outer.extent, self.batch, self.col.extent)

        def body(*axes: Axis) -> Expr:
            d, b = (1, 0) if self.batch_first else (0, 1)
            return cast(whole.at(place, var(axes[d]), var(axes[b]), var(axes[2])), dtype)

        return self.node.pointwise(shape, dtype, body, output=output)


def _reversed_directions(node: Node) -> tuple[bool, ...]:
    """Return whether each direction runs backwards."""
    name = node.attribute("direction", "forward")
    name = name.decode() if isinstance(name, bytes) else name
    known = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    if name not in known:
        raise node.error(f"direction {name!r} is not one of {', '.join(known)}")
    return known[name]


def _one_minus(x: Expr) -> Expr:
    return binary("sub", const(1.0, x.dtype), x)


def _keep(layer: _Layer) -> Phase:
    """Take over the next hidden state, once no product needs the last one any more."""
    return Phase("", (), (layer.set("h", layer.state("next")),))


def lower_lstm(node: Node) -> list[Tensor]:
    """Lower ``LSTM``, gates in the order input, output, forget, cell; source: ONNX LSTM.

    Like ONNX Runtime and OpenVINO, ``clip`` bounds the gates but not the cell on its way to ``h``.
    """
    layer = _Layer(node, 4, ("h", "next", "c"), ("Sigmoid", "Tanh", "Tanh"))
    before = layer.state("c")

    def peephole(gate: Expr, number: int, cell: Expr) -> Expr:
        if node.optional(7) is None:
            return gate
        weight = layer.parameter(7, number * layer.hidden)
        return binary("add", gate, binary("mul", weight, cell))

    enter = layer.activate(0, peephole(layer.gate(0, 0), 0, before))
    forget = layer.activate(0, peephole(layer.gate(2, 2), 2, before))
    if node.attribute("input_forget", 0):
        forget = _one_minus(enter)
    fresh = layer.activate(1, layer.gate(3, 3))
    cell = binary("add", binary("mul", forget, before), binary("mul", enter, fresh))
    leave = layer.activate(0, peephole(layer.gate(1, 1), 1, cell))
    hidden = binary("mul", leave, layer.apply(2, cell))
    assigns = (
        layer.set("c", layer.held("c", cell)),
        layer.set("next", layer.held("h", hidden)),
        layer.output(hidden),
    )
    start = (layer.start("h", 5), layer.start("c", 6))
    return layer.results(start, (Phase("h", layer.weights(0, 1, 2, 3), assigns), _keep(layer)))


def lower_gru(node: Node) -> list[Tensor]:
    """Lower ``GRU``, gates in the order update, reset, hidden; source: ONNX GRU."""
    if node.attribute("linear_before_reset", 0):
        return _late_reset(node)
    layer = _Layer(node, 3, ("h", "update", "reset"), ("Sigmoid", "Tanh"))
    before = layer.state("h")
    first = Phase(
        "h",
        layer.weights(0, 1),
        (
            layer.set("update", layer.activate(0, layer.gate(0, 0))),
            layer.set("reset", binary("mul", layer.activate(0, layer.gate(1, 1)), before)),
        ),
    )
    hidden = _blend(layer.state("update"), layer.activate(1, layer.gate(2, 0)), before)
    assigns = (layer.set("h", layer.held("h", hidden)), layer.output(hidden))
    return layer.results((layer.start("h", 5),), (first, Phase("reset", layer.weights(2), assigns)))


def _late_reset(node: Node) -> list[Tensor]:
    """Lower a GRU that multiplies the state by its weights before it is reset."""
    layer = _Layer(node, 3, ("h", "next"), ("Sigmoid", "Tanh"))
    product: Expr = Var(gate_name(2), layer.dtype)
    if node.optional(3) is not None:
        product = binary("add", product, layer.parameter(3, 5 * layer.hidden))
    update, reset = layer.activate(0, layer.gate(0, 0)), layer.activate(0, layer.gate(1, 1))
    fresh = layer.activate(1, binary("add", layer.inputs(2), binary("mul", reset, product)))
    hidden = _blend(update, fresh, layer.state("h"))
    assigns = (layer.set("next", layer.held("h", hidden)), layer.output(hidden))
    phases = (Phase("h", layer.weights(0, 1, 2), assigns), _keep(layer))
    return layer.results((layer.start("h", 5),), phases)


def _blend(update: Expr, fresh: Expr, before: Expr) -> Expr:
    """Return ``(1 - z) h + z H``."""
    return binary("add", binary("mul", _one_minus(update), fresh), binary("mul", update, before))


def lower_rnn(node: Node) -> list[Tensor]:
    """Lower ``RNN``; source: ONNX RNN."""
    layer = _Layer(node, 1, ("h", "next"), ("Tanh",))
    hidden = layer.activate(0, layer.gate(0, 0))
    assigns = (layer.set("next", layer.held("h", hidden)), layer.output(hidden))
    phases = (Phase("h", layer.weights(0), assigns), _keep(layer))
    return layer.results((layer.start("h", 5),), phases)


OPS: tuple[Op, ...] = (Op("LSTM", lower_lstm), Op("GRU", lower_gru), Op("RNN", lower_rnn))
