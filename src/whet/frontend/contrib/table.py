"""The contrib operators of ONNX Runtime that have a translation."""

from __future__ import annotations

from whet.frontend.contrib import (
    activations,
    attention,
    bits,
    bnb4,
    general,
    grouped,
    images,
    norms,
    products,
    quantised,
    quantised_products,
    rotary,
)
from whet.frontend.translation import Foreign

CONTRIB_DOMAIN = "com.microsoft"

CONTRIB_OPS: tuple[Foreign, ...] = (
    *activations.OPS,
    *norms.OPS,
    *products.OPS,
    *bits.OPS,
    *bnb4.OPS,
    *attention.OPS,
    *grouped.OPS,
    *rotary.OPS,
    *images.OPS,
    *quantised.OPS,
    *quantised_products.OPS,
    *general.OPS,
)

MISPLACED_OPS: tuple[Foreign, ...] = (norms.SIMPLIFIED,)
"""Operators that ONNX Runtime writes into the standard domain, which does not have them."""
