"""Floating-point building blocks shared by all functions: formats, polynomials, exponents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import msgspec

from whet.codegen.writing.builder import (
    F32,
    F64,
    I32,
    I64,
    Builder,
    Value,
    const,
    element,
    lanes,
    vector,
)


class Format(msgspec.Struct, frozen=True):
    """A binary floating-point format and the integer of the same width."""

    name: str
    integer: str
    bits: int
    fraction: int
    bias: int

    @property
    def magic(self) -> float:
        """``1.5 * 2^fraction``: adding it rounds to an integer, left in the low bits."""
        return 1.5 * 2.0**self.fraction

    @property
    def magic_bits(self) -> int:
        """The bit pattern of ``magic``."""
        return (self.bias + self.fraction) << self.fraction | 1 << (self.fraction - 1)


SINGLE_BITS = 32
FORMATS = {F32: Format(F32, I32, 32, 23, 127), F64: Format(F64, I64, 64, 52, 1023)}


class Lanes:
    """Arithmetic on one vector type: every method writes the instruction it is named after.

    Plain numbers stand for splatted constants.
    """

    def __init__(self, b: Builder, type_: str) -> None:
        self.b = b
        self.type = type_
        self.format = FORMATS[element(type_)]
        self.single = self.format.bits == SINGLE_BITS
        self.integers = vector(self.format.integer, lanes(type_))

    # -- floats ------------------------------------------------------------------------------

    def f(self, x: Value | float) -> Value:
        """Return a float operand."""
        return x if isinstance(x, Value) else const(self.type, x)

    def add(self, x: Value | float, y: Value | float) -> Value:
        """Return ``x + y``."""
        return self.b.binary("fadd", self.f(x), self.f(y))

    def sub(self, x: Value | float, y: Value | float) -> Value:
        """Return ``x - y``."""
        return self.b.binary("fsub", self.f(x), self.f(y))

    def mul(self, x: Value | float, y: Value | float) -> Value:
        """Return ``x * y``."""
        return self.b.binary("fmul", self.f(x), self.f(y))

    def div(self, x: Value | float, y: Value | float) -> Value:
        """Return ``x / y``."""
        return self.b.binary("fdiv", self.f(x), self.f(y))

    def fma(self, x: Value | float, y: Value | float, z: Value | float) -> Value:
        """Return ``x * y + z`` with one rounding."""
        return self.b.fma(self.f(x), self.f(y), self.f(z))

    def neg(self, x: Value) -> Value:
        """Return ``-x``."""
        return self.b.op(f"fneg {x}", x.type)

    def call(self, name: str, *args: Value | float) -> Value:
        """Call an intrinsic that is one instruction on every target, such as ``sqrt``."""
        return self.b.call_intrinsic(f"llvm.{name}", self.type, *(self.f(x) for x in args))

    def abs(self, x: Value) -> Value:
        """Return ``|x|``."""
        return self.call("fabs", x)

    def copysign(self, x: Value | float, sign: Value) -> Value:
        """Return ``|x|`` with the sign of ``sign``."""
        return self.call("copysign", x, sign)

    def horner(self, coefficients: Sequence[float], x: Value) -> Value:
        """Return the polynomial with these coefficients, lowest order first."""
        result = self.f(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            result = self.fma(result, x, c)
        return result

    def odd(self, coefficients: Sequence[float], x: Value) -> Value:
        """Return ``x + x^3 P(x^2)`` with the sign of ``x``, zero included."""
        u = self.mul(x, x)
        return self.copysign(self.fma(self.mul(u, self.horner(coefficients, u)), x, x), x)

    # -- choice ------------------------------------------------------------------------------

    def test(self, predicate: str, x: Value | float, y: Value | float) -> Value:
        """Compare floats."""
        return self.b.fcmp(predicate, self.f(x), self.f(y))

    def pick(self, condition: Value, x: Value | float, y: Value | float) -> Value:
        """Return ``x`` where the condition holds, else ``y``."""
        return self.b.select(condition, self.f(x), self.f(y))

    def upper(self, x: Value, limit: float) -> Value:
        """Return ``min(x, limit)``, NaN kept: one instruction on x86."""
        return self.pick(self.test("olt", limit, x), limit, x)

    def lower(self, x: Value, limit: float) -> Value:
        """Return ``max(x, limit)``, NaN kept: one instruction on x86."""
        return self.pick(self.test("ogt", limit, x), limit, x)

    def clamp(self, x: Value, low: float, high: float) -> Value:
        """Return ``x`` limited to ``[low, high]``, NaN kept."""
        return self.upper(self.lower(x, low), high)

    def both(self, x: Value, y: Value) -> Value:
        """Return the conjunction of two masks."""
        return self.b.binary("and", x, y)

    def any(self, mask: Value) -> Value:
        """Return whether a mask holds in any lane."""
        if lanes(mask.type) == 1:
            return mask
        return self.b.call(f"llvm.vector.reduce.or.v{lanes(mask.type)}i1", "i1", mask)

    # -- integers ----------------------------------------------------------------------------

    def i(self, n: Value | int) -> Value:
        """Return an integer operand; constants wrap to the width of the format."""
        if isinstance(n, Value):
            return n
        half = 1 << (self.format.bits - 1)
        return const(self.integers, (n + half) % (2 * half) - half)

    def integer(self, opcode: str, x: Value | int, y: Value | int) -> Value:
        """Write an integer instruction, such as ``add`` or ``shl``."""
        return self.b.binary(opcode, self.i(x), self.i(y))

    def itest(self, predicate: str, x: Value | int, y: Value | int) -> Value:
        """Compare integers."""
        return self.b.icmp(predicate, self.i(x), self.i(y))

    def bits(self, x: Value) -> Value:
        """Return the bit pattern of floats."""
        return self.b.cast("bitcast", x, self.integers)

    def from_bits(self, n: Value) -> Value:
        """Return the floats with these bit patterns."""
        return self.b.cast("bitcast", n, self.type)

    def real(self, n: Value) -> Value:
        """Convert integers of magnitude below ``2^(fraction-1)`` to floats.

        ``bitcast(n + bits(magic)) - magic``: two instructions wherever the direct conversion of
        64-bit lanes does not exist (AVX2).
        """
        return self.sub(
            self.from_bits(self.integer("add", n, self.format.magic_bits)), self.format.magic
        )

    def round(self, x: Value, scale: float, shift: int = 0) -> tuple[Value, Value]:
        """Return ``round(x * scale)`` as floats, and as integers ``shift`` more, above garbage.

        Only the low ``fraction - 1`` bits of the integers mean something.
        """
        magic = self.format.magic + shift
        raised = self.fma(x, scale, magic)
        return self.sub(raised, magic), self.bits(raised)

    def power(self, n: Value) -> Value:
        """Return ``2^(n - bias)`` for biased exponents; higher bits of ``n`` are ignored."""
        return self.from_bits(self.integer("shl", n, self.format.fraction))

    def xor_sign(self, x: Value, sign: Value) -> Value:
        """Flip the sign of ``x`` where the top bit of the integer is set."""
        mask = self.integer("and", sign, 1 << (self.format.bits - 1))
        return self.from_bits(self.integer("xor", self.bits(x), mask))


def split(value: str, format_: Format, parts: int, keep: int | None = None) -> tuple[float, ...]:
    """Cut a positive decimal constant into floats that add up to it.

    Each but the last has ``keep`` bits. Parts are cut off, not rounded, so that none is negative:
    ``fma(0, -part, -0.0)`` then stays -0.
    """
    rest, result = Fraction(value), []
    for index in range(parts):
        precision = keep if keep and index < parts - 1 else format_.fraction + 1
        scale = Fraction(2) ** (precision - 1 - _exponent(rest))
        piece = Fraction(int(rest * scale) if index < parts - 1 else round(rest * scale)) / scale
        result.append(float(piece))
        rest -= piece
    return tuple(result)


def _exponent(number: Fraction) -> int:
    return math.frexp(float(number))[1] - 1
