"""Discrete Fourier transforms as matrix products, split by the factors of their length.

A transform of ``N = N1 N2`` is ``N2`` transforms of ``N1``, a rotation and ``N1`` transforms of
``N2`` (Cooley and Tukey, 1965); lengths with a large prime factor become a convolution (Bluestein,
1970). Tensors are ``[..., n, m, 2]``: transformed along ``n``, real and imaginary parts last.
"""

from __future__ import annotations

import math

import numpy as np

from whet.index import ONE, Axis, Poly, as_poly, var
from whet.kernel.expr import Const, Expr, IndexValue, Var, Within, guard
from whet.kernel.spec import ACCUMULATOR
from whet.kernel.tensor import Definition, Product, Tensor, axes_for
from whet.ops.build import binary, unary
from whet.ops.node import Node, constant
from whet.ops.operand import number

DIRECT_LENGTH = 64
"""Up to this length a transform is one matrix product."""

LARGEST_FACTOR = 256
"""A longer transform whose length has a larger prime factor becomes a convolution."""

PAIR = as_poly(2)


def transformed(node: Node, x: Tensor, sign: int, name: str = "spectrum") -> Tensor:
    """Return ``y[k] = sum over n of x[n] * exp(sign * 2 pi i n k / N)``, not divided by anything.

    Args:
        node: the node that is lowered.
        x: signals ``[..., N, m, c]``, real (``c`` is 1) or complex (2).
        sign: -1 forwards, 1 backwards.
        name: part of the names of the tensors.
    """
    length = x.shape[-3].constant
    if length is None:
        return _runtime(node, x, sign, name)
    if length <= DIRECT_LENGTH:
        return _direct(node, x, sign, name)
    first = _factor(length)
    if largest_prime(length) > LARGEST_FACTOR:
        return _chirped(node, x, sign, name)
    if first == 1:
        return _direct(node, x, sign, name)
    return _split(node, x, sign, first, name)


def largest_prime(length: int) -> int:
    """Return the largest prime factor."""
    factor, largest = 2, 1
    while length > 1:
        if factor * factor > length:
            return max(largest, length)
        while length % factor == 0:
            length, largest = length // factor, factor
        factor += 1
    return largest


def _factor(length: int) -> int:
    """Return the largest factor up to ``DIRECT_LENGTH`` and the root, or 1."""
    limit = min(DIRECT_LENGTH, math.isqrt(length))
    return max(f for f in range(1, limit + 1) if length % f == 0)


# -- one product -----------------------------------------------------------------------------------


def _matrix(rows: int, columns: int, sign: int, dtype: str) -> np.ndarray:
    """Return ``[c, n, 2 k + c']``: what part ``c`` of ``x[n]`` adds to part ``c'`` of ``y[k]``."""
    turns = np.arange(rows)[:, None] * np.arange(columns) % rows
    angle = sign * 2 * np.pi * turns / rows
    real, imaginary = np.cos(angle), np.sin(angle)
    table = np.stack([[real, imaginary], [-imaginary, real]])  # [c, c', n, k]
    return table.transpose(0, 2, 3, 1).reshape(2, rows, 2 * columns).astype(dtype)


def _direct(node: Node, x: Tensor, sign: int, name: str) -> Tensor:
    length = x.shape[-3].constant or 0
    table = constant(f"{node.name}.{name}.matrix", _matrix(length, length, sign, x.dtype))
    axes = axes_for(x.shape[:-1])
    rows = (*axes[:-2], axes[-1])
    part, n = Axis("c", x.shape[-1]), Axis("n", x.shape[-3])
    col = Axis("k", as_poly(2 * length))
    a = x.at(*map(var, axes[:-2]), var(n), var(axes[-1]), var(part))
    b = table.at(var(part), var(n), var(col))
    product = Product(a, b, rows, col, (part,), n)
    shape = (*(r.extent for r in rows), col.extent)
    body = Var(ACCUMULATOR, x.dtype)
    flat = node.temporary(
        f"{name}.product", shape, x.dtype, Definition((*rows, col), body, product)
    )
    return _view(node, name, x, flat)


def _view(node: Node, name: str, x: Tensor, flat: Tensor) -> Tensor:
    """Return ``[..., m, 2 k + c]`` as ``[..., k, m, c]``."""
    shape = (*x.shape[:-1], PAIR)
    axes = axes_for(shape)
    *outer, k, m, c = map(var, axes)
    return node.temporary(name, shape, x.dtype, Definition(axes, flat.at(*outer, m, k * 2 + c)))


