"""Short names for building expressions."""

from __future__ import annotations

from whet.dtypes import DTYPES
from whet.index import Poly
from whet.kernel.expr import Call, Const, Expr, IndexValue


def const(value: float | int | bool, dtype: str) -> Const:
    """Return a number of an element type."""
    return Const(value, dtype)


def unary(op: str, x: Expr) -> Expr:
    """Apply a one-operand operation."""
    return Call(op, (x,), x.dtype)


def binary(op: str, x: Expr, y: Expr | float | int) -> Expr:
    """Apply a two-operand operation; a Python number takes the type of ``x``."""
    right = y if isinstance(y, Expr) else Const(y, x.dtype)
    return Call(op, (x, right), x.dtype)


def inverse(x: Expr) -> Expr:
    """Return ``1 / x``."""
    return binary("div", const(1.0, x.dtype), x)


def compare(op: str, x: Expr, y: Expr | float | int) -> Expr:
    """Compare; the result is ``bool``."""
    right = y if isinstance(y, Expr) else Const(y, x.dtype)
    return Call(op, (x, right), "bool")


def select(condition: Expr, x: Expr, y: Expr) -> Expr:
    """Choose between two values."""
    return Call("select", (condition, x, y), x.dtype)


def cast(x: Expr, dtype: str) -> Expr:
    """Convert to an element type."""
    return x if x.dtype == dtype else Call("cast", (x,), dtype)


def reinterpret(x: Expr, dtype: str) -> Expr:
    """Return the value of another element type of the same width that has the same bits."""
    return x if x.dtype == dtype else Call("bitcast", (x,), dtype)


def index_value(p: Poly, dtype: str) -> Expr:
    """Return an index as a number."""
    return IndexValue(p, dtype)


def compute_type(dtype: str) -> str:
    """Return the type in which sums of an element type are taken."""
    return "float32" if DTYPES[dtype].is_float and DTYPES[dtype].size < 4 else dtype
