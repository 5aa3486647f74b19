"""Random numbers: RandomUniform, RandomNormal, their Like forms, Bernoulli, Multinomial, Dropout.

Every element draws its bits from a counter, its place in the result, and a key, the seed. So the
same numbers come from any number of threads and for every run: a node without a seed takes one from
its name when it is compiled, as ONNX lets an implementation choose it.
"""

from __future__ import annotations

import hashlib
import math
import struct

from whet.errors import UnsupportedError
from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Call, Const, Expr, IndexValue, Var
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, compare, const, select, unary
from whet.ops.node import Node, Op
from whet.ops.operand import attribute_float, operand
from whet.ops.pointwise import element_type
from whet.ops.views import reshaped

DIGITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
"""Bits of a fraction that a type holds exactly."""

WORD = 32
ALL = 64


def key_of(node: Node) -> int:
    """Return the 32 bits that stand for a node's seed."""
    seed = node.attribute("seed")
    if seed is not None:
        return int(struct.unpack("<I", struct.pack("<f", float(seed)))[0])
    return int.from_bytes(hashlib.blake2b(node.name.encode(), digest_size=4).digest(), "little")


def bits_at(node: Node, place: Poly) -> Expr:
    """Return 64 random bits for a place in the sequence of a node."""
    counter = IndexValue(place, "uint64")
    return Call("random_bits", (counter, const(key_of(node), "uint64")), "uint64")


def fraction(bits: Expr, dtype: str, *, shift: int = 0) -> Expr:
    """Return a fraction in [0, 1) of the bits behind the first ``shift``, in a register's type."""
    wide = "float64" if dtype == "float64" else "float32"
    digits = DIGITS[dtype]
    moved = binary("shl", bits, shift) if shift else bits
    whole = cast(binary("shr", moved, ALL - digits), "int64" if digits > WORD else "int32")
    return binary("mul", cast(whole, wide), 2.0**-digits)


def _flat(axes: tuple[Axis, ...]) -> Poly:
    place = as_poly(0)
    for axis in axes:
        place = place * axis.extent + var(axis)
    return place


def _form(node: Node) -> tuple[tuple[Poly, ...], str]:
    """Return shape and type of the result of a generator."""
    code = node.attribute("dtype")
    if node.inputs:
        source = node.input(0)
        shape, dtype = source.shape, source.dtype if code is None else element_type(node, code)
    else:
        shape = tuple(as_poly(int(n)) for n in node.attribute("shape"))
        dtype = element_type(node, 1 if code is None else code)
    if dtype not in DIGITS:
        raise node.error(f"random numbers of type {dtype}", hint="give dtype a float type")
    return shape, dtype


def _uniform(node: Node) -> list[Tensor]:
    shape, dtype = _form(node)
    low, high = attribute_float(node, "low", 0.0), attribute_float(node, "high", 1.0)

    def body(*axes: Axis) -> Expr:
        unit = fraction(bits_at(node, _flat(axes)), dtype)
        return cast(binary("add", binary("mul", unit, high - low), low), dtype)

    return [node.pointwise(shape, dtype, body)]


def _normal(node: Node) -> list[Tensor]:
    """Lower by the method of Box and Muller: ``sqrt(-2 log u) cos(2 pi v)``, ``u`` in (0, 1]."""
    shape, dtype = _form(node)
    mean, scale = attribute_float(node, "mean", 0.0), attribute_float(node, "scale", 1.0)
    exact = "float64" if dtype == "float64" else "float32"

    def body(*axes: Axis) -> Expr:
        place = _flat(axes)
        if exact == "float64":
            u = fraction(bits_at(node, place * 2), exact)
            v = fraction(bits_at(node, place * 2 + 1), exact)
        else:
            bits = bits_at(node, place)
            u, v = fraction(bits, exact), fraction(bits, exact, shift=WORD)
        positive = binary("sub", const(1.0, exact), u)
        radius = unary("sqrt", binary("mul", unary("log", positive), -2.0))
        drawn = binary("mul", radius, unary("cos", binary("mul", v, 2 * math.pi)))
        return cast(binary("add", binary("mul", drawn, scale), mean), dtype)

    return [node.pointwise(shape, dtype, body)]