def _runtime(node: Node, x: Tensor, sign: int, name: str) -> Tensor:
    """Transform a run-time length with a matrix that is computed when running."""
    dtype, length = x.dtype, x.shape[-3]
    axes = axes_for((*x.shape[:-1], PAIR))
    outer, m = axes[:-3], axes[-2]
    n, part, col = Axis("n", length), Axis("c", x.shape[-1]), Axis("col", length * 2)
    turns = IndexValue(var(n) * (var(col) // 2) % length, dtype)
    angle = binary("div", binary("mul", turns, sign * 2 * math.pi), number(length, dtype))
    same = guard((Within(var(part) - var(col) % 2, ONE),), unary("cos", angle), _zero(dtype))
    up = guard((Within(var(col) % 2 - var(part) - 1, ONE),), unary("sin", angle), _zero(dtype))
    down = guard((Within(var(part) - var(col) % 2 - 1, ONE),), unary("sin", angle), _zero(dtype))
    weights = binary("sub", binary("add", same, up), down)
    matrix = node.temporary(
        f"{name}.matrix",
        (x.shape[-1], length, length * 2),
        dtype,
        Definition((part, n, col), weights),
    )
    a = x.at(*map(var, outer), var(n), var(m), var(part))
    b = matrix.at(var(part), var(n), var(col))
    rows = (*outer, m)
    product = Product(a, b, rows, col, (part,), n)
    shape = (*(r.extent for r in rows), col.extent)
    body = Var(ACCUMULATOR, dtype)
    flat = node.temporary(f"{name}.product", shape, dtype, Definition((*rows, col), body, product))
    return _view(node, name, x, flat)


def _zero(dtype: str) -> Const:
    return Const(0.0, dtype)


# -- longer ones -----------------------------------------------------------------------------------


def _split(node: Node, x: Tensor, sign: int, first: int, name: str) -> Tensor:
    """Transform ``N1 = first`` elements ``N2`` apart, rotate, and transform what is left.

    ``X[k1 + N1 k2] = sum over n2 of w2^(n2 k2) w^(n2 k1) sum over n1 of w1^(n1 k1) x[N2 n1 + n2]``.
    """
    length, m = x.shape[-3].constant or 0, x.shape[-2]
    second = length // first
    apart = (*x.shape[:-3], as_poly(first), m * second, x.shape[-1])
    axes = axes_for(apart)
    *outer, n1, q, c = map(var, axes)
    element = x.at(*outer, n1 * second + q // m, q % m, c)
    spread = node.temporary(f"{name}.apart", apart, x.dtype, Definition(axes, element))
    inner = transformed(node, spread, sign, f"{name}.first")
    turned = _turned(node, inner, (length, first, second), sign, f"{name}.turned")
    rest = transformed(node, turned, sign, f"{name}.second")
    shape = (*x.shape[:-1], PAIR)
    axes = axes_for(shape)
    *outer, k, column, c = map(var, axes)
    place = (*outer, k // first, column * first + k % first, c)
    return node.temporary(name, shape, x.dtype, Definition(axes, rest.at(*place)))


def _turned(node: Node, x: Tensor, sizes: tuple[int, int, int], sign: int, name: str) -> Tensor:
    """Rotate ``[..., k1, n2 m, 2]`` by ``n2 k1`` turns of ``N``, as ``[..., n2, m k1, 2]``."""
    length, first, second = sizes
    m = x.shape[-2] // second
    turns = np.arange(second)[:, None] * np.arange(first) % length
    table = np.exp(sign * 2j * np.pi * turns / length)
    axes = axes_for((*x.shape[:-3], as_poly(second), m, as_poly(first), PAIR))
    *outer, n2, column, k1, c = map(var, axes)
    at = (*outer, k1, n2 * m + column)
    body = _rotated(node, (x.at(*at, 0), x.at(*at, 1)), table, (n2, k1), c)
    shape = (*x.shape[:-3], as_poly(second), m * first, PAIR)
    index = (*outer, n2, column * first + k1, c)
    return node.temporary(name, shape, x.dtype, Definition(axes, body, None, index))


def _rotated(
    node: Node, value: tuple[Expr, Expr], table: np.ndarray, at: tuple[Poly, ...], part: Poly
) -> Expr:
    """Return one part of a complex product with a constant."""
    real, imaginary = value
    forward = np.stack([table.real, table.imag], -1).astype(real.dtype)
    across = np.stack([-table.imag, table.real], -1).astype(real.dtype)
    name = f"{node.name}.turns{'x'.join(map(str, table.shape))}"
    first = binary("mul", real, constant(name, forward).at(*at, part))
    return binary("add", first, binary("mul", imaginary, constant(name, across).at(*at, part)))


def _chirped(node: Node, x: Tensor, sign: int, name: str) -> Tensor:
    """Transform as a convolution, by transforms of a power of two.

    With ``w[n] = exp(sign pi i n^2 / N)`` and ``2 n k = n^2 + k^2 - (k - n)^2``:
    ``X[k] = w[k] sum over n of (x w)[n] / w[k - n]``.
    """
    length = x.shape[-3].constant or 0
    size = 1 << (2 * length - 2).bit_length()
    places = np.arange(length, dtype=np.int64)
    chirp = np.exp(sign * 1j * np.pi * (places * places % (2 * length)) / length)
    answer = np.zeros(size, np.complex128)
    answer[:length] = chirp.conj()
    answer[size - length + 1 :] = chirp.conj()[:0:-1]
    filtered = np.fft.fft(answer) / size
    padded = _multiplied(node, x, chirp, size, f"{name}.chirp")
    forwards = transformed(node, padded, -1, f"{name}.forwards")
    product = _multiplied(node, forwards, filtered, size, f"{name}.filter")
    backwards = transformed(node, product, 1, f"{name}.backwards")
    return _multiplied(node, backwards, chirp, length, name)


def _multiplied(node: Node, x: Tensor, table: np.ndarray, length: int, name: str) -> Tensor:
    """Return ``x * table`` along the transformed dimension, with zeros behind both."""
    shape = (*x.shape[:-3], as_poly(length), x.shape[-2], PAIR)
    axes = axes_for(shape)
    *outer, n, m, c = map(var, axes)
    at = (*outer, n, m)
    zero: Expr = Const(0.0, x.dtype)
    imaginary = x.at(*at, 1) if x.shape[-1] == 2 else zero
    body = _rotated(node, (x.at(*at, 0), imaginary), table[:length], (n,), c)
    known = min(len(table), x.shape[-3].constant or 0)
    body = guard((Within(n, as_poly(known)),), body, zero)
    return node.temporary(name, shape, x.dtype, Definition(axes, body))
