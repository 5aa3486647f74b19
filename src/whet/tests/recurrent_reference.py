"""LSTM, GRU and RNN in NumPy and double precision, written from ONNX's equations, every option."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Function = Callable[[Array], Array]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
ALPHA = {"Affine": 1.0, "LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": 1.0}
ALPHA |= {"HardSigmoid": 0.2, "Elu": 1.0}
BETA = {"Affine": 0.0, "ScaledTanh": 1.0, "HardSigmoid": 0.5}


def reference(op: str, inputs: dict[str, Array], **attributes: Any) -> tuple[Array, ...]:
    """Return all outputs of a recurrent layer.

    Args:
        op: ``LSTM``, ``GRU`` or ``RNN``.
        inputs: by name as in ONNX: ``X``, ``W``, ``R`` and optionally ``B``, ``sequence_lens``,
            ``initial_h``, ``initial_c``, ``P``.
        attributes: as in ONNX.
    """
    a = {k: np.asarray(v, np.float64) for k, v in inputs.items() if k != "sequence_lens"}
    batch_first = bool(attributes.get("layout", 0))
    x = a["X"].swapaxes(0, 1) if batch_first else a["X"]
    steps, batch, _ = x.shape
    directions, hidden = a["R"].shape[0], a["R"].shape[2]
    lengths = inputs.get("sequence_lens", np.full(batch, steps))
    whole = np.zeros((steps, directions, batch, hidden))
    finals = [np.zeros((directions, batch, hidden)) for _ in range(2)]
    backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    functions = _functions(op, directions, attributes)
    for d, back in enumerate(backwards[attributes.get("direction", "forward")]):
        for b in range(batch):
            state = [np.zeros(hidden), np.zeros(hidden)]
            for k, name in enumerate(("initial_h", "initial_c")):
                if name in a:
                    state[k] = a[name][b, d] if batch_first else a[name][d, b]
            order = range(int(lengths[b]))
            for t in reversed(order) if back else order:
                state = CELLS[op](_Step(a, d, x[t, b], functions[d], attributes), *state)
                whole[t, d, b] = state[0]
            for final, value in zip(finals, state, strict=True):
                final[d, b] = value
    if batch_first:
        whole = whole.transpose(2, 0, 1, 3)
        finals = [f.swapaxes(0, 1) for f in finals]
    return (whole, *finals) if op == "LSTM" else (whole, finals[0])


class _Step:
    """One step of one sequence: products by gate, biases apart."""

    def __init__(
        self,
        a: dict[str, Array],
        d: int,
        x: Array,
        functions: tuple[Function, ...],
        attributes: dict[str, Any],
    ) -> None:
        rows, self.hidden = a["R"].shape[1:]
        self.gates = rows // self.hidden
        self.r = np.split(a["R"][d], self.gates)
        bias = a["B"][d] if "B" in a else np.zeros(2 * rows)
        self.w_bias, self.r_bias = (np.split(half, self.gates) for half in np.split(bias, 2))
        self.x = np.split(a["W"][d] @ x, self.gates)
        self.peephole = np.split(a["P"][d], 3) if "P" in a else [np.zeros(self.hidden)] * 3
        self.functions, self.attributes = functions, attributes

    def gate(self, gate: int, h: Array) -> Array:
        """Return a gate before its activation."""
        return np.asarray(self.x[gate] + self.r[gate] @ h + self.w_bias[gate] + self.r_bias[gate])

    def activate(self, function: int, gate: Array) -> Array:
        """Clip a gate and apply an activation."""
        clip = self.attributes.get("clip", 0.0) or math.inf
        return np.asarray(self.functions[function](np.clip(gate, -clip, clip)))


def _lstm(s: _Step, h: Array, c: Array) -> list[Array]:
    i = s.activate(0, s.gate(0, h) + s.peephole[0] * c)
    f = s.activate(0, s.gate(2, h) + s.peephole[2] * c)
    if s.attributes.get("input_forget", 0):
        f = 1 - i
    cell = f * c + i * s.activate(1, s.gate(3, h))
    o = s.activate(0, s.gate(1, h) + s.peephole[1] * cell)
    return [o * s.functions[2](cell), cell]


def _gru(s: _Step, h: Array, c: Array) -> list[Array]:
    z, r = s.activate(0, s.gate(0, h)), s.activate(0, s.gate(1, h))
    if s.attributes.get("linear_before_reset", 0):
        fresh = s.x[2] + s.w_bias[2] + r * (s.r[2] @ h + s.r_bias[2])
    else:
        fresh = s.gate(2, r * h)
    return [(1 - z) * s.activate(1, fresh) + z * h, c]


def _rnn(s: _Step, h: Array, c: Array) -> list[Array]:
    return [s.activate(0, s.gate(0, h)), c]


CELLS: dict[str, Callable[[_Step, Array, Array], list[Array]]] = {
    "LSTM": _lstm,
    "GRU": _gru,
    "RNN": _rnn,
}


def _functions(op: str, directions: int, attributes: dict[str, Any]) -> list[tuple[Function, ...]]:
    names = attributes.get("activations") or DEFAULTS[op] * directions
    alphas = iter(attributes.get("activation_alpha", ()))
    betas = iter(attributes.get("activation_beta", ()))
    found = [_function(name, alphas, betas) for name in names]
    count = len(DEFAULTS[op])
    return [tuple(found[d * count : (d + 1) * count]) for d in range(directions)]


def _function(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Function:
    a = next(alphas, ALPHA[name]) if name in ALPHA else 0.0
    b = next(betas, BETA[name]) if name in BETA else 0.0
    table: dict[str, Function] = {
        "Relu": lambda x: np.maximum(x, 0),
        "Tanh": np.tanh,
        "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "Affine": lambda x: a * x + b,
        "LeakyRelu": lambda x: np.where(x >= 0, x, a * x),
        "ThresholdedRelu": lambda x: np.where(x >= a, x, 0),
        "ScaledTanh": lambda x: a * np.tanh(b * x),
        "HardSigmoid": lambda x: np.clip(a * x + b, 0, 1),
        "Elu": lambda x: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))),
        "Softsign": lambda x: x / (1 + np.abs(x)),
        "Softplus": lambda x: np.logaddexp(0, x),
    }
    return table[name]