def _bernoulli(node: Node) -> list[Tensor]:
    x, code = node.input(0), node.attribute("dtype")
    dtype = x.dtype if code is None else element_type(node, code)
    kind = "float64" if x.dtype == "float64" else "float32"

    def body(*axes: Axis) -> Expr:
        unit = fraction(bits_at(node, _flat(axes)), kind)
        return cast(compare("lt", unit, cast(operand(x, axes), kind)), dtype)

    return [node.pointwise(x.shape, dtype, body)]


def _multinomial(node: Node) -> list[Tensor]:
    """Lower by Gumbel's trick: the class where ``x - log(-log u)`` is largest has its share."""
    x, count = node.input(0), int(node.attribute("sample_size", 1))
    if x.rank != 2:
        raise node.error(f"needs rank 2, not {x.rank}")
    dtype = element_type(node, node.attribute("dtype", 6))
    if dtype not in ("int32", "int64"):
        raise node.error(f"indices of type {dtype}", hint="int32 or int64")
    shape = (x.shape[0], as_poly(count))
    row, sample = axes_for(shape)
    choice = Axis("choice", x.shape[1])
    unit = fraction(bits_at(node, _flat((row, sample, choice))), "float32")
    inside = binary("add", unit, 2.0**-25)
    noise = unary("neg", unary("log", unary("neg", unary("log", inside))))
    score = binary("add", cast(x.at(var(row), var(choice)), "float32"), noise)
    place = IndexValue(var(choice), dtype)
    last = IndexValue(x.shape[1] - 1, dtype)
    best = compare("eq", score, Var("best", "float32"))
    steps = (
        Step("best", "max", (choice,), score, "float32"),
        Step("place", "min", (choice,), select(best, place, last), dtype),
    )
    definition = Definition((row, sample), Var("place", dtype), Steps(steps))
    return [node.define(shape, dtype, definition)]


def _dropout(node: Node) -> list[Tensor]:
    """Lower ``Dropout``: in training, elements stay with probability ``1 - ratio`` and grow."""
    x, training = node.input(0), node.optional(2)
    if training is None or (training.value is not None and not training.value.any()):
        mask = node.pointwise(x.shape, "bool", lambda *_: Const(True, "bool"), output=1)
        return [reshaped(node, x, x.shape), mask]
    if x.dtype not in DIGITS:
        raise UnsupportedError(f"Dropout of {x.dtype} in training mode", where=node.name)
    kind = "float64" if x.dtype == "float64" else "float32"

    def ratio() -> Expr:
        given = node.optional(1)
        return const(0.5, kind) if given is None else cast(_scalar(node, given), kind)

    def stays(*axes: Axis) -> Expr:
        kept = compare("ge", fraction(bits_at(node, _flat(axes)), kind), ratio())
        idle = unary("not", _scalar(node, training))
        return kept if training.value is not None else binary("or", kept, idle)

    def body(*axes: Axis) -> Expr:
        value = cast(operand(x, axes), kind)
        scale = binary("div", const(1.0, kind), binary("sub", const(1.0, kind), ratio()))
        if training.value is None:
            scale = select(_scalar(node, training), scale, const(1.0, kind))
        grown = binary("mul", value, scale)
        return cast(select(stays(*axes), grown, const(0.0, kind)), x.dtype)

    mask = node.pointwise(x.shape, "bool", stays, output=1)
    return [node.pointwise(x.shape, x.dtype, body), mask]


def _scalar(node: Node, given: Tensor) -> Expr:
    if given.rank == 0:
        return operand(given, ())
    if given.size != 1:
        raise node.error(f"{given.name} of shape {list(given.shape)} is no scalar")
    return given.at(*(0 for _ in given.shape))


OPS: tuple[Op, ...] = (
    Op("RandomUniform", _uniform),
    Op("RandomUniformLike", _uniform),
    Op("RandomNormal", _normal),
    Op("RandomNormalLike", _normal),
    Op("Bernoulli", _bernoulli),
    Op("Multinomial", _multinomial),
    Op("Dropout", _dropout),
)
