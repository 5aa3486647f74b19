"""Floats of at most 8 bits: their codes to ``float`` and back, a vector at a time."""

from __future__ import annotations

import math
import struct

from whet.codegen.writing.builder import F32, Builder, Value, const, lanes, vector
from whet.dtypes import SmallFloat

I8, I32 = "i8", "i32"
FRACTION_BITS = 23
SINGLE_BIAS = 127
INFINITY_BITS = 0x7F800000
NAN_BITS = 0x7FC00000
MAGNITUDE = 0x7FFFFFFF
TINIEST_POWER = 0x00400000


def decode(b: Builder, code: Value, form: SmallFloat) -> Value:
    """Return the exact value of codes (``i8``) as ``float``.

    A normal code is moved into place and its exponent rebiased; a subnormal one is its integer
    times the smallest step.
    """
    wide = b.cast("zext", code, vector(I32, lanes(code.type)))
    if form.special == "power":
        return _decode_power(b, wide)
    width = form.exponent + form.mantissa
    magnitude = b.binary("and", wide, const(wide.type, (1 << width) - 1))
    moved = b.binary("shl", magnitude, const(wide.type, FRACTION_BITS - form.mantissa))
    rebias = const(wide.type, (SINGLE_BIAS - form.bias) << FRACTION_BITS)
    floats = vector(F32, lanes(code.type))
    step = const(floats, 2.0 ** (1 - form.bias - form.mantissa))
    tiny = b.binary("fmul", b.cast("sitofp", magnitude, floats), step)
    is_tiny = b.icmp("ult", magnitude, const(wide.type, 1 << form.mantissa))
    bits = b.select(is_tiny, b.cast("bitcast", tiny, wide.type), b.binary("add", moved, rebias))
    bits = _special_bits(b, bits, (wide, magnitude, moved), form)
    sign = b.binary("and", wide, const(wide.type, 1 << width))
    sign = b.binary("shl", sign, const(wide.type, 31 - width))
    return b.cast("bitcast", b.binary("or", bits, sign), floats)


def _special_bits(
    b: Builder, bits: Value, codes: tuple[Value, Value, Value], form: SmallFloat
) -> Value:
    """Return the bits of finite values with those of infinities and NaN put in."""
    wide, magnitude, moved = codes
    largest = const(wide.type, form.largest)
    if form.special == "finite":
        return bits
    if form.special == "ieee":
        special = b.binary("or", moved, const(wide.type, INFINITY_BITS))
        return b.select(b.icmp("ugt", magnitude, largest), special, bits)
    if form.special == "fn":
        is_nan = b.icmp("ugt", magnitude, largest)
    else:
        is_nan = b.icmp("eq", wide, const(wide.type, form.largest + 1))
    return b.select(is_nan, const(wide.type, NAN_BITS), bits)


def _decode_power(b: Builder, wide: Value) -> Value:
    """Return powers of two: the code is the exponent of a ``float``, whose 0 is subnormal."""
    moved = b.binary("shl", wide, const(wide.type, FRACTION_BITS))
    least = b.icmp("eq", wide, const(wide.type, 0))
    bits = b.select(least, const(wide.type, TINIEST_POWER), moved)
    is_nan = b.icmp("eq", wide, const(wide.type, 0xFF))
    bits = b.select(is_nan, const(wide.type, NAN_BITS), bits)
    return b.cast("bitcast", bits, vector(F32, lanes(wide.type)))


def encode(b: Builder, value: Value, form: SmallFloat) -> Value:
    """Return the codes (``i8``) of ``float`` values, rounded to nearest, ties to even.

    What is too large becomes an infinity where there is one, else NaN where there is one, else
    the largest value. Where there is no NaN, it becomes the zero of the other sign.
    """
    assert form.special != "power", "powers of two are rounded as their caller asks"
    count = lanes(value.type)
    bits = b.cast("bitcast", value, vector(I32, count))
    size = b.binary("and", bits, const(bits.type, MAGNITUDE))
    code = _rounded(b, size, form)
    negative = b.icmp("slt", bits, const(bits.type, 0))
    top = const(bits.type, 1 << (form.exponent + form.mantissa))
    sign = b.select(negative, top, const(bits.type, 0))
    beyond = b.icmp("ugt", code, const(bits.type, form.largest))
    is_nan = b.icmp("ugt", size, const(bits.type, INFINITY_BITS))
    if form.special == "fnuz":
        code = b.select(b.icmp("eq", code, const(bits.type, 0)), code, b.binary("or", code, sign))
        code = b.select(beyond, top, code)
    elif form.special == "finite":
        code = b.select(beyond, const(bits.type, form.largest), code)
        flipped = b.binary("xor", sign, top)
        code = b.select(is_nan, flipped, b.binary("or", code, sign))
    else:
        code = b.select(beyond, const(bits.type, form.largest + 1), code)
        quiet = form.largest + 1 + (1 << form.mantissa >> 1 if form.special == "ieee" else 0)
        code = b.binary("or", b.select(is_nan, const(bits.type, quiet), code), sign)
    return b.cast("trunc", code, vector(I8, count))


def _rounded(b: Builder, size: Value, form: SmallFloat) -> Value:
    """Return the code of a magnitude without regard to the largest one.

    Normal values are rounded on their bits; for subnormal ones the addition of a power of two,
    whose last place is the smallest step, rounds and leaves the code in the lowest bits.
    """
    drop = FRACTION_BITS - form.mantissa
    floats = vector(F32, lanes(size.type))
    odd = b.binary("and", b.binary("lshr", size, const(size.type, drop)), const(size.type, 1))
    half = b.binary("add", size, const(size.type, (1 << (drop - 1)) - 1))
    kept = b.binary("lshr", b.binary("add", half, odd), const(size.type, drop))
    normal = b.binary("sub", kept, const(size.type, (SINGLE_BIAS - form.bias) << form.mantissa))
    step = 2.0 ** (1 - form.bias - form.mantissa + FRACTION_BITS)
    moved = b.binary("fadd", b.cast("bitcast", size, floats), const(floats, step))
    shifted = b.cast("bitcast", moved, size.type)
    tiny = b.binary("sub", shifted, const(size.type, _bits_of(step)))
    least = const(size.type, _bits_of(2.0 ** (1 - form.bias)))
    return b.select(b.icmp("ult", size, least), tiny, normal)


def _bits_of(number: float) -> int:
    assert math.isfinite(number)
    return int(struct.unpack("<I", struct.pack("<f", number))[0])
