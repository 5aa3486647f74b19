"""Whether two runtimes computed the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.models.inputs import Array
from benchmarks.models.registry import Family
from benchmarks.records import Agreement


@dataclass(frozen=True, slots=True)
class Tolerance:
    """An element agrees if ``|a - b| <= atol * scale(b) + rtol * |b|``.

    The scale is the output's own, see :func:`scale_of`, so that a model whose outputs are all
    small is not let through.
    """

    rtol: float
    atol: float


FEWEST_ROWS = 32

# f32 with other orders of summation, fused operations and fast convolution algorithms. Deep sums
# in convolution nets, softmax and normalisation chains in transformers, and dependent steps in
# recurrent models gave 1e-6 to 5e-5 of the spread between runtimes over all models but the
# detector (2e-3, in boxes whose decoding squares them).
TOLERANCES: dict[Family, Tolerance] = {
    "convolutional": Tolerance(rtol=1e-3, atol=1e-3),
    "transformer": Tolerance(rtol=1e-3, atol=1e-3),
    "recurrent": Tolerance(rtol=1e-3, atol=1e-4),
}


def scale_of(values: Array) -> Array:
    """Return the deviation of each column along the last axis, or of all if rows are few.

    A detector's boxes of hundreds of pixels stand in one tensor with scores below 1. The deviation
    of both together would let scores be off by several hundredths, and the typical magnitude, that
    of the scores, would hold coordinates near 0 to less than f32 leaves of their subtraction.
    """
    whole = np.asarray(values.std())
    rows = values.reshape(-1, values.shape[-1])
    if len(rows) < FEWEST_ROWS:
        return whole
    columns = rows.std(axis=0)
    return np.where(columns > 0, columns, whole)


def agreement_of(
    outputs: Mapping[str, Array], reference: Mapping[str, Array], tolerance: Tolerance
) -> Agreement:
    """Compare all outputs of a model with the reference outputs."""
    if outputs.keys() != reference.keys():
        return Agreement(passed=False, worst=float("inf"))
    passed, worst = True, 0.0
    for name, expected in reference.items():
        wanted = np.asarray(expected, np.float64)
        got = np.asarray(outputs[name], np.float64)
        if got.shape != wanted.shape or not np.isfinite(got).all():
            return Agreement(passed=False, worst=float("inf"))
        difference, deviation = np.abs(got - wanted), float(wanted.std())
        bound = tolerance.atol * scale_of(wanted) + tolerance.rtol * np.abs(wanted)
        passed = passed and bool((difference <= bound).all())
        worst = max(worst, float(difference.max()) / deviation)
    return Agreement(passed=passed, worst=worst)
