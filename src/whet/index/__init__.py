"""Index arithmetic: integer polynomials over loop axes and run-time dimensions.

Shapes, strides, addresses and loop bounds are all ``Poly``. Because division and remainder are
simplified with the known range of every axis, a reshape that only regroups axes becomes affine by
itself, and a view costs nothing.
"""

from whet.index.atoms import Atom, Axis, Dim, Div, Mod, Opaque
from whet.index.poly import (
    ONE,
    ZERO,
    IndexLike,
    Poly,
    as_poly,
    at_least,
    bounds,
    ceil_div,
    less_than,
    product,
    proved,
    recombine,
    var,
)

__all__ = [
    "ONE",
    "ZERO",
    "Atom",
    "Axis",
    "Dim",
    "Div",
    "IndexLike",
    "Mod",
    "Opaque",
    "Poly",
    "as_poly",
    "at_least",
    "bounds",
    "ceil_div",
    "less_than",
    "product",
    "proved",
    "recombine",
    "var",
]
