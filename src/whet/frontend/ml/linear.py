"""Linear models: LinearRegressor and LinearClassifier."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.ml.scores import (
    label_if_above,
    label_of_best,
    take_labels,
    transformed,
    with_opposite,
)
from whet.frontend.translation import Foreign, Translation
from whet.words import counted


def linear_regressor(t: Translation) -> ir.Value:
    """LinearRegressor: ``x W' + b`` and a transform."""
    return transformed(t, _scores(t, t.take("targets", 1)), t.take("post_transform", "NONE"))


def _scores(t: Translation, rows: int) -> ir.Value:
    """Return ``x W' + b`` in float32; ``rows`` is the number of rows of W."""
    weights = np.array(t.take("coefficients", ()), np.float32)
    shift = t.take("intercepts", ())
    x = t.cast(t.input(0), ir.DataType.FLOAT)
    if t.rank(x) == 1:
        x = t.unsqueeze(x, 0)
    if rows < 1 or weights.size % rows:
        raise t.refuse(f"{counted(weights.size, 'coefficient')} for {counted(rows, 'row')}")
    y = t.op("MatMul", x, np.ascontiguousarray(weights.reshape(rows, -1).T))
    return t.op("Add", y, np.array(shift, np.float32)) if shift else y


def linear_classifier(t: Translation) -> tuple[ir.Value, ir.Value]:
    """LinearClassifier: one score a class; a single one ``s`` stands for ``(-s, s)``.

    That is how ONNX's reference has it; ONNX Runtime returns ``(1 - s, s)`` without a transform.
    """
    labels = take_labels(t, "classlabels_ints")
    count = len(t.node.attributes["coefficients"].as_floats())
    shift = t.node.attributes.get("intercepts")
    name = t.take("post_transform", "NONE")
    rows = len(shift.as_floats()) if shift is not None else 0
    rows = rows or len(labels)
    if count % rows:
        raise t.refuse(f"{counted(count, 'coefficient')} for {counted(rows, 'row')}")
    scores = _scores(t, rows)
    if rows > 1:
        return label_of_best(t, scores, labels), transformed(t, scores, name)
    if len(labels) != 2:
        raise t.refuse(f"one score for {counted(len(labels), 'class', 'classes')} is not supported")
    return label_if_above(t, scores, 0.0, labels), with_opposite(t, scores, name)


OPS = (
    Foreign("LinearRegressor", linear_regressor),
    Foreign("LinearClassifier", linear_classifier, ignored=("multi_class",)),
)
